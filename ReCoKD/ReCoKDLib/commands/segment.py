"""``recokd segment``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .console import add_running, comma_separated, progress_bar


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its arguments."""
    command = commands.add_parser("segment", help="segment a volume", description="Segment a volume.")
    command.add_argument(
        "inputs",
        type=Path,
        nargs="+",
        metavar="INPUT",
        help="image file (NIfTI, NRRD, MHA) or folder with a DICOM series; several are the channels of one "
        "case in the order of the student's card",
    )
    command.add_argument("--student", required=True, metavar="NAME_OR_PATH", help="see `recokd students`")
    command.add_argument(
        "--output",
        required=True,
        type=Path,
        metavar="FILE",
        help=".seg.nrrd (a segmentation for Slicer), .dcm (a DICOM SEG, of a DICOM series), or .nii.gz, .nrrd, .mha "
        "(a label map)",
    )
    command.add_argument("--labels", type=comma_separated, metavar="A,B", help="these structures only")
    command.add_argument("--table", type=Path, metavar="CSV", help="write voxels and millilitres")
    command.add_argument("--picture", type=Path, metavar="PNG", help="write slices and a 3D view")
    command.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"))
    command.add_argument(
        "--mirroring", action="store_true", help="average over flips: a little better, several times as slow"
    )
    add_running(command)
    command.add_argument("--overwrite", action="store_true", help="replace files that exist")
    command.set_defaults(run=_segment)


def _segment(arguments: argparse.Namespace) -> None:
    from ..segment import segment_files
    from ..table import segment_sizes

    with progress_bar("Segmenting") as progress:
        result = segment_files(
            arguments.inputs,
            arguments.student,
            arguments.output,
            labels=arguments.labels,
            table=arguments.table,
            picture=arguments.picture,
            device=arguments.device,
            mirroring=arguments.mirroring,
            engine=arguments.engine,
            precision=arguments.precision,
            memory=arguments.memory,
            overwrite=arguments.overwrite,
            progress=progress,
            warn=lambda warning: print(f"recokd: warning: {warning}", file=sys.stderr, flush=True),
        )
    for size in segment_sizes(result.labels, result.label_set.segments):
        print(f"{size.segment.name}: {size.millilitres:.3f} ml ({size.voxels} voxels)")
    print(f"Segmented by {result.student} in {result.seconds:.1f} s: {arguments.output}")
    for what, path in (("Table", arguments.table), ("Picture", arguments.picture)):
        if path is not None:
            print(f"{what}: {path}")
