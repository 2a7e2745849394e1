"""The work of one case, in whatever process; done twice it gives the same."""

from __future__ import annotations

import errno
import functools
import glob
import os
import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..errors import Cancelled, OutputError, ReCoKDError
from ..files import full_suffix, require_new, sha256
from ..image_io import read_volume
from ..interaction.doubt import confidence
from ..package import ModelPackage
from ..segment import LoadedStudent, SegmentationResult, dicom_source, segment, write_result
from ..table import segment_mask, segment_sizes
from .cases import BatchCase
from .records import BEGUN, DONE, FAILED, Record, done_and_whole, read_record, write_record

_LITTLE_SPACE = 4 << 20  # bytes that a disk has left when it is taken for full


@dataclass(frozen=True)
class Job:
    """What is asked of every case; goes to worker processes, so it holds paths and no networks.

    Attributes:
        output: The output folder.
        student: Path of the package.
        checksum: Of the package that was found when the batch began.
        suffix: ``.seg.nrrd``, ``.nii.gz``, ...
        labels: Names of the only structures wanted; None for all.
        device: auto, cpu, cuda or mps.
        mirroring: Average over flips.
        engine: auto, torch, openvino or onnxruntime.
        precision: f32, bf16 or auto.
        memory: GB for each process; None sets no bound.
        pictures: Draw a QC picture of each case.
        overwrite: Do again what is done, and replace files that are not of an earlier run.
    """

    output: Path
    student: Path
    checksum: str
    suffix: str
    labels: tuple[str, ...] | None = None
    device: str = "auto"
    mirroring: bool = False
    engine: str = "auto"
    precision: str = "f32"
    memory: float | None = None
    pictures: bool = True
    overwrite: bool = False


class NoSpace(OutputError):  # noqa: N818 - named for what the user is told
    """The disk is full: no other case will fare better."""


_one_at_a_time = threading.Lock()


@functools.lru_cache(maxsize=1)
def _student(path: Path, checksum: str, device: str, mirroring: bool, engine: str, precision: str) -> LoadedStudent:
    """The student of this process, loaded for its first case."""
    package = ModelPackage.open(path)
    if package.checksum != checksum:
        raise OutputError(f"{path} was changed while the batch ran. Start again with the new student.")
    return LoadedStudent.load(package, device, mirroring, engine=engine, precision=precision)


def job_of(case: BatchCase, job: Job) -> dict[str, Any]:
    """What decides the result of a case: the input's files with sizes and times, the student, the options."""
    inputs = []
    for source in case.sources:
        for file in source.files:
            try:
                status = file.stat()
            except OSError:
                continue  # told when it is read
            inputs.append([file.name, source.series, status.st_size, status.st_mtime_ns])
    # Only what was asked for, so that a folder of an earlier version goes on.
    asked = {"precision": job.precision} if job.precision != "f32" else {}
    bound = {} if job.memory is None else {"memory": job.memory}
    return {
        "inputs": inputs,
        "student": job.checksum,
        "suffix": job.suffix,
        "labels": None if job.labels is None else list(job.labels),
        "mirroring": job.mirroring,
        "pictures": job.pictures,
        **asked,
        **bound,
    }


def is_done(case: BatchCase, job: Job) -> Record | None:
    """The record of a case that needs no work."""
    record = read_record(job.output, case.name)
    return record if not job.overwrite and done_and_whole(job.output, record, job_of(case, job)) else None


def work(case: BatchCase, job: Job, cancelled: Callable[[], bool] | None = None) -> Record:
    """Segment a case and write its outputs and its record; what goes wrong with it is in the record.

    Raises:
        Cancelled: ``cancelled`` said so; the case is as before.
        NoSpace: The disk is full.
    """
    # One process may be given cases by several threads (Dask's), and Slicer's scene and OpenGL are nobody's to share.
    with _one_at_a_time:
        before = read_record(job.output, case.name)
        # Until its files are found to be free, or its own, a case has no claim on them.
        record = replace(before or Record(case.name, BEGUN), job=job_of(case, job), worker=os.getpid())
        try:
            if case.problem:
                raise ReCoKDError(case.problem)
            record = _claimed(case, job, record)
            record = _segmented(case, job, record, cancelled)
        except Cancelled:
            raise
        except Exception as error:  # one bad case never stops the rest
            if _is_full(error, job.output):
                raise NoSpace(
                    f"There is no space left in {job.output}. What is done is whole; free some space and give the "
                    "same command again to go on."
                ) from error
            record = _failed(record, error)
        try:
            write_record(job.output, record)
        except OutputError as error:
            if _is_full(error, job.output):
                raise NoSpace(
                    f"There is no space left in {job.output}. Free some and give the same command again."
                ) from error
            record = _failed(record, error)
        return record


