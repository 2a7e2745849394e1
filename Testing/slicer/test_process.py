"""A student's run in a process of its own: what comes back, and what a cancel, a kill and a crash leave behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geometries import oblique_left_handed
from processes import alive, gone, run_on_host
from ReCoKDLib import worker
from ReCoKDLib.errors import Cancelled, InputError, OutputError
from ReCoKDLib.students import find_student
from ReCoKDLib.volume import Volume

TwoBlobs = Callable[..., tuple[Volume, Volume]]

# Instead of a student, what reports a tile each time and never ends: loading torch takes seconds.
ENDLESS = """
import sys, time, types
sys.path.insert(0, sys.argv[1])
from ReCoKDLib.worker import main
def segment(volume, package, progress, warn, **options):
    while True:
        progress(0.25)
        time.sleep(0.02)
sys.modules["ReCoKDLib.segment"] = types.ModuleType("ReCoKDLib.segment")
sys.modules["ReCoKDLib.segment"].segment = segment
sys.exit(main(sys.argv[2]))
"""


# Instead of a student, what tells a preview and waits until it was read.
PREVIEWING = ENDLESS.replace(
    "        progress(0.25)\n",
    "        progress(0.25)\n"
    "        preview(Preview(np.array([[1, 2, 3], [4, 5, 6]], np.int32), np.array([2, 1], np.int32)))\n",
).replace(
    "def segment(volume, package, progress, warn, **",
    """import numpy as np
