"""A whole batch: find the cases, skip what is done, have the rest done, keep the summary up to date."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import OutputError
from ..files import require_new
from ..package import ModelPackage
from ..picture import require_picture
from ..segment import check_format
from ..students import find_student
from .cases import BatchCase, find_cases
from .pool import run_in_processes
from .records import DONE, FAILED, FOLDER, Record, read_record, write_summary
from .sheet import write_sheet
from .work import Job, is_done, student_words

_LOCK = "lock"
_SUMMARY_SECONDS = 10.0


@dataclass(frozen=True)
class BatchSettings:
    """What is asked of a batch.

    Attributes:
        input: Folder with the cases, at any depth.
        output: Folder for the results; may lie inside the input's, and is then not looked into.
        student: A package, its path, or the name of an installed one.
        suffix: ``.seg.nrrd``, ``.nii.gz``, ``.nrrd``, ``.mha``, ``.nii`` or ``.dcm``.
        labels: Names of the only structures wanted; None for all.
        workers: Processes on this computer.
        scheduler: Address of a Dask scheduler; then ``workers`` is not used.
        device: auto, cpu, cuda or mps.
        mirroring: Average over flips.
        engine: As in :func:`ReCoKDLib.segment.segment`, and so the next two.
        precision: f32, bf16 or auto.
        memory: GB for each process.
        pictures: Draw a QC picture of each case.
        overwrite: Do again what is done, and replace files that are in the way.
    """

    input: Path
    output: Path
    student: ModelPackage | Path | str
    suffix: str = ".seg.nrrd"
    labels: Sequence[str] | None = None
    workers: int = 1
    scheduler: str = ""
    device: str = "auto"
    mirroring: bool = False
    engine: str = "auto"
    precision: str = "f32"
    memory: float | None = None
    pictures: bool = True
    overwrite: bool = False


@dataclass(frozen=True)
class BatchProgress:
    """A case that is finished, or was found done.

    Attributes:
        record: Of the case.
        number: How many are finished, this one counted.
        total: How many there are.
        skipped: Whether it was done before.
    """

    record: Record
    number: int
    total: int
    skipped: bool


def run_batch(
    settings: BatchSettings,
    progress: Callable[[BatchProgress], None] | None = None,
    begun: Callable[[Sequence[BatchCase], Sequence[Path]], None] | None = None,
) -> tuple[Record, ...]:
    """Segment every case below a folder.

    The summary (CSV, JSON, HTML) is written before the work, now and then, and after it, also when that ends early. A
    run that was killed at whatever moment is gone on with by the same settings.

    Args:
        settings: What is asked.
        progress: Told of each case.
        begun: Told, before the work, the cases that were found, and the files that were taken for label maps.

    Returns:
        The records of all cases, in the order of their names.

    Raises:
        InputError: There is no case, or a label is unknown.
        OutputError: The output folder is the input's or holds it, cannot be written, or another batch is using it.
        NoSpace: The disk is full; what is done is whole.
        PackageError: The student cannot be found or opened.
        MissingDependencyError: The format or the cluster needs something that is not installed.
    """
    package = find_student(settings.student) if not isinstance(settings.student, ModelPackage) else settings.student
    package.label_set.subset(settings.labels)
    check_format(Path(f"case{settings.suffix}"))
    if settings.pictures:
        require_picture(Path("case.png"))
    output = settings.output.resolve()
    source = settings.input.resolve()
    if source == output or output in source.parents:
        raise OutputError(f"The output folder {output} is, or holds, the input folder. Choose another one.")
    found = find_cases(source, package.plan.channels, without=output)
    if begun is not None:
        begun(found.cases, found.left_out)
    job = Job(
        output=output,
        student=package.path.resolve(),
        checksum=package.checksum,
        suffix=settings.suffix,
        labels=None if settings.labels is None else tuple(settings.labels),
        device=settings.device,
        mirroring=settings.mirroring,
        engine=settings.engine,
        precision=settings.precision,
        memory=settings.memory,
        pictures=settings.pictures,
        overwrite=settings.overwrite,
    )
    with _locked(output):
        return _run(found.cases, job, package, settings, progress)


def _run(
    cases: Sequence[BatchCase],
    job: Job,
    package: ModelPackage,
    settings: BatchSettings,
    progress: Callable[[BatchProgress], None] | None,
) -> tuple[Record, ...]:
    records: dict[str, Record] = {}

    def finished(record: Record, skipped: bool) -> None:
        records[record.name] = record
        if progress is not None:
            progress(BatchProgress(record, len(records), len(cases), skipped))

    def summarise() -> None:
        listed = [records[case.name] for case in cases if case.name in records]
        write_summary(job.output, listed, student_words(package))
        write_sheet(job.output, listed, student_words(package))

    waiting = []
    for case in cases:
        record = is_done(case, job)
        if record is None:
            waiting.append(case)
        else:
            finished(record, True)
    try:
        summarise()
        written = time.monotonic()
        with closing(_results(waiting, job, settings)) as results:
            for _, record in results:
                finished(record, False)
                if time.monotonic() - written > _SUMMARY_SECONDS:
                    summarise()
                    written = time.monotonic()
    except BaseException:
        _add_finished(waiting, job, records)
        with suppress(OutputError):  # what ended the run is told; the next run writes the summary
            summarise()
        raise
    summarise()
    return tuple(records[case.name] for case in cases)


def _results(
    cases: Sequence[BatchCase], job: Job, settings: BatchSettings
) -> Generator[tuple[BatchCase, Record], None, None]:
    if not cases:
        return
    if settings.scheduler:
        from .cluster import run_on_cluster

        yield from run_on_cluster(cases, job, settings.scheduler)
    else:
        yield from run_in_processes(cases, job, settings.workers)


def _add_finished(cases: Sequence[BatchCase], job: Job, records: dict[str, Record]) -> None:
    """Cases that were finished, or failed, while the run was ending."""
    for case in cases:
        record = None if case.name in records else read_record(job.output, case.name)
        if record is not None and record.status in (DONE, FAILED):
            records[case.name] = record


@contextmanager
def _locked(output: Path) -> Iterator[None]:
    """One batch at a time for an output folder."""
    from filelock import FileLock, Timeout

    require_new(output / FOLDER / _LOCK, overwrite=True)
    lock = FileLock(output / FOLDER / _LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise OutputError(f"Another batch is writing to {output}. Wait for it, or choose another folder.") from error
    except (OSError, NotImplementedError) as error:
        raise OutputError(
            f"{output} cannot be locked against other programs ({error}). Choose another folder."
        ) from error
    try:
        yield
    finally:
        lock.release()
