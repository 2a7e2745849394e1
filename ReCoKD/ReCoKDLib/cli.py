"""The command ``recokd``: segment volumes, import, inspect and list models."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from . import __version__
from .errors import Cancelled, ReCoKDError

_CANCELLED = 130  # what shells report for a program that Ctrl-C ended


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        0 when all went well, 2 after an error that the user can mend (told on stderr), 130 when cancelled.
    """
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")  # a console that lacks a letter is no reason to fail
    arguments = _parser().parse_args(argv)
    run: Callable[[argparse.Namespace], None] = arguments.run
    try:
        run(arguments)
    except (Cancelled, KeyboardInterrupt):
        print("recokd: cancelled", file=sys.stderr)
        return _CANCELLED
    except ReCoKDError as error:
        print(f"recokd: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `recokd inspect ... | head`; what is not yet written must not fail at exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="recokd",
        description="Segment volumes with distilled networks. Research use only, not a medical device.",
    )
    parser.add_argument("--version", action="version", version=f"recokd {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

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
        help=".seg.nrrd (a segmentation for Slicer), or .nii.gz, .nrrd, .mha (a label map)",
    )
    command.add_argument("--labels", type=_names, metavar="A,B", help="these structures only")
    command.add_argument("--table", type=Path, metavar="CSV", help="write voxels and millilitres")
    command.add_argument("--picture", type=Path, metavar="PNG", help="write slices and a 3D view")
    command.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"))
    command.add_argument(
        "--mirroring", action="store_true", help="average over flips: a little better, several times as slow"
    )
    command.add_argument("--overwrite", action="store_true", help="replace files that exist")
    command.set_defaults(run=_segment)

    command = commands.add_parser("import", help="make a model package from another program's results")
    sources = command.add_subparsers(title="sources", required=True, metavar="SOURCE")
    command = sources.add_parser("nnunet", help="from one fold of nnU-Net v2's results")
    command.add_argument("results", type=Path, metavar="RESULTS_FOLDER", help="the folder with plans.json")
    command.add_argument("--output", required=True, type=Path, metavar="MODEL", help="NAME.recokd.zip, or a folder")
    command.add_argument("--fold", default="0", help="0 to 4, or all (default 0)")
    command.add_argument("--checkpoint", default="final", choices=("final", "best"))
    command.add_argument(
        "--orientation",
        metavar="RAS",
        help="axis codes that all training images had; inputs are brought there before they are segmented "
        "(default: they are taken as they are, as nnU-Net does)",
    )
    command.add_argument("--overwrite", action="store_true", help="replace an existing model")
    command.set_defaults(run=_import_nnunet)

    command = commands.add_parser("inspect", help="verify a model and print its card")
    command.add_argument("model", metavar="NAME_OR_PATH")
    command.add_argument("--json", action="store_true", help="print the card as JSON")
    command.set_defaults(run=_inspect)

    command = commands.add_parser("students", help="list the models that are found")
    command.set_defaults(run=_students)
    return parser


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise argparse.ArgumentTypeError("name at least one structure, such as --labels Anterior,Posterior")
    return names


@contextmanager
def _progress_bar(description: str) -> Iterator[Callable[[float], None]]:
    """A bar on stderr, where that is a terminal."""
    from tqdm import tqdm

    layout = "{desc} {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left"
    with tqdm(total=1.0, desc=description, bar_format=layout, leave=False, disable=None) as bar:

        def show(fraction: float) -> None:
            bar.update(fraction - bar.n)

        yield show


def _segment(arguments: argparse.Namespace) -> None:
    from .segment import segment_files
    from .table import segment_sizes

    with _progress_bar("Segmenting") as progress:
        result = segment_files(
            arguments.inputs,
            arguments.student,
            arguments.output,
            labels=arguments.labels,
            table=arguments.table,
            picture=arguments.picture,
            device=arguments.device,
            mirroring=arguments.mirroring,
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


def _import_nnunet(arguments: argparse.Namespace) -> None:
    from .nnunet_import import import_nnunet
    from .package import ModelPackage

    path = import_nnunet(
        arguments.results,
        arguments.output,
        fold=arguments.fold,
        checkpoint=arguments.checkpoint,
        orientation=arguments.orientation,
        overwrite=arguments.overwrite,
    )
    package = ModelPackage.open(path)
    names = ", ".join(segment.name for segment in package.label_set.segments)
    print(f"Imported {package.card.name} ({package.card.parameters:,} parameters; {names}): {path}")


def _inspect(arguments: argparse.Namespace) -> None:
    from .card_text import card_markdown
    from .students import find_student

    package = find_student(arguments.model)
    package.verify()
    if arguments.json:
        print(json.dumps({"checksum": package.checksum, **package.card.to_dict()}, indent=1, ensure_ascii=False))
        return
    print(card_markdown(package.card, package.plan, package.label_set))
    print(f"Verified: every checksum is right. Checksum of the package: {package.checksum}")
    print(f"Path: {package.path}")


def _students(_: argparse.Namespace) -> None:
    from .students import FOLDERS_VARIABLE, list_students, student_folders

    entries = list_students()
    for entry in entries:
        if entry.package is None:
            print(f"{entry.name}: cannot be used. {entry.problem}")
            continue
        card = entry.package.card
        names = ", ".join(segment.name for segment in entry.package.label_set.segments)
        print(f"{entry.name} {card.version} ({card.role}, {card.parameters:,} parameters): {names}; {entry.path}")
    if not entries:
        folders = ", ".join(str(folder) for folder in student_folders())
        print(f"No students found in {folders}. Put packages there, or name folders in {FOLDERS_VARIABLE}.")
