"""``recokd batch``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from .console import add_running, comma_separated

if TYPE_CHECKING:
    from ..batch.cases import BatchCase
    from ..batch.run import BatchProgress

FORMATS = ("seg.nrrd", "nii.gz", "nii", "nrrd", "mha", "dcm")


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its arguments."""
    command = commands.add_parser(
        "batch",
        help="segment every volume below a folder",
        description="Segment every image file and DICOM series below a folder. Given again, it goes on where it was "
        "stopped. Files whose names say that they are label maps are left out. Exit code: 0, or 1 if a case failed, "
        "2 for wrong usage, 130 when cancelled.",
    )
    add_arguments(command)
    command.set_defaults(run=run)


def add_arguments(command: argparse.ArgumentParser) -> None:
    """The arguments, also those of ``slicer_batch.py``."""
    command.add_argument("--input", required=True, type=Path, metavar="DIR", help="folder with the cases, at any depth")
    command.add_argument("--student", required=True, metavar="NAME_OR_PATH", help="see `recokd students`")
    command.add_argument(
        "--output",
        required=True,
        type=Path,
        metavar="DIR",
        help="folder for segmentations, pictures and batch.csv, .json, .html; inside the input it is not looked into",
    )
    command.add_argument("--format", default="seg.nrrd", choices=FORMATS, help="default: %(default)s")
    command.add_argument("--labels", type=comma_separated, metavar="A,B", help="these structures only")
    command.add_argument("--workers", type=_positive, default=1, metavar="N", help="processes here (default 1)")
    command.add_argument(
        "--scheduler",
        default="",
        metavar="ADDRESS",
        help="hand the cases to the Dask cluster of this scheduler, such as tcp://host:8786",
    )
    command.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"))
    command.add_argument(
        "--mirroring", action="store_true", help="average over flips: a little better, several times as slow"
    )
    add_running(command)
    command.add_argument("--no-pictures", action="store_true", help="no QC pictures")
    command.add_argument(
        "--overwrite", action="store_true", help="do again what is done, and replace files that are in the way"
    )


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def run(arguments: argparse.Namespace) -> int:
    """Run the batch.

    Returns:
        1 if a case failed, else 0.
    """
    from ..batch.records import FAILED
    from ..batch.run import BatchSettings, run_batch
    from ..batch.sheet import SHEET

    settings = BatchSettings(
        input=arguments.input,
        output=arguments.output,
        student=arguments.student,
        suffix=f".{arguments.format}",
        labels=arguments.labels,
        workers=arguments.workers,
        scheduler=arguments.scheduler,
        device=arguments.device,
        mirroring=arguments.mirroring,
        engine=arguments.engine,
        precision=arguments.precision,
        memory=arguments.memory,
        pictures=not arguments.no_pictures,
        overwrite=arguments.overwrite,
    )
    try:
        with _case_progress() as progress:
            records = run_batch(settings, progress, _begun)
    except KeyboardInterrupt:
        print("recokd: stopped; give the same command again to go on", file=sys.stderr)
        raise
    failed = sum(record.status == FAILED for record in records)
    print(f"{len(records) - failed} of {len(records)} cases done, {failed} failed: {arguments.output / SHEET}")
    return 1 if failed else 0


def _begun(cases: Sequence[BatchCase], left_out: Sequence[Path]) -> None:
    print(f"{len(cases)} cases found", flush=True)
    if left_out:
        some = ", ".join(path.name for path in left_out[:3]) + (", ..." if len(left_out) > 3 else "")
        print(f"{len(left_out)} files left out, label maps by their names: {some}", flush=True)


@contextmanager
def _case_progress() -> Iterator[Callable[[BatchProgress], None]]:
    """A bar on a terminal, where only what is remarkable gets a line of its own; else a line for each case."""
    from tqdm import tqdm

    terminal = sys.stderr.isatty()
    with tqdm(desc="Cases", unit="case", leave=False, disable=not terminal) as bar:

        def show(progress: BatchProgress) -> None:
            record = progress.record
            bar.total = progress.total
            bar.update()
            if terminal and not (record.error or record.warnings):
                return
            line = f"[{progress.number}/{progress.total}] {record.name}: {_in_words(progress)}"
            if terminal:
                tqdm.write(line, file=sys.stderr)
            else:
                print(line, flush=True)

        yield show


def _in_words(progress: BatchProgress) -> str:
    record = progress.record
    if record.error:
        return f"FAILED: {record.error}"
    volumes = ", ".join(f"{name} {millilitres:.3f} ml" for name, millilitres in record.volumes_ml.items())
    when = "done before" if progress.skipped else f"{record.seconds:.1f} s"
    return "; ".join((when, volumes, *(f"warning: {warning}" for warning in record.warnings)))
