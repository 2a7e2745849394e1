"""From a model package to a results folder of nnU-Net v2, which ``nnUNetv2_predict`` and Slicer's nnU-Net run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..bundle_metadata import dataset_json
from ..errors import OutputError, PackageError, PlanError
from ..files import atomic_folder, require_new, write_json
from ..package import ModelPackage
from ..plan import DEFAULT_PREPROCESSOR
from .nnunet_results import is_results_folder, json_object

if TYPE_CHECKING:
    import torch

TRAINER = "nnUNetTrainer"
_OURS = "recokd"  # the part of dataset.json that tells our exports from trainings
_NETWORKS = "dynamic_network_architectures."
_READER, _REORIENTING_READER = "SimpleITKIO", "NibabelIOWithReorient"
_REORIENTED = "RAS"  # where the latter brings every image
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*(?:_[A-Za-z0-9.-]+)*")


def export_nnunet(package: ModelPackage, output: Path, overwrite: bool = False) -> Path:
    """Write the results folder, whole or not at all.

    It holds ``dataset.json``, ``plans.json`` and for each fold ``fold_N/checkpoint_final.pth``, under the name of
    nnU-Net's plain trainer.

    Args:
        package: A model of nnU-Net's own kind of network, without guidance by clicks.
        output: See :func:`results_folder`.
        overwrite: Replace an earlier export; a training of nnU-Net's is never replaced.

    Returns:
        The folder with ``plans.json``.

    Raises:
        PackageError: nnU-Net could not run it, or a checksum of its weights is wrong.
        PlanError: nnU-Net does not know its network.
        OutputError: The folder exists and ``overwrite`` is False, is not an export, has another name than nnU-Net
            expects or cannot be written.
    """
    import torch

    _require_runnable(package)
    folder = results_folder(package, output)
    require_new(folder, overwrite)
    if folder.exists() and not (is_results_folder(folder) and _OURS in json_object(folder / "dataset.json")):
        raise OutputError(f"{folder} is not an export of ReCoKD, so it is not replaced. Choose another folder.")
    plans, dataset = _plans(package), _dataset(package)
    with atomic_folder(folder, overwrite) as temporary:
        write_json(temporary / "plans.json", plans)
        write_json(temporary / "dataset.json", dataset)
        for fold in range(package.card.folds):
            place = temporary / f"fold_{fold}"
            place.mkdir()
            checkpoint = {
                "network_weights": _state(package, fold),
                "init_args": {
                    "plans": plans,
                    "configuration": package.plan.configuration,
                    "fold": fold,
                    "dataset_json": dataset,
                },
                "trainer_name": TRAINER,
                # nnU-Net takes the greatest of the axes, so it wants no empty tuple.
                "inference_allowed_mirroring_axes": package.card.mirror_axes or None,
            }
            torch.save(checkpoint, place / "checkpoint_final.pth")
    return folder


def results_folder(package: ModelPackage, output: Path) -> Path:
    """Where the export goes: nnU-Net finds a model by the names ``DatasetNNN_Name/trainer__plans__configuration``.

    Args:
        package: The model, whose plan gives the names.
        output: The folder itself, if it has the name of trainer, plans and configuration; a dataset's folder, if its
            name begins with "Dataset"; else the folder of all results (nnU-Net's ``nnUNet_results``), where both are
            made.

    Raises:
        PlanError: The plan has names that are no file names.
        OutputError: ``output`` has a name such as nnU-Net's, but another.
    """
    plan = package.plan
    for what, name in (("plans", plan.plans_name), ("configuration", plan.configuration)):
        if not _FILE_NAME.fullmatch(name):
            raise PlanError(f"The plan's {what} cannot be called {name!r} in a file's name. Correct the package.")
    name = f"{TRAINER}__{plan.plans_name}__{plan.configuration}"
    if output.name == name:
        return output
    if "__" in output.name:
        raise OutputError(f"nnU-Net would not find the model in {output}. Call the folder {name}, or give one above.")
    if output.name.startswith("Dataset"):
        return output / name
    known = plan.dataset_name.startswith("Dataset") and _FILE_NAME.fullmatch(plan.dataset_name)
    return output / (plan.dataset_name if known else f"Dataset_{package.card.name}") / name


def what_is_lost(package: ModelPackage) -> tuple[str, ...]:
    """What the model does here and will not do under nnU-Net, in plain words."""
    lost = ["nnU-Net does not check whether an image fits the model, and knows no colours and codes of the labels."]
    orientation = package.card.orientation
    if orientation not in (None, _REORIENTED):
        lost.append(
            f"nnU-Net cannot bring images to {orientation}, for which the model was trained: give it only images that "
            f"are stored in {orientation}. Any other gives wrong labels."
        )
    return tuple(lost)


def _require_runnable(package: ModelPackage) -> None:
    card, class_name = package.card, package.plan.architecture.network_class_name
    if card.guidance_channels:
        raise PackageError(f"{card.name} is guided by clicks, which nnU-Net cannot give it. Export another model.")
    if package.plan.preprocessor != DEFAULT_PREPROCESSOR:
        raise PlanError(
            f"{card.name} prepares images as a MONAI bundle does, which nnU-Net cannot. Export it as ONNX, or run it "
            "with ReCoKD."
        )
    if not class_name.startswith(_NETWORKS):
        raise PlanError(
            f"{card.name} is a {class_name.rpartition('.')[2]} ({class_name}), which nnU-Net cannot build. "
            "Export it as ONNX, or run it as a MONAI Bundle."
        )
    names = [segment.name for segment in package.label_set.segments]
    if len({*names, "background", "ignore"}) < len(names) + 2:
        raise PackageError(
            f"{card.name} has labels that nnU-Net cannot tell apart: {', '.join(names)}. Their names must differ from "
            "each other and from 'background' and 'ignore'."
        )


def _plans(package: ModelPackage) -> dict[str, Any]:
    reoriented = package.card.orientation == _REORIENTED
    return {**package.plan.to_nnunet(), "image_reader_writer": _REORIENTING_READER if reoriented else _READER}


def _dataset(package: ModelPackage) -> dict[str, Any]:
    card = package.card
    return {
        **dataset_json(card, package.label_set),
        "description": card.description,
        "reference": card.licences.attribution,
        "licence": card.licences.weights,
        _OURS: {"model": card.name, "version": card.version, "checksum": package.checksum},
    }


def _state(package: ModelPackage, fold: int) -> dict[str, torch.Tensor]:
    """The weights under all names that nnU-Net's network has for them."""
    from ..networks import build_network, load_weights

    network = build_network(package.plan.architecture, package.plan.channels, package.label_set.number_of_heads)
    load_weights(network, package.weights(fold))
    return dict(network.state_dict())
