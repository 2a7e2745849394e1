"""``recokd import``."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from .console import comma_separated


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command, its sources and their arguments."""
    command = commands.add_parser("import", help="make a model package from another program's results")
    sources = command.add_subparsers(title="sources", required=True, metavar="SOURCE")
    command = sources.add_parser("nnunet", help="from nnU-Net v2's results")
    command.add_argument("results", type=Path, metavar="RESULTS_FOLDER", help="the folder with plans.json")
    command.add_argument("--output", required=True, type=Path, metavar="MODEL", help="NAME.recokd.zip, or a folder")
    command.add_argument(
        "--folds",
        type=_folds,
        metavar="0,1,2",
        help="the folds whose answers are averaged, or all for the one trained on all cases, fold_all "
        "(default: every numbered fold that has the checkpoint)",
    )
    command.add_argument("--checkpoint", default="final", choices=("final", "best"))
    command.add_argument(
        "--orientation",
        metavar="RAS",
        help="axis codes that all training images had; inputs are brought there before they are segmented "
        "(default: as nnU-Net does by the plan's reader; most take them as they are)",
    )
    command.add_argument("--overwrite", action="store_true", help="replace an existing model")
    command.set_defaults(run=_import_nnunet)

    command = sources.add_parser("monai", help="from a MONAI bundle; nothing of it is run")
    command.add_argument("bundle", type=Path, metavar="BUNDLE", help="its folder or zip file")
    command.add_argument("--output", required=True, type=Path, metavar="MODEL", help="NAME.recokd.zip, or a folder")
    command.add_argument("--config", metavar="FILE", help="in the bundle (default: configs/inference.json or .yaml)")
    command.add_argument("--weights", metavar="FILE", help="in the bundle (default: models/model.pt or the like)")
    command.add_argument(
        "--region-order",
        type=comma_separated,
        metavar="A,B,C",
        help="for outputs that may overlap: their names, the outermost first; each is painted over those before it",
    )
    command.add_argument(
        "--spacing",
        type=_spacing,
        metavar="X,Y,Z",
        help="voxel size of the training images in mm, for a bundle that does not resample",
    )
    command.add_argument("--overwrite", action="store_true", help="replace an existing model")
    command.set_defaults(run=_import_monai)


def _spacing(text: str) -> tuple[float, float, float]:
    try:
        x, y, z = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError("give three numbers, such as --spacing 1,1,1") from None
    if not (min(x, y, z) > 0 and max(x, y, z) < float("inf")):
        raise argparse.ArgumentTypeError("a voxel size is above 0")
    return x, y, z


def _folds(text: str) -> list[str]:
    folds = [fold.strip() for fold in text.split(",")]
    if not all(re.fullmatch(r"\d+|all", fold) for fold in folds):
        raise argparse.ArgumentTypeError(f"{text!r} names no folds; give numbers such as 0,1,2, or all")
    return folds


def _import_nnunet(arguments: argparse.Namespace) -> None:
    from ..exchange.nnunet_import import import_nnunet

    path = import_nnunet(
        arguments.results,
        arguments.output,
        folds=arguments.folds,
        checkpoint=arguments.checkpoint,
        orientation=arguments.orientation,
        overwrite=arguments.overwrite,
    )
    _tell(path)


def _import_monai(arguments: argparse.Namespace) -> None:
    from ..exchange.monai_import import import_monai

    result = import_monai(
        arguments.bundle,
        arguments.output,
        config=arguments.config,
        weights=arguments.weights,
        region_order=arguments.region_order,
        spacing=arguments.spacing,
        overwrite=arguments.overwrite,
    )
    _tell(result.path)
    for what in result.left_out:
        print(f"Not done here, but by the bundle: {what}")


def _tell(path: Path) -> None:
    from ..package import ModelPackage

    package = ModelPackage.open(path)
    names = ", ".join(segment.name for segment in package.label_set.segments)
    folds = package.card.folds
    of_each = (
        f"{folds} folds of {package.card.parameters:,} parameters"
        if folds > 1
        else f"{package.card.parameters:,} parameters"
    )
    print(f"Imported {package.card.name} ({of_each}; {names}): {path}")
