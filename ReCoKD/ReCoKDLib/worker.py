"""A student's run in a process of its own: what it is given, what it says while it runs, and what it gives back.

Slicer stays alive whatever happens in the process (a crash of a driver, a kill for lack of memory), cancelling is a
kill, which never waits for the end of a tile, and all memory comes back. Job and result are files in a folder that
belongs to one run::

    job.json       student, options, place of the volume
    volume.npy     voxels
    result.json    written last; labels.npy and probabilities.npy lie beside it

Each line that the process prints is either one of ours, which begins with a mark, or a line for the log. The process
ends by itself, and takes its files with it, when the other end of its standard input is closed: nothing is left behind
when the program that started it dies.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import errors
from .errors import ReCoKDError
from .files import atomic_file, read_json, write_json
from .package import ModelPackage
from .volume import Volume

if TYPE_CHECKING:
    from .segment import SegmentationResult

_JOB, _RESULT = "job.json", "result.json"
_VOLUME, _LABELS, _PROBABILITIES = "volume.npy", "labels.npy", "probabilities.npy"
_MARK = "::recokd "
_LAST_LINES = 8

# What the other program writes to the process's standard input at the start.
HELLO = b"\n"

# Runs without an installed library, and without an environment that would have to be changed.
_CODE = "import sys; sys.path.insert(0, sys.argv[1]); from ReCoKDLib.worker import main; sys.exit(main(sys.argv[2]))"


@dataclass(frozen=True)
class Said:
    """What a line of the process means: the number of the process, a fraction that is done, or text for the log."""

    pid: int | None = None
    fraction: float | None = None
    text: str = ""


def write_job(folder: Path, volume: Volume, student: Path, options: Mapping[str, Any]) -> None:
    """Write a run's input.

    Args:
        folder: Of this run alone.
        volume: All channels.
        student: Path of the package.
        options: Of :func:`ReCoKDLib.segment.segment`; what JSON can write.
    """
    np.save(folder / _VOLUME, volume.array, allow_pickle=False)
    place = {"ijk_to_ras": volume.ijk_to_ras.tolist(), "name": volume.name}
    write_json(folder / _JOB, {"student": str(student.resolve()), "options": dict(options), "volume": place})


def command(python: str, folder: Path) -> list[str]:
    """The command line that runs the job in ``folder``: program and arguments."""
    return [python, "-u", "-X", "utf8", "-c", _CODE, str(Path(__file__).resolve().parents[1]), str(folder)]


def understand(line: str) -> Said:
    """What a line of the process means."""
    if not line.startswith(_MARK):
        return Said(text=line)
    try:
        said = json.loads(line[len(_MARK) :])
        return Said(pid=said.get("pid"), fraction=said.get("fraction"))
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
    heads = np.load(folder / _PROBABILITIES, allow_pickle=False) if (folder / _PROBABILITIES).is_file() else None
    wanted = package.label_set.subset(result["segments"])
    return SegmentationResult(
        labels=volume.with_array(np.load(folder / _LABELS, allow_pickle=False), name=result["name"]),
        label_set=replace(package.label_set, segments=wanted),
        volume=volume,
        student=package.card.name,
        warnings=tuple(result["warnings"]),
        seconds=float(result["seconds"]),
        probabilities=None if heads is None else volume.with_array(heads),
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
    """Run the job in a folder; returns the exit code. Called in the process."""
    say(pid=os.getpid())
    place = Path(folder)
    threading.Thread(target=_end_with_parent, args=(place,), daemon=True).start()
    try:
        _run(place)
    except BrokenPipeError:
        _leave(place)
    except ReCoKDError as error:
        write_json(place / _RESULT, {"error": type(error).__name__, "message": str(error)})
        return 1
    return 0


def _run(folder: Path) -> None:
    job = read_json(folder / _JOB)
    array = np.load(folder / _VOLUME, mmap_mode="r", allow_pickle=False)
    volume = Volume(array, np.array(job["volume"]["ijk_to_ras"]), job["volume"]["name"])
    package = ModelPackage.open(job["student"])
    print(f"{package.card.name} from {package.path}", flush=True)
    print(f"Volume of {' x '.join(map(str, volume.shape))} voxels (k, j, i). Loading PyTorch.", flush=True)
    from .segment import segment

    result = segment(
        volume,
        package,
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


def _end_with_parent(folder: Path) -> None:
    if is_dismissed():
        _leave(folder)


def _leave(folder: Path) -> None:
    """End at once, with all that belongs to the run: nobody is there to read the result."""
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(3)
