"""``recokd batch`` as its users run it: from a console, in Slicer's way, killed and gone on with, on a cluster."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from dicom_series import write_series
from geometries import oblique
from plans import TWO_LABELS
from ReCoKDLib.batch import run as run_module
from ReCoKDLib.batch.cases import BatchCase, find_cases
from ReCoKDLib.batch.pool import run_in_processes
from ReCoKDLib.batch.records import Record
from ReCoKDLib.batch.run import BatchSettings, run_batch
from ReCoKDLib.batch.work import Job, NoSpace, work
from ReCoKDLib.cli import main
from ReCoKDLib.errors import InputError, OutputError, PackageError
from ReCoKDLib.image_io import read_volume, write_volume
from ReCoKDLib.package import ModelPackage
from ReCoKDLib.volume import Volume
from threshold_student import threshold_package

TwoBlobs = Callable[..., tuple[Volume, Volume]]


@pytest.fixture
def student(two_blobs: TwoBlobs, tmp_path: Path) -> Path:
    return threshold_package(tmp_path / "blobs.recokd.zip", *two_blobs(), TWO_LABELS)


@pytest.fixture
def folder(two_blobs: TwoBlobs, tmp_path: Path) -> Path:
    """Two images at two depths, a DICOM series, a file that is no image, and a label map."""
    place = tmp_path / "in größer"
    (place / "b").mkdir(parents=True)
    for n in range(2):
        write_volume(two_blobs(seed=n)[0], place / ("b" if n % 2 else "") / f"case {n}.nii.gz")
    write_volume(two_blobs()[1], place / "case 0_label.nii.gz")
    write_series(place / "scan", two_blobs(oblique())[0])
    (place / "broken.nrrd").write_text("no image")
    return place


def arguments(folder: Path, student: Path, output: Path, *more: str) -> list[str]:
    some = ["--input", str(folder), "--student", str(student), "--output", str(output), "--device", "cpu"]
    return [*some, "--format", "nii.gz", *more]


def records(output: Path) -> dict[str, Any]:
    content = json.loads((output / "batch.json").read_text(encoding="utf-8"))
    return {record["name"]: record for record in content["records"]}


def segmentations(output: Path) -> dict[str, bytes]:
    return {path.relative_to(output).as_posix(): path.read_bytes() for path in output.rglob("*.nii.gz")}


CASES = {"case 0", "b/case 1", "scan"}


def test_a_batch_and_what_it_leaves(
    folder: Path, student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert main(["batch", *arguments(folder, student, output)]) == 1
    told = capsys.readouterr().out
    assert "4 cases found" in told
    assert "1 files left out, label maps by their names: case 0_label.nii.gz" in told
    assert "broken: FAILED:" in told
    assert f"3 of 4 cases done, 1 failed: {output / 'batch.html'}" in told
    assert segmentations(output).keys() == {f"{name}.nii.gz" for name in CASES}
    found = records(output)
    assert {name for name, record in found.items() if record["status"] == "done"} == CASES
    assert {path.relative_to(output).as_posix() for path in output.rglob("*.png")} == {f"{name}.png" for name in CASES}
    with (output / "batch.csv").open(encoding="utf-8", newline="") as stream:
        rows = {row["case"]: row for row in csv.DictReader(stream)}
    assert float(rows["scan"]["anterior_ml"]) == pytest.approx(found["scan"]["volumes_ml"]["anterior"])
    assert "could not be read" in rows["broken"]["error"]
    sheet = (output / "batch.html").read_text(encoding="utf-8")
    assert sheet.index("<h2>broken</h2>") < sheet.index("<h2>scan</h2>")
    assert "src='b/case%201.png'" in sheet
    assert read_volume(output / "scan.nii.gz").same_grid(read_volume(folder / "scan"), tolerance=0.01)

    # Again: nothing is done twice, and what failed is tried again.
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*.nii.gz")}
    (folder / "broken.nrrd").unlink()
    write_volume(read_volume(folder / "case 0.nii.gz"), folder / "broken.nrrd")
    assert main(["batch", *arguments(folder, student, output, "--workers", "2")]) == 0
    assert capsys.readouterr().out.count("done before") == 3
    assert all(path.stat().st_mtime_ns == time_ns for path, time_ns in before.items())
    assert (output / "broken.nii.gz").is_file()


def test_wrong_usage(folder: Path, student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(message: str, *given: Any, **options: Any) -> None:
        assert main(["batch", *arguments(*given, **options)]) == 2
        assert message in capsys.readouterr().err

    refused("is, or holds, the input folder", folder, student, folder)
    refused("is, or holds, the input folder", folder, student, folder.parent)
    refused("is not a folder", folder / "case 0.nii.gz", student, tmp_path / "out")
    (tmp_path / "empty").mkdir()
    refused("holds no image file", tmp_path / "empty", student, tmp_path / "out")
    (tmp_path / "file").write_text("")
    refused("is a file", folder, student, tmp_path / "file")
    refused("There is no model package", folder, tmp_path / "none.zip", tmp_path / "out")
    assert main(["batch", *arguments(folder, student, tmp_path / "out"), "--labels", "spleen"]) == 2
    assert "no label 'spleen'" in capsys.readouterr().err
    for wrong in (["--workers", "0"], ["--format", "jpg"]):
        with pytest.raises(SystemExit) as stop:
            main(["batch", *arguments(folder, student, tmp_path / "out"), *wrong])
        assert stop.value.code == 2
    assert not (tmp_path / "out").exists()


def test_one_batch_at_a_time_for_an_output(folder: Path, student: Path, tmp_path: Path) -> None:
    filelock = pytest.importorskip("filelock")
    (tmp_path / "out" / ".recokd-batch").mkdir(parents=True)
    with (
        filelock.FileLock(tmp_path / "out" / ".recokd-batch" / "lock"),
        pytest.raises(OutputError, match="Another batch is writing"),
    ):
        run_batch(BatchSettings(folder, tmp_path / "out", student, ".nii.gz"))


def test_an_output_inside_of_the_input_is_not_taken_for_input(
    folder: Path, student: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        run_module, "run_in_processes", lambda cases, job, _: ((case, work(case, job)) for case in cases)
    )
    settings = BatchSettings(folder, folder / "results", student, ".nii.gz", device="cpu", pictures=False)
    assert len(run_batch(settings)) == len(run_batch(settings)) == 4


def test_a_full_disk_keeps_what_is_done_and_its_summary(
    folder: Path, student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full_after_two(cases: Sequence[BatchCase], job: Job, _: int) -> Iterator[tuple[BatchCase, Record]]:
        for case in cases[:2]:
            yield case, work(case, job)
        raise NoSpace("There is no space left.")

    monkeypatch.setattr(run_module, "run_in_processes", full_after_two)
    assert main(["batch", *arguments(folder, student, tmp_path / "out", "--no-pictures")]) == 2
    assert "There is no space left" in capsys.readouterr().err
    assert records(tmp_path / "out").keys() == {"b/case 1", "broken"}


def test_a_scheduler_that_is_not_there(folder: Path, student: Path, tmp_path: Path, monkeypatch: Any) -> None:
    pytest.importorskip("distributed")
    from ReCoKDLib.batch import cluster
    from ReCoKDLib.errors import MissingDependencyError, ReCoKDError

    monkeypatch.setattr(cluster, "_CONNECT_SECONDS", 0.5)
    settings = BatchSettings(folder, tmp_path / "out", student, ".nii.gz", scheduler="tcp://127.0.0.1:9")
    with pytest.raises(ReCoKDError, match=r"tcp://127.0.0.1:9 does not answer"):
        run_batch(settings)
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingDependencyError, match=r"recokd\[dask\]"):
        run_batch(settings)


def test_a_worker_that_is_killed_costs_no_case(folder: Path, student: Path, tmp_path: Path) -> None:
    """As the system does it for want of memory."""
    (folder / "broken.nrrd").unlink()
    job = Job(tmp_path / "out", student, ModelPackage.open(student).checksum, ".nii.gz", device="cpu", pictures=False)
    found: dict[str, Record] = {}
    for case, record in run_in_processes(find_cases(folder).cases, job, 1):
        if not found:
            (process,) = multiprocessing.active_children()
            process.kill()
        found[case.name] = record
    assert {name: record.status for name, record in found.items()} == dict.fromkeys(CASES, "done")
    assert len({record.worker for record in found.values()}) == 2


def run_script(script: Path, *given: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(script), *given],
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        timeout=300,
    )


def test_the_script_for_slicer(repository: Path, folder: Path, student: Path, tmp_path: Path) -> None:
    script = repository / "ReCoKD" / "ReCoKDLib" / "slicer_batch.py"
    output = tmp_path / "out"
    done = run_script(script, *arguments(folder, student, output, "--no-pictures"))
    assert done.returncode == 1, done.stderr  # one of the cases is broken
    assert "3 of 4 cases done, 1 failed" in done.stdout
    assert segmentations(output).keys() == {f"{name}.nii.gz" for name in CASES}
    wrong = run_script(script, "--input", str(folder))
    assert wrong.returncode == 2
    assert "--student" in wrong.stderr


@contextmanager
def started(*command: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A process that is ended at the end, whatever happens."""
    process = subprocess.Popen(command, text=True, encoding="utf-8", **options)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_until(condition: Callable[[], Any], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "that took too long"
        time.sleep(0.05)


def batch_of(two_blobs: TwoBlobs, folder: Path, cases: int) -> None:
    folder.mkdir()
    for n in range(cases):
        write_volume(two_blobs(shape=(40, 44, 52), seed=n)[0], folder / f"case_{n:02d}.nii.gz")


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="kills by a signal")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_batch_that_is_stopped_is_gone_on_with(
    two_blobs: TwoBlobs, student: Path, tmp_path: Path, how: signal.Signals
) -> None:
    batch_of(two_blobs, tmp_path / "in", 8)
    output = tmp_path / "out"
    command = [
        sys.executable,
        "-m",
        "ReCoKDLib",
        "batch",
        *arguments(tmp_path / "in", student, output, "--workers", "2"),
    ]
    with started(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True) as process:
        wait_until(lambda: len(segmentations(output)) >= 2)
        if how is signal.SIGINT:
            os.killpg(process.pid, how)  # as a terminal does: to the workers as well
        else:
            process.send_signal(how)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == (130 if how is signal.SIGINT else -how)
    if how is signal.SIGINT:
        assert "give the same command again to go on" in errors
        assert not list(output.rglob(".*.part*"))
    # The workers end with it, and every file that has its name is whole.
    wait_until(lambda: _alive(process.pid) == 0)
    left = segmentations(output)
    assert 2 <= len(left) < 8
    for name in left:
        assert read_volume(output / name).array.any()
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("done before") >= len(left) - 2  # what was written at that moment may lack its record
    assert {record["status"] for record in records(output).values()} == {"done"}
    assert len(segmentations(output)) == len(records(output)) == 8
    assert not list(output.rglob(".*.part*"))