from ReCoKDLib.preview import Preview
def segment(volume, package, progress, warn, preview, **""",
)


# Instead of a student, what refuses every volume; its process stays.
REFUSING = ENDLESS.replace("        progress(0.25)\n", "        raise InputError('no')\n").replace(
    "def segment", "from ReCoKDLib.errors import InputError\ndef segment"
)


# Waits less long.
SOON = "from ReCoKDLib import worker; worker.WAIT_SECONDS = 0.3; from ReCoKDLib.worker import main"


class Told:
    """What a run reported."""

    def __init__(self) -> None:
        self.previews: list[Any] = []
        self.fractions: list[float] = []
        self.lines: list[str] = []
        self.results: list[Any] = []
        self.errors: list[BaseException] = []

    @property
    def over(self) -> bool:
        return bool(self.results or self.errors)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files, empty at the start."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs report and never end."""
    monkeypatch.setattr(worker, "_CODE", ENDLESS)


@pytest.fixture
def run(host: Any, blob_student: str, temporary: Path) -> Iterator[Callable[..., tuple[Any, Told]]]:
    """A function that starts a run of the student of two blobs."""
    from ReCoKDLib.widgets.process import BackgroundRun, end_waiting

    started = []

    def start(volume: Volume, **options: Any) -> tuple[Any, Told]:
        told = Told()
        made = BackgroundRun(
            volume,
            find_student(blob_student),
            options,
            on_progress=told.fractions.append,
            on_line=told.lines.append,
            on_done=told.results.append,
            on_failed=told.errors.append,
            on_preview=told.previews.append,
        )
        started.append(made)
        made.start()
        return made, told

    yield start
    for made in started:
        made.abandon()
    end_waiting()
    assert list(temporary.iterdir()) == []


def waits(made: Any, temporary: Path) -> bool:
    """Whether a run's process lives on, with an empty folder."""
    return alive(made.pid) and not [path for path in temporary.rglob("*") if path.is_file()]


def test_the_result_is_that_of_the_function(
    host: Any, run: Any, two_blobs: TwoBlobs, blob_student: str, temporary: Path
) -> None:
    """On an oblique, left-handed grid; with all that the function gives."""
    from ReCoKDLib.segment import segment

    image, labels = two_blobs(oblique_left_handed())
    made, told = run(image, probabilities=True)
    host.run_until(lambda: told.over)
    assert told.errors == []
    assert waits(made, temporary)
    assert not [line for line in told.lines if "Fatal" in line]
    (found,) = told.results
    expected = segment(image, blob_student, probabilities=True)
    assert np.array_equal(found.labels.array, expected.labels.array)
    assert found.labels.same_grid(image)
    assert found.labels.array.any()
    assert expected.probabilities is not None
    assert np.array_equal(found.probabilities.array, expected.probabilities.array)
    assert found.label_set == expected.label_set
    assert (found.student, found.warnings) == (expected.student, expected.warnings)
    assert told.fractions[-1] == 1.0
    assert any("two" not in line and "blobs-x4 from" in line for line in told.lines)
    assert not [line for line in told.lines if "recokd " in line]


def test_options_reach_the_function(host: Any, run: Any, two_blobs: TwoBlobs) -> None:
    _, told = run(two_blobs()[0], labels=["anterior"], device="cpu")
    host.run_until(lambda: told.over)
    assert [segment.name for segment in told.results[0].label_set.segments] == ["Anterior"]
    assert set(np.unique(told.results[0].labels.array)) == {0, 1}
    assert told.results[0].probabilities is None


def test_its_own_errors_arrive_as_they_are(host: Any, run: Any, two_blobs: TwoBlobs, temporary: Path) -> None:
    image, _ = two_blobs()
    image.array[0, 0, 0, 0] = np.nan
    made, told = run(image)
    host.run_until(lambda: told.over)
    (error,) = told.errors
    assert type(error) is InputError
    assert "1 voxel(s) that are not numbers" in str(error)
    assert waits(made, temporary)


def test_cancelling_takes_no_time_and_leaves_nothing(
    host: Any, run: Any, two_blobs: TwoBlobs, temporary: Path, endless: None
) -> None:
    made, told = run(two_blobs()[0])
    host.run_until(lambda: bool(told.fractions))
    assert alive(made.pid)
    begun = time.monotonic()
    made.cancel()
    assert time.monotonic() - begun < 2
    assert [type(error) for error in told.errors] == [Cancelled]
    assert gone(made.pid)
    host.run_for(0.1)
    assert (len(told.errors), told.results) == (1, [])
    assert list(temporary.iterdir()) == []


def test_cancelling_before_it_has_said_anything(host: Any, run: Any, two_blobs: TwoBlobs, temporary: Path) -> None:
    made, told = run(two_blobs()[0])
    made.cancel()
    assert [type(error) for error in told.errors] == [Cancelled]
    assert list(temporary.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_a_process_that_is_killed_from_outside_says_so(
    host: Any, run: Any, two_blobs: TwoBlobs, temporary: Path, endless: None
) -> None:
    made, told = run(two_blobs()[0])
    host.run_until(lambda: bool(told.fractions))
    os.kill(made.pid, signal.SIGKILL)
    host.run_until(lambda: told.over, 5)
    (error,) = told.errors
    assert "ended before it was done" in str(error)
    assert "Loading PyTorch." in str(error).split("Its last lines:")[1]
    assert list(temporary.iterdir()) == []


def test_a_program_that_does_not_start(host: Any, run: Any, two_blobs: TwoBlobs, monkeypatch: Any) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    _, told = run(two_blobs()[0])
    host.run_until(lambda: told.over, 5)
    assert len(told.errors) == 1
    assert "ended before it was done" in str(told.errors[0])


def test_a_crash_shows_its_last_lines(
    host: Any, run: Any, two_blobs: TwoBlobs, monkeypatch: Any, temporary: Path
) -> None:
    code = "import sys; print('n\\u00e4her', *map(str, range(20)), sep='\\n'); sys.stdout.flush(); 1 / 0"
    monkeypatch.setattr(worker, "_CODE", code)
    _, told = run(two_blobs()[0])
    host.run_until(lambda: told.over, 20)
    (error,) = told.errors
    assert "ZeroDivisionError" in str(error)
    assert "näher" not in str(error)  # only the last ones
    assert "näher" in told.lines


def test_a_full_disk_is_said_in_words_and_leaves_nothing(
    host: Any, run: Any, two_blobs: TwoBlobs, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ReCoKDLib.errors import InputError
    from ReCoKDLib.widgets import process

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(process, "write_volume", full)
    with pytest.raises(InputError, match="No space left on device.*Make room on the disk"):
        run(two_blobs()[0])
    assert list(temporary.iterdir()) == []


def test_a_disk_that_does_not_take_the_question_is_said(
    host: Any, run: Any, two_blobs: TwoBlobs, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OutputError("job.json could not be written (No space left on device).")

    monkeypatch.setattr("ReCoKDLib.widgets.process.write_job", full)
    _, told = run(two_blobs()[0])
    assert [str(error) for error in told.errors] == ["job.json could not be written (No space left on device)."]
    assert list(temporary.iterdir()) == []


def test_a_run_begins_with_its_question_and_no_folder_is_renamed(
    host: Any, run: Any, two_blobs: TwoBlobs, blob_student: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A virus scanner that reads the voxels would keep Windows from it."""
    from ReCoKDLib.widgets import process

    monkeypatch.setattr(Path, "rename", lambda self, target: pytest.fail(f"{self} is renamed"))
    monkeypatch.setattr(worker, "_CODE", REFUSING)
    first, told = run(two_blobs()[0])
    host.run_until(lambda: told.over)
    (waiting,) = process._waiting
    folder = waiting.prepare(two_blobs()[0])
    host.run_for(0.3)  # many looks of the process
    assert [path.name for path in folder.iterdir()] == ["volume.npy"]
    assert alive(first.pid)
    waiting.go(two_blobs()[0], find_student(blob_student), {})
    host.run_until((folder / "result.json").is_file)


# Refuses what the first run of a process asks, and crashes in the second.
WEARS_OUT = (
    REFUSING.replace("def segment", "runs = []\ndef segment")
    .replace("    while True:\n", "    runs.append(1)\n    while True:\n        if len(runs) > 1: os._exit(9)\n")
    .replace("import sys,", "import os, sys,")
)


def test_a_process_that_had_waited_and_dies_is_replaced_once(
    host: Any, run: Any, two_blobs: TwoBlobs, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "_CODE", WEARS_OUT)
    first, told = run(two_blobs()[0])
    host.run_until(lambda: told.over)
    old = first.pid
    second, again = run(two_blobs()[0])
    assert second.pid == old
    host.run_until(lambda: again.over)
    assert [str(error) for error in again.errors] == ["no"]  # what the new one says
    assert second.pid != old
    assert gone(old)
    assert any("A new one begins again." in line for line in again.lines)
    # Where the new one dies as well, that is told.
    monkeypatch.setattr(worker, "_CODE", worker._CODE.replace("len(runs) > 1", "True"))
    monkeypatch.setattr("ReCoKDLib.widgets.process.StudentProcess.is_as_new", lambda self: True)
    third, crashed = run(two_blobs()[0])
    host.run_until(lambda: crashed.over)
    assert third.pid not in (old, second.pid)
    (error,) = crashed.errors
    assert "ended before it was done" in str(error)
    assert list(temporary.iterdir()) == []


def test_an_abandoned_run_is_silent(host: Any, run: Any, two_blobs: TwoBlobs, temporary: Path, endless: None) -> None:
    made, told = run(two_blobs()[0])
    host.run_until(lambda: bool(told.fractions))
    made.abandon()
    host.run_for(0.1)
    assert not told.over
    assert gone(made.pid)
    assert list(temporary.iterdir()) == []


def test_two_at_once(host: Any, run: Any, two_blobs: TwoBlobs) -> None:
    (first, one), (second, other) = run(two_blobs()[0]), run(two_blobs(oblique_left_handed())[0])
    host.run_until(lambda: one.over and other.over)
    assert first.pid != second.pid
    assert [alive(one.pid) for one in (first, second)].count(True) == 1  # one is enough to wait
    assert one.results[0].labels.same_grid(two_blobs()[0])
    assert other.results[0].labels.same_grid(two_blobs(oblique_left_handed())[0])


def test_the_process_stays_for_the_next_run(
    host: Any, run: Any, two_blobs: TwoBlobs, blob_student: str, temporary: Path
) -> None:
    """With PyTorch and the student loaded; a wrong volume in between does no harm, a cancel ends it."""
    from ReCoKDLib.segment import segment

    first, told = run(two_blobs()[0])
    host.run_until(lambda: told.over)
    broken = two_blobs()[0]
    broken.array[0, 0, 0, 0] = np.nan
    second, refused = run(broken)
    host.run_until(lambda: refused.over)
    assert [type(error) for error in refused.errors] == [InputError]
    image = two_blobs(oblique_left_handed(), seed=4)[0]
    region = ((2, 15), (3, 18), (1, 20))
    begun = time.monotonic()
    third, last = run(image, region=region)
    host.run_until(lambda: last.over)
    assert time.monotonic() - begun < 5
    assert first.pid == second.pid == third.pid
    assert not [line for line in last.lines if "Loading PyTorch" in line]
    (found,) = last.results
    expected = segment(image, blob_student, region=region)
    assert np.array_equal(found.labels.array, expected.labels.array)
    assert found.labels.same_grid(expected.labels)
    assert waits(third, temporary)
    fourth, cancelled = run(image)
    fourth.cancel()
    assert [type(error) for error in cancelled.errors] == [Cancelled]
    assert gone(first.pid)
    assert list(temporary.iterdir()) == []


def test_a_process_that_nobody_wants_ends_by_itself(
    host: Any, run: Any, two_blobs: TwoBlobs, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "_CODE", worker._CODE.replace("from ReCoKDLib.worker import main", SOON))
    made, told = run(two_blobs()[0])
    process = made._process._process
    host.run_until(lambda: told.over)
    host.run_until(lambda: process.state() == host.qt.QProcess.NotRunning)
    assert told.errors == []
    assert process.exitStatus() == host.qt.QProcess.NormalExit
    assert process.exitCode() == 0
    assert not [line for line in told.lines if "Fatal" in line]
    host.run_until(lambda: not list(temporary.iterdir()))


def test_previews_arrive_while_it_works(
    host: Any, run: Any, two_blobs: TwoBlobs, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "_CODE", PREVIEWING)
    made, told = run(two_blobs()[0], look_at=[[[0, 0, 0], [0, 0, 1]]])
    host.run_until(lambda: len(told.previews) > 1)
    assert not told.over
    assert told.previews[0].voxels.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert told.previews[0].values.tolist() == [2, 1]
    made.cancel()
    shown = len(told.previews)
    host.run_for(0.1)
    assert len(told.previews) == shown
    assert list(temporary.iterdir()) == []


def test_a_process_that_nobody_wants_takes_its_folder_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where nobody is there to do it: the program died, and a launcher in between kept the standard input open."""
    monkeypatch.setattr(worker, "_CODE", worker._CODE.replace("from ReCoKDLib.worker import main", SOON))
    home = tmp_path / "home"
    home.mkdir()
    (home / "rest").write_text("of a run", encoding="utf-8")
    with subprocess.Popen(worker.command(sys.executable, home), stdin=subprocess.PIPE) as process:
        assert process.wait(60) == 0
    assert not home.exists()


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_no_process_is_left_when_the_program_dies(
    blob_student: str, two_blobs: TwoBlobs, repository: Path, tmp_path: Path
) -> None:
    """Slicer crashes in mid-run: its run ends too, and takes its copy of the volume with it."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    code = f"ENDLESS = {ENDLESS!r}\n" + textwrap.dedent("""
        import os, signal
        import numpy as np
        from slicer_host import Host
        host = Host()
        from ReCoKDLib import worker
        worker._CODE = ENDLESS
        from ReCoKDLib.students import find_student
        from ReCoKDLib.volume import Volume
        from ReCoKDLib.widgets.process import BackgroundRun
        volume = Volume(np.random.default_rng(0).random((1, 12, 20, 20), np.float32), np.eye(4))
        said = []
        nothing = lambda *_: None
        run = BackgroundRun(volume, find_student("blobs-x4"), {}, on_progress=said.append, on_line=nothing,
                            on_done=nothing, on_failed=nothing)
        run.start()
        host.run_until(lambda: said)
        print(run.pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    died = run_on_host(code, repository, TMPDIR=str(temporary))
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert gone(int(died.stdout))
    until = time.monotonic() + 5
    while list(temporary.glob("recokd-run-*")) and time.monotonic() < until:
        time.sleep(0.02)
    assert list(temporary.glob("recokd-run-*")) == []
