"""The work of one case: whole files or none, done once, and every failure in its record."""

from __future__ import annotations

import json
import os
import shutil
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plans import TWO_LABELS
from ReCoKDLib.batch import pool, work
from ReCoKDLib.batch.cases import BatchCase, Source, find_cases
from ReCoKDLib.batch.records import BEGUN, DONE, FAILED, Record, read_record, record_path
from ReCoKDLib.batch.sheet import by_doubt, write_sheet
from ReCoKDLib.errors import Cancelled, OutputError, PackageError
from ReCoKDLib.image_io import read_volume, write_volume
from ReCoKDLib.package import ModelPackage
from ReCoKDLib.segment import segment
from ReCoKDLib.volume import Volume
from threshold_student import threshold_package

TwoBlobs = Callable[..., tuple[Volume, Volume]]


@pytest.fixture
def job(two_blobs: TwoBlobs, tmp_path: Path) -> work.Job:
    """A student, and an output folder, for the case ``scan/a`` in ``in``."""
    image, labels = two_blobs()
    student = threshold_package(tmp_path / "blobs.recokd.zip", image, labels, TWO_LABELS)
    (tmp_path / "in" / "scan").mkdir(parents=True)
    write_volume(image, tmp_path / "in" / "scan" / "a.nii.gz")
    checksum = ModelPackage.open(student).checksum
    return work.Job(tmp_path / "out", student, checksum, ".nii.gz", device="cpu", pictures=False)


def the_case(job: work.Job) -> BatchCase:
    return find_cases(job.output.parent / "in").cases[0]


def test_a_case_is_segmented_and_told(job: work.Job, two_blobs: TwoBlobs) -> None:
    record = work.work(the_case(job), job)
    assert (record.status, record.error, record.output) == (DONE, "", "scan/a.nii.gz")
    labels = read_volume(job.output / "scan" / "a.nii.gz")
    assert record.volumes_ml["anterior"] == pytest.approx((labels.array == 1).sum() / 1000)
    assert labels.same_grid(two_blobs()[0])
    assert record.doubt is not None
    assert 0 < record.doubt < 1
    assert work.is_done(the_case(job), job) == read_record(job.output, "scan/a")


def test_what_is_done_is_known_only_as_long_as_nothing_changed(job: work.Job) -> None:
    case = the_case(job)
    assert work.is_done(case, job) is None
    work.work(case, job)
    output, source = job.output / "scan" / "a.nii.gz", case.sources[0].path
    for other in (
        replace(job, mirroring=True),
        replace(job, labels=("anterior",)),
        replace(job, checksum="00"),
        replace(job, suffix=".nrrd"),
        replace(job, pictures=True),
        replace(job, overwrite=True),
    ):
        assert work.is_done(case, other) is None
    assert work.is_done(case, replace(job, device="auto"))
    whole = output.read_bytes()
    output.write_bytes(whole[:-1])
    assert work.is_done(case, job) is None
    output.write_bytes(whole)
    assert work.is_done(case, job)
    os.utime(source, ns=(1, 1))
    assert work.is_done(case, job) is None
    record_path(job.output, case.name).write_text("{")
    assert work.is_done(case, job) is None


def test_files_of_others_are_not_overwritten(job: work.Job) -> None:
    (job.output / "scan").mkdir(parents=True)
    (job.output / "scan" / "a.nii.gz").write_text("mine")
    for _ in range(2):  # the failure's own record does not make the file ours
        record = work.work(the_case(job), job)
        assert record.status == FAILED
        assert "exists already" in record.error
    assert (job.output / "scan" / "a.nii.gz").read_text() == "mine"
    assert work.work(the_case(job), replace(job, overwrite=True)).status == DONE


def test_a_kill_before_the_record_is_gone_on_with(job: work.Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """The output is whole, its record still says begun, and parts of other files lie about."""
    case = the_case(job)
    work.work(case, job)
    path = record_path(job.output, case.name)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"status": BEGUN}))
    part = job.output / "scan" / ".a.nii.gz-k3xq.part.nii.gz"
    part.write_text("half")
    other = job.output / "scan" / ".ab.nii.gz-k3xq.part.nii.gz"
    other.write_text("another case's")
    assert work.is_done(case, job) is None
    assert work.work(case, job).status == DONE
    assert not part.exists()
    assert other.exists()


def test_what_is_wrong_with_a_case_is_in_its_record(job: work.Job, two_blobs: TwoBlobs) -> None:
    case = the_case(job)
    case.sources[0].path.write_text("no image")
    record = work.work(case, job)
    assert record.status == FAILED
    assert "could not be read as an image" in record.error
    assert read_record(job.output, case.name) == read_record(job.output, record.name)
    assert work.is_done(case, job) is None  # it is tried again
    assert "channel" in work.work(replace(case, problem="A channel is missing."), job).error
    image = two_blobs()[0]
    write_volume(image.with_array(np.zeros_like(image.array)), case.sources[0].path, overwrite=True)
    assert "constant" in work.work(case, job).error
    assert not (job.output / "scan" / "a.nii.gz").exists()