def _alive(session: int) -> int:
    """Processes of a session that are not yet gone."""
    listed = subprocess.run(["ps", "-e", "-o", "sess=,stat="], capture_output=True, text=True, check=True).stdout
    entries = (line.split() for line in listed.splitlines())
    return sum(entry[0] == str(session) and not entry[1].startswith("Z") for entry in entries)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="kills by a signal")
def test_a_cluster_that_loses_a_worker_loses_no_case(two_blobs: TwoBlobs, student: Path, tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    batch_of(two_blobs, tmp_path / "in", 10)
    output, file = tmp_path / "out", tmp_path / "scheduler.json"
    dask = [sys.executable, "-m", "dask"]
    place = ["--scheduler-file", str(file)]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with ExitStack() as running:
        scheduler = [*dask, "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", *place]
        running.enter_context(started(*scheduler, **quiet))
        wait_until(file.is_file)
        worker = [*dask, "worker", *place, "--host", "127.0.0.1", "--nthreads", "1", "--no-nanny", "--no-dashboard"]
        workers = [
            running.enter_context(started(*worker, "--local-directory", str(tmp_path / name), **quiet)) for name in "ab"
        ]
        address = json.loads(file.read_text())["address"]
        command = arguments(tmp_path / "in", student, output, "--scheduler", address, "--no-pictures")
        batch = running.enter_context(
            started(
                sys.executable, "-m", "ReCoKDLib", "batch", *command, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
        )

        def begun_by(process: subprocess.Popen[str]) -> list[Path]:
            found = []
            for path in (output / ".recokd-batch").glob("[0-9a-f]*.json"):
                record = json.loads(path.read_text())
                found += [path] if record["worker"] == process.pid and record["status"] == "begun" else []
            return found

        wait_until(lambda: begun_by(workers[0]) and len(segmentations(output)) >= 2)
        workers[0].kill()
        told, errors = batch.communicate(timeout=300)
        assert batch.returncode == 0, errors
        assert workers[1].poll() is None
    found = records(output)
    assert len(found) == 10
    assert {record["status"] for record in found.values()} == {"done"}
    assert workers[1].pid in {record["worker"] for record in found.values()}
    lines = [line for line in told.splitlines() if line.startswith("[")]
    assert len(lines) == len({line.split("]")[1].split(":")[0] for line in lines}) == 10  # each once
    assert len(segmentations(output)) == 10
    for name in segmentations(output):
        assert read_volume(output / name).array.any()


def test_errors_of_the_library_are_the_same(folder: Path, student: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no label"):
        run_batch(BatchSettings(folder, tmp_path / "out", student, labels=["spleen"]))
    with pytest.raises(PackageError):
        run_batch(BatchSettings(folder, tmp_path / "out", "no such student"))
