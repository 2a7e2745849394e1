"""Students' runs in a process of their own: what it is given, what it says while it runs, and what it gives back.

Slicer stays alive whatever happens in the process (a crash of a driver, a kill for lack of memory), and cancelling is a
kill, which never waits for the end of a tile. After a run the process waits some minutes for another one, with the
student loaded and what is known of the last volume kept; then all memory comes back. Each run has a folder, 1, 2, ...,
in the folder of the process::

    volume.npy     voxels
    job.json       student, options, place of the volume; written last, by which the run begins
    preview-n.npy  what is known so far of some slices, where that is wanted; who reads it deletes it
    result.json    written last; labels.npy and probabilities.npy lie beside it

Each line that the process prints is either one of ours, which begins with a
mark, or a line for the log. The process ends by itself, and takes its files with it, when the other end of its standard
input is closed: nothing is left behind when the program that started it dies.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import errors
from .errors import ReCoKDError
from .files import atomic_file, read_json, write_json
from .package import ModelPackage
from .part import region_of
from .volume import Volume

if TYPE_CHECKING:
    from .preview import Preview
    from .segment import SegmentationResult

_JOB, _RESULT = "job.json", "result.json"
_VOLUME, _LABELS, _PROBABILITIES = "volume.npy", "labels.npy", "probabilities.npy"
_MARK = "::recokd "
_LAST_LINES = 8
_LOOK_SECONDS = 0.05  # how often the process looks for the next run

WAIT_SECONDS = 300.0  # how long the process waits for the next run

# What the other program writes to the process's standard input at the start.
HELLO = b"\n"

# Runs without an installed library, and without an environment that would have to be changed.
_CODE = "import sys; sys.path.insert(0, sys.argv[1]); from ReCoKDLib.worker import main; sys.exit(main(sys.argv[2]))"


@dataclass(frozen=True)
class Said:
    """What a line of the process means.

    Attributes:
        pid: Number of the process.
        fraction: So much is done.
        preview: Name of a file.
        done: The result lies there.
        text: For the log.
    """

    pid: int | None = None
    fraction: float | None = None
    preview: str | None = None
    done: bool = False
    text: str = ""


def write_volume(folder: Path, volume: Volume) -> None:
    """Write the voxels of a run's input.

    Args:
        folder: Of this run alone.
        volume: All channels.
    """
    np.save(folder / _VOLUME, volume.array, allow_pickle=False)


def write_job(folder: Path, volume: Volume, student: Path, options: Mapping[str, Any]) -> None:
    """Write the rest of a run's input: the process begins with it.

    Args:
        folder: Of this run alone; the voxels are there.
        volume: As in :func:`write_volume`.
        student: Path of the package.
        options: Of :func:`ReCoKDLib.segment.segment`; what JSON can write.

    Raises:
        OutputError: It cannot be written.
    """
    place = {"ijk_to_ras": volume.ijk_to_ras.tolist(), "name": volume.name}
    write_json(folder / _JOB, {"student": str(student.resolve()), "options": dict(options), "volume": place})


def command(python: str, home: Path) -> list[str]:
    """The command line of a process that runs the jobs in ``home``: program and arguments."""
    return [python, "-u", "-X", "utf8", "-c", _CODE, str(Path(__file__).resolve().parents[1]), str(home)]


def job_folder(home: Path, number: int) -> Path:
    """Folder of a run; ``number`` is 1 for the first of the process."""
    return home / str(number)


def understand(line: str) -> Said:
    """What a line of the process means."""
    if not line.startswith(_MARK):
        return Said(text=line)
    try:
        said = json.loads(line[len(_MARK) :])
        return Said(said.get("pid"), said.get("fraction"), said.get("preview"), said.get("done", False))
    except (ValueError, AttributeError):
        return Said(text=line)


def read_result(folder: Path, volume: Volume, package: ModelPackage, lines: list[str]) -> SegmentationResult:
    """What the process found.

    Args:
        folder: As in :func:`write_job`.
        volume: As in :func:`write_job`.
        package: The student.
        lines: What the process printed; the last ones are shown where there is no result.

    Raises:
        ReCoKDError: The process refused its input (its own error), or it ended without a result.
    """
    from .segment import SegmentationResult

    if not (folder / _RESULT).is_file():
        raise RunEndedError(lines)
    result = read_json(folder / _RESULT)
    if "error" in result:
        kind = getattr(errors, result["error"], ReCoKDError)
        raise kind(result["message"])
    seen = region_of(volume, read_json(folder / _JOB)["options"].get("region"))
    heads = np.load(folder / _PROBABILITIES, allow_pickle=False) if (folder / _PROBABILITIES).is_file() else None
    wanted = package.label_set.subset(result["segments"])
    return SegmentationResult(
        labels=seen.with_array(np.load(folder / _LABELS, allow_pickle=False), name=result["name"]),
        label_set=replace(package.label_set, segments=wanted),
        volume=seen,
        student=package.card.name,
        warnings=tuple(result["warnings"]),
        seconds=float(result["seconds"]),
        probabilities=None if heads is None else seen.with_array(heads),
    )


class RunEndedError(ReCoKDError):
    """The process ended without a result; the message has its last lines."""

    def __init__(self, lines: list[str]) -> None:
        last = "\n".join(line for line in lines if line.strip()).splitlines()[-_LAST_LINES:]
        said = "\n\nIts last lines:\n" + "\n".join(last) if last else " It had printed nothing."
        super().__init__(
            "The background process ended before it was done: it crashed, or it was ended from outside, as happens "
            f"when the memory is full. The scene is as it was. Try again, close other programs first.{said}"
        )


def main(folder: str) -> int:
    """Run the jobs in the folder of a process until none comes any more; returns the exit code. Called in the process.

    What is not an error of ours ends the process: nobody knows what state it is in.
    """
    say(pid=os.getpid())
    home = Path(folder)
    threading.Thread(target=_end_with_parent, args=(home,), daemon=True).start()
    state: dict[str, Any] = {}
    number = 1
    try:
        while _comes(job_folder(home, number)):
            _answer(job_folder(home, number), state)
            number += 1
    except BrokenPipeError:
        _leave(home)
    # Who started it does so too, if it still lives.
    shutil.rmtree(home, ignore_errors=True)
    return 0


def _comes(folder: Path) -> bool:
    """Wait for a run; False where none comes."""
    until = time.monotonic() + WAIT_SECONDS
    while not (folder / _JOB).is_file():
        if time.monotonic() > until:
            return False
        time.sleep(_LOOK_SECONDS)
    return True


def _answer(folder: Path, state: dict[str, Any]) -> None:
    try:
        _run(folder, state)
    except ReCoKDError as error:
        write_json(folder / _RESULT, {"error": type(error).__name__, "message": str(error)})
    say(done=True)


def _run(folder: Path, state: dict[str, Any]) -> None:
    job = read_json(folder / _JOB)
    array = np.load(folder / _VOLUME, mmap_mode="r", allow_pickle=False)
    volume = Volume(array, np.array(job["volume"]["ijk_to_ras"]), job["volume"]["name"])
    package = ModelPackage.open(job["student"])
    print(f"{package.card.name} from {package.path}", flush=True)
    print(f"Volume of {' x '.join(map(str, volume.shape))} voxels (k, j, i).", flush=True)
    if "kept" not in state:
        print("Loading PyTorch.", flush=True)
        from .kept import Kept

        state["kept"] = Kept()
    from .segment import segment

    result = segment(
        volume,
        package,
        kept=state["kept"],
        preview=partial(_tell, folder) if job["options"].get("look_at") else None,
        progress=lambda fraction: say(fraction=fraction),
        warn=lambda warning: print(warning, flush=True),
        **job["options"],
    )
    _save(folder / _LABELS, result.labels.array)
    if result.probabilities is not None:
        _save(folder / _PROBABILITIES, result.probabilities.array)
    found = {
        "segments": [segment.name for segment in result.label_set.segments],
        "name": result.labels.name,
        "warnings": result.warnings,
        "seconds": result.seconds,
    }
    write_json(folder / _RESULT, found)
    print(f"Done in {result.seconds:.1f} s.", flush=True)


def _tell(folder: Path, preview: Preview) -> None:
    name = f"preview-{time.monotonic_ns()}.npy"
    with contextlib.suppress(ReCoKDError):  # a full disk costs the preview, not the run
        _save(folder / name, np.column_stack((preview.voxels, preview.values)))
        say(preview=name)


def read_preview(folder: Path, name: str) -> Preview:
    """What the process knew of the slices; it can be read once.

    Raises:
        OSError: The file is not there.
    """
    from .preview import Preview

    rows = np.load(folder / name, allow_pickle=False)
    (folder / name).unlink(missing_ok=True)
    return Preview(rows[:, :3], rows[:, 3])


def _save(path: Path, array: Any) -> None:
    with atomic_file(path) as temporary:
        np.save(temporary, array, allow_pickle=False)


def say(**what: Any) -> None:
    """Tell the other program; see :class:`Said`."""
    print(_MARK + json.dumps(what), flush=True)


def is_dismissed(stop: bytes = b"") -> bool:
    """Wait until the other program sends ``stop``, or the standard input ends: it closed it, or died.

    False at once where nothing will be heard: there is no standard input, or a launcher in between passed nothing on.
    """
    # Not sys.stdin: this waits in a thread, which would hold its lock when Python ends, and Python then aborts.
    try:
        if not os.read(0, 1):
            return False
        while os.read(0, 1) not in (stop, b""):
            pass
    except OSError:
        return False
    return True


def _end_with_parent(home: Path) -> None:
    if is_dismissed():
        _leave(home)


def _leave(home: Path) -> None:
    """End at once, with all files: nobody is there to read the result."""
    shutil.rmtree(home, ignore_errors=True)
    os._exit(3)