def test_an_error_of_ours_stops_no_other_case(job: work.Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(work, "segment", wrong)
    record = work.work(the_case(job), job)
    assert record.status == FAILED
    assert "ZeroDivisionError: division by zero. This is an error in ReCoKD" in record.error


def test_structures_that_were_not_found_are_a_warning(job: work.Job, monkeypatch: pytest.MonkeyPatch) -> None:
    real = segment

    def without_posterior(*arguments: Any, **options: Any) -> Any:
        result = real(*arguments, **options)
        return replace(result, labels=result.labels.with_array(result.labels.array * (result.labels.array == 1)))

    monkeypatch.setattr(work, "segment", without_posterior)
    record = work.work(the_case(job), job)
    assert record.status == DONE
    assert record.volumes_ml["posterior"] == 0
    assert record.warnings[-1] == "Not found: posterior."


def test_a_disk_without_space_ends_the_batch_with_whole_files(job: work.Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OutputError("could not be written") from OSError(28, "No space left on device")

    monkeypatch.setattr(work, "write_result", full)
    with pytest.raises(work.NoSpace, match="give the same command again"):
        work.work(the_case(job), job)
    assert not list(job.output.rglob("*.nii.gz"))


def test_itk_does_not_say_that_a_disk_is_full(job: work.Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any, **__: Any) -> None:
        raise OutputError("could not be written")

    monkeypatch.setattr(work, "write_result", failing)
    assert work.work(the_case(job), job).status == FAILED
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 0}))
    with pytest.raises(work.NoSpace):
        work.work(the_case(job), job)


def test_a_cancelled_case_leaves_nothing(job: work.Job) -> None:
    with pytest.raises(Cancelled):
        work.work(the_case(job), job, lambda: True)
    assert not list(job.output.rglob("*.nii.gz"))
    assert work.is_done(the_case(job), job) is None


def test_a_student_that_is_replaced_meanwhile_is_not_mixed_in(job: work.Job) -> None:
    record = work.work(the_case(job), replace(job, checksum="00"))
    assert "was changed while the batch ran" in record.error
    job.student.unlink()
    assert work.work(the_case(job), replace(job, checksum="01")).status == FAILED
    with pytest.raises(PackageError):
        ModelPackage.open(job.student)


class FakeLane:
    """A worker that dies with some cases."""

    def __init__(self, deaths: dict[str, int]) -> None:
        self.deaths = deaths
        self.restarts = 0

    def submit(self, case: BatchCase, job: work.Job) -> Future[Record]:
        future: Future[Record] = Future()
        if self.deaths.get(case.name, 0) > 0:
            self.deaths[case.name] -= 1
            future.set_exception(BrokenProcessPool("died"))
        else:
            future.set_result(Record(case.name, DONE))
        return future

    def restart(self) -> None:
        self.restarts += 1


def test_a_case_whose_worker_dies_is_tried_once_more(job: work.Job) -> None:
    cases = [BatchCase(name, (Source(Path(name), "", ()),)) for name in "abcdef"]
    deaths = {"b": 1, "d": 5}
    lanes: list[Any] = [FakeLane(deaths), FakeLane(deaths)]
    records = {case.name: record for case, record in pool._run(deque(cases), job, lanes)}
    assert {name: record.status for name, record in records.items()} == dict.fromkeys("abcef", DONE) | {"d": FAILED}
    assert "died 2 times" in records["d"].error
    assert sum(lane.restarts for lane in lanes) == 3


def test_the_sheet_has_the_doubtful_first_and_runs_nothing(tmp_path: Path) -> None:
    records = [
        Record("sure", DONE, output="sure.nrrd", picture="sure.png", doubt=0.1, volumes_ml={"a<b": 1.5}),
        Record("unsure", DONE, output="unsure.nrrd", picture="x/un sure#1.png", doubt=0.4),
        Record("empty", DONE, output="empty.nrrd", warnings=("Not found: a.",)),
        Record("strange", DONE, output="strange.nrrd", doubt=0.2, warnings=("The voxel size is odd.",)),
        Record("broken", FAILED, error="<script>alert(1)</script>"),
    ]
    assert [record.name for record in by_doubt(records)] == ["broken", "empty", "strange", "unsure", "sure"]
    write_sheet(tmp_path, records, {"name": "blobs-x4"})
    text = (tmp_path / "batch.html").read_text(encoding="utf-8")
    assert "<script" not in text
    assert "a&lt;b" in text
    assert "src='x/un%20sure%231.png'" in text
    assert "http" not in text
    assert "1 failed, 2 with warnings, 2 without." in text
