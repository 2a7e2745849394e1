"""Starting ``ReCoKDTraining`` as a process: where its script is, with which arguments, and what it says.

Nothing of ``ReCoKDTrainingLib`` is imported: the process is the border.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import InputError, ReCoKDError
from .worker import RunEndedError

SCRIPT = "ReCoKDTraining.py"
CONFIG = "config.json"
# Beside the run folder, which a run wants empty.
CASES_SUFFIX = "-cases"
STOPPED, SPOILED, REFUSED = 130, 1, 2

_VALIDATIONS = 20
_SAYS = "recokd-training: "
_PROGRESS = re.compile(r"<filter-progress>(\d*\.?\d+)</filter-progress>")


@dataclass(frozen=True)
class TrainingChoice:
    """What the user chose.

    Attributes:
        datasets: Folders or scene files.
        output: Folder of the run.
        teacher: Package of the teacher; None trains the student from the segmentations alone.
        width: The student has 1 / 2^width of the teacher's channels.
        epochs: How long.
        steps: Of an epoch.
        skip_bad: Go on without the cases that would spoil the training.
        channels: Names of the channels, where there are several.
        device: auto, cpu, cuda or mps.
    """

    datasets: tuple[Path, ...]
    output: Path
    teacher: Path | None = None
    width: int = 2
    epochs: int = 1000
    steps: int = 250
    skip_bad: bool = False
    channels: tuple[str, ...] = ()
    device: str = "auto"


@dataclass(frozen=True)
class Heard:
    """What a line of the process means: a finished fraction, or text for the log."""

    fraction: float | None = None
    text: str = ""


def find_script(places: Iterable[Path] = ()) -> Path:
    """The script of the module ReCoKDTraining.

    Args:
        places: Where it may be besides: what the application knows.

    Raises:
        InputError: It is not here.
    """
    beside = Path(__file__).resolve().parents[1]  # qt-scripted-modules, or a folder of the source tree
    known = (beside.parent / "cli-modules" / SCRIPT, beside.parent / "ReCoKDTraining" / SCRIPT)
    for path in (*places, *known):
        if path.is_file():
            return path
    raise InputError(
        "The module ReCoKDTraining, which trains students, is not here. Install the extension again, or add the folder "
        "ReCoKDTraining to the module paths as well."
    )


def check_arguments(choice: TrainingChoice) -> list[str]:
    """Arguments that check the cases; ``choice.output`` is the folder of the table."""
    return ["--task", "check", *_data(choice), "--output", str(choice.output), "--progress", "slicer"]


def train_arguments(choice: TrainingChoice) -> list[str]:
    """Arguments that train a student."""
    return [
        *("--task", "distill", *_data(choice), "--output", str(choice.output)),
        *("--width", str(choice.width), "--epochs", str(choice.epochs), "--steps-per-epoch", str(choice.steps)),
        *("--validate-every", str(max(1, choice.epochs // _VALIDATIONS)), "--device", choice.device),
        *("--progress", "slicer"),
    ]


def resume_arguments(folder: Path) -> list[str]:
    """Arguments that go on with the run in a folder.

    Raises:
        InputError: There is none in it.
    """
    if not (folder / CONFIG).is_file():
        raise InputError(f"There is no run in {folder}. Choose the folder of the run that is to go on.")
    return ["--config", str(folder / CONFIG), "--output", str(folder), "--resume", "--progress", "slicer"]


def require_free(folder: Path) -> None:
    """Check that a run may have a folder, and the one for the scene's cases beside it.

    Raises:
        InputError: There is something in the first, or the second exists.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is not empty. Choose another folder, or go on with the run in it (Resume).")
    if cases_folder(folder).exists():
        raise InputError(f"{cases_folder(folder)}, where the scene's cases would go, exists. Choose another folder.")


def cases_folder(output: Path) -> Path:
    """Where the cases of the scene are kept while a run needs them."""
    return output.with_name(output.name + CASES_SUFFIX)


def understand(line: str) -> Heard:
    """What a line of the process means."""
    match = _PROGRESS.fullmatch(line.strip())
    if match is not None:
        return Heard(fraction=float(match[1]))
    return Heard() if line.startswith("<filter-") else Heard(text=line)


def ended_with(code: int, lines: Sequence[str]) -> ReCoKDError:
    """Why a process ended that was not to end: its own words, or its last lines."""
    for place in range(len(lines) - 1, -1, -1):
        if code == REFUSED and lines[place].startswith(_SAYS):
            return ReCoKDError("\n".join((lines[place].removeprefix(_SAYS), *lines[place + 1 :])).strip())
    return RunEndedError(list(lines))


def _data(choice: TrainingChoice) -> list[str]:
    arguments = [part for path in choice.datasets for part in ("--dataset", str(path))]
    if choice.teacher is not None:
        arguments += ["--teacher", str(choice.teacher)]
    if len(choice.channels) > 1:
        arguments += ["--channels", ",".join(choice.channels)]
    return [*arguments, *(["--skip-bad"] if choice.skip_bad else [])]
