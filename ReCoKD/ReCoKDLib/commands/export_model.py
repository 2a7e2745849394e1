"""``recokd export``."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command, its targets and their arguments."""
    command = commands.add_parser("export", help="write a model in the form that another program runs")
    targets = command.add_subparsers(title="targets", required=True, metavar="TARGET")
    _target(
        targets.add_parser("nnunet", help="for nnUNetv2_predict and Slicer's nnU-Net"),
        _export_nnunet,
        "RESULTS_FOLDER",
        "nnU-Net's folder of results, where DatasetNNN_Name/nnUNetTrainer__nnUNetPlans__3d_fullres is made; or one of "
        "these two folders itself",
    )
    _target(
        targets.add_parser("onnx", help="one ONNX file, checked against PyTorch"), _export_onnx, "FILE", "NAME.onnx"
    )


def _target(
    command: argparse.ArgumentParser, run: Callable[[argparse.Namespace], None], output: str, output_help: str
) -> None:
    """The arguments that every target has."""
    command.add_argument("student", metavar="STUDENT", help="name or path of the model")
    command.add_argument("--output", required=True, type=Path, metavar=output, help=output_help)
    command.add_argument("--overwrite", action="store_true", help="replace an earlier export")
    command.set_defaults(run=run)


def _export_nnunet(arguments: argparse.Namespace) -> None:
    from ..exchange.nnunet_export import TRAINER, export_nnunet, what_is_lost
    from ..students import find_student

    package = find_student(arguments.student)
    folder = export_nnunet(package, arguments.output, arguments.overwrite).resolve()
    folds = " ".join(str(fold) for fold in range(package.card.folds))
    plan, dataset = package.plan, folder.parent.name
    files = ", ".join(f"NAME_{channel:04d}.nii.gz" for channel in range(plan.channels))
    print(f"Exported {package.card.name}: {folder}")
    print(f"Run it on a folder with {files}, without --disable_tta if it is to be averaged over flips, with")
    print(f'  nnUNetv2_predict_from_modelfolder -m "{folder}" -f {folds} --disable_tta -i IMAGES -o LABELS')
    if dataset.startswith("Dataset"):
        print(f'or, with nnUNet_results="{folder.parents[1]}",')
        names = f"-d {dataset} -tr {TRAINER} -p {plan.plans_name} -c {plan.configuration}"
        print(f"  nnUNetv2_predict {names} -f {folds} --disable_tta -i IMAGES -o LABELS")
        print("or in Slicer's nnU-Net, whose model path is the same folder.")
    else:
        print("nnUNetv2_predict and Slicer's nnU-Net want it in a folder whose name begins with Dataset.")
    for line in what_is_lost(package):
        print(f"Note: {line}")


def _export_onnx(arguments: argparse.Namespace) -> None:
    from ..exchange.onnx_export import export_onnx

    export = export_onnx(arguments.student, arguments.output, arguments.overwrite)
    tried = " and ".join(" x ".join(map(str, shape)) for shape in export.shapes)
    print(f"Exported: {export.path}")
    print(f"Largest difference of the logits from PyTorch's: {export.difference:.2g} (inputs {tried})")