def _failed(record: Record, error: Exception) -> Record:
    """The record of a failure, which keeps the claim on the case's files and nothing of an earlier result."""
    return Record(
        record.name,
        FAILED,
        record.job,
        record.output,
        record.picture,
        error=_in_words(error),
        finished=_now(),
        worker=record.worker,
    )


def _claimed(case: BatchCase, job: Job, before: Record) -> Record:
    """A record that names the case's files, written before they are: after a kill they are known to be its own.

    Raises:
        OutputError: A file is there that no record names.
    """
    output, picture = f"{case.name}{job.suffix}", f"{case.name}.png" if job.pictures else ""
    for name in filter(None, (output, picture)):
        _sweep(job.output / name)
        require_new(job.output / name, job.overwrite or name in (before.output, before.picture))
    record = Record(case.name, BEGUN, before.job, output, picture, worker=before.worker)
    write_record(job.output, record)
    return record


def _segmented(case: BatchCase, job: Job, record: Record, cancelled: Callable[[], bool] | None) -> Record:
    output = job.output / record.output
    picture = job.output / record.picture if record.picture else None
    source = dicom_source(case.sources[0].path, output, case.sources[0].series)
    student = _student(job.student, job.checksum, job.device, job.mirroring, job.engine, job.precision)
    result = segment(
        [read_volume(channel.path, channel.series) for channel in case.sources],
        student,
        labels=job.labels,
        memory=job.memory,
        probabilities=True,
        cancelled=cancelled,
    )
    write_result(result, student.package, output, picture=picture, source=source, overwrite=True)
    sizes = segment_sizes(result.labels, result.label_set.segments)
    missing = [size.segment.name for size in sizes if not size.voxels]
    nothing = [f"Not found: {', '.join(missing)}."] if missing else []
    written = {name: sha256(job.output / name) for name in (record.output, record.picture) if name}
    return replace(
        record,
        status=DONE,
        checksums=written,
        seconds=result.seconds,
        volumes_ml={size.segment.name: size.millilitres for size in sizes},
        doubt=doubt_of(result),
        warnings=(*result.warnings, *nothing),
        finished=_now(),
    )


def doubt_of(result: SegmentationResult) -> float | None:
    """Mean of 1 - confidence over the structures and the voxels next to them; None where nothing was found.

    Next to a boundary every student doubts a little, so figures of one student are to be compared with each other.
    """
    from scipy.ndimage import binary_dilation, find_objects

    if result.probabilities is None:
        return None
    labels = result.labels.array[0]
    found = np.zeros(labels.shape, dtype=bool)
    for one in result.label_set.segments:
        found |= segment_mask(labels, one)
    boxes = find_objects(found.astype(np.int8))
    if not boxes:
        return None
    box = tuple(slice(max(0, part.start - 1), part.stop + 1) for part in boxes[0])
    sure = confidence(result.probabilities, result.label_set).array[0][box]
    return float(1 - sure[binary_dilation(found[box])].mean(dtype=np.float64))


def _sweep(path: Path) -> None:
    """Remove what a kill left of this very file: see ``files.atomic_file`` for its names."""
    pattern = f"{glob.escape('.' + path.name[:40] + '-')}*.part{glob.escape(full_suffix(path))}"
    for rest in path.parent.glob(pattern):
        rest.unlink(missing_ok=True)


def _is_full(error: BaseException, output: Path) -> bool:
    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, OSError) and chain.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
            return True
        chain = chain.__cause__
    # ITK does not say why a file could not be written.
    return isinstance(error, OutputError) and output.is_dir() and shutil.disk_usage(output).free < _LITTLE_SPACE


def _in_words(error: Exception) -> str:
    if isinstance(error, ReCoKDError):
        return str(error)
    return f"{type(error).__name__}: {error}. This is an error in ReCoKD {__version__}, please report it."


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def student_words(package: ModelPackage) -> Mapping[str, str]:
    """A student in the records."""
    return {"name": package.card.name, "version": package.card.version, "checksum": package.checksum}
