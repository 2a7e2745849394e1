"""``recokd import``."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command, its sources and their arguments."""
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


def _import_nnunet(arguments: argparse.Namespace) -> None:
    from ..exchange.nnunet_import import import_nnunet
    from ..package import ModelPackage

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
