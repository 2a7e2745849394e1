"""From nnU-Net v2's results, one fold or several, to a model package."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..card import Card, ChannelInfo, Licences, TrainingRecord
from ..errors import DatasetError, PackageError, PlanError
from ..files import sha256
from ..labels import LabelSet
from ..package import require_package_place, write_package
from ..package_files import model_name
from ..plan import Plan
from .checkpoints import read_checkpoint, unwrapped
from .nnunet_results import checkpoint_files, find_results_folder, json_object

if TYPE_CHECKING:
    import torch

# Which of nnU-Net's readers bring every image to RAS, and which take it as it is stored.
_READERS = {
    "SimpleITKIO": None,
    "NibabelIO": None,
    "Tiff3DIO": None,
    "SimpleITKIOWithReorient": "RAS",
    "NibabelIOWithReorient": "RAS",
}


@dataclass(frozen=True)
class NnunetModel:
    """What a results folder holds.

    Attributes:
        plan: The trained configuration.
        label_set: Of its ``dataset.json``.
        card: Made from what the folder tells.
        weights: Each fold's state dictionary as nnU-Net wrote it.
    """

    plan: Plan
    label_set: LabelSet
    card: Card
    weights: tuple[dict[str, torch.Tensor], ...]


def import_nnunet(
    results: Path,
    output: Path,
    *,
    folds: Sequence[str] | None = None,
    checkpoint: str = "final",
    orientation: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Make a teacher's package; the logits of several folds will be averaged, as nnU-Net averages them.

    Args:
        results: ``.../Dataset004_Hippocampus/nnUNetTrainer__nnUNetPlans__3d_fullres``, or a folder above it if
            that holds just one such folder.
        output: The package: a folder, or a file that ends in ``.zip``.
        folds: Of ``"0"``, ``"1"`` ... and ``"all"``, which is nnU-Net's ``fold_all``, trained on all cases; None for
            every numbered fold that holds the checkpoint.
        checkpoint: ``"final"`` or ``"best"``.
        orientation: Axis codes (``"RAS"``) that all training images had, so that inputs are brought there; None
            does as the plan's reader does, which mostly takes them as they are.
        overwrite: Replace an existing package.

    Raises:
        InputError: ``results`` is not a results folder, or lacks a fold or the checkpoint.
        DatasetError: dataset.json does not fit the plan or the checkpoint.
        PlanError: The plan or network is of a kind that is not supported, or the weights do not fit it.
        PackageError: The checkpoint is damaged or holds more than plain data.
        OutputError: The package exists or cannot be written.
    """
    require_package_place(output, overwrite)
    model = read_results(results, model_name(output), folds=folds, checkpoint=checkpoint, orientation=orientation)
    return write_package(output, model.card, model.plan, model.label_set, model.weights, overwrite)


def read_results(
    results: Path,
    name: str,
    *,
    folds: Sequence[str] | None = None,
    checkpoint: str = "final",
    orientation: str | None = None,
) -> NnunetModel:
    """Read the folds; arguments and errors are those of :func:`import_nnunet`, ``name`` is for the card."""
    folder = find_results_folder(results)
    dataset = json_object(folder / "dataset.json")
    plans = json_object(folder / "plans.json")
    files = checkpoint_files(folder, folds, checkpoint)
    first = read_checkpoint(files[0])
    configuration = _configuration(folder, first)
    if configuration == "2d":
        raise PlanError(f"{folder} holds a 2D network; only 3D ones can be imported. Train 3d_fullres or 3d_lowres.")
    plan = Plan.from_nnunet(plans, configuration)
    label_set = LabelSet.from_dataset_json(dataset)
    channels = _channels(dataset, plan)
    weights = []
    for file in files:
        content = first if file == files[0] else read_checkpoint(file)
        if _configuration(folder, content) != configuration:
            raise PlanError(
                f"{files[0]} was trained as {configuration}, {file} as {_configuration(folder, content)}. "
                "Choose folds of one training with --folds."
            )
        _require_same_dataset(file, content, dataset)
        weights.append(_network_weights(file, content))
    licence = dataset.get("licence") or dataset.get("license") or ""
    fingerprint = folder / "dataset_fingerprint.json"
    card = Card(
        name=name,
        role="teacher",
        channels=channels,
        description=f"{first.get('trainer_name', 'nnU-Net')} on {plan.dataset_name}, imported from nnU-Net v2.",
        orientation=_orientation(plans, orientation),
        mirror_axes=tuple(int(axis) for axis in first.get("inference_allowed_mirroring_axes") or ()),
        training=TrainingRecord(
            dataset=plan.dataset_name,
            fingerprint=sha256(fingerprint) if fingerprint.is_file() else "",
            cases=int(dataset["numTraining"]) if str(dataset.get("numTraining", "")).isdigit() else None,
            batch_size=plan.batch_size,
            options={
                "trainer": str(first.get("trainer_name", "")),
                "configuration": configuration,
                "folds": [file.parent.name.removeprefix("fold_") for file in files],
                "checkpoint": files[0].name,
                "checkpoint_sha256": [sha256(file) for file in files],
                "epochs": first.get("current_epoch"),
            },
        ),
        metrics=_validation([file.parent / "validation" / "summary.json" for file in files], label_set),
        licences=Licences(weights=f"as the training data: {licence}" if licence else "", attribution=_source(dataset)),
    )
    return NnunetModel(plan, label_set, card, tuple(weights))


def _configuration(folder: Path, content: Mapping[str, Any]) -> str:
    return str(_init_args(content).get("configuration") or folder.name.rpartition("__")[2])


def _init_args(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the trainer was made with: plans, configuration, fold, dataset_json."""
    arguments = content.get("init_args")
    return arguments if isinstance(arguments, Mapping) else {}


def _require_same_dataset(file: Path, content: Mapping[str, Any], dataset: Mapping[str, Any]) -> None:
    """The network's outputs and inputs are only known by their order: their names must be those of its training."""
    trained = _init_args(content).get("dataset_json")
    if not isinstance(trained, Mapping):
        return
    for key in ("labels", "regions_class_order", "channel_names"):
        # As text, since the order counts too: that of regions is the order of the network's outputs.
        here, there = json.dumps(dataset.get(key)), json.dumps(trained.get(key))
        if key in trained and here != there:
            raise DatasetError(
                f"The {key} in dataset.json are {here}, in {file} {there}. Restore the dataset.json of that training."
            )


def _orientation(plans: Mapping[str, Any], told: str | None) -> str | None:
    """Where volumes are brought first: by the plan's reader, or by what the user knows of the training images."""
    reader = plans.get("image_reader_writer", "SimpleITKIO")
    if reader not in _READERS:
        if told is None:
            raise PlanError(
                f"The plan reads images by {reader!r}, somebody's own code, so it is not known in which axes the "
                "network sees them. If all were brought to one orientation, say which (--orientation RAS)."
            )
        return told
    brought = _READERS[reader]
    if brought is not None and told not in (None, brought):
        raise PlanError(f"The plan's reader brings images to {brought}, not to {told}. Leave --orientation away.")
    return brought or told


def _network_weights(file: Path, content: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    import torch

    weights = content.get("network_weights")
    if not isinstance(weights, Mapping) or not all(isinstance(v, torch.Tensor) for v in weights.values()):
        raise PackageError(f"The checkpoint {file} is not one of nnU-Net v2: it has no 'network_weights'.")
    return unwrapped(weights)


def _channels(dataset: Mapping[str, Any], plan: Plan) -> tuple[ChannelInfo, ...]:
    names = dataset.get("channel_names") or dataset.get("modality") or {}
    if not isinstance(names, Mapping) or len(names) != plan.channels:
        raise DatasetError(
            f"dataset.json names {len(names)} channel(s), the plan has {plan.channels}. "
            "Restore the two files of one training."
        )
    channels = []
    for index, scheme in enumerate(plan.normalization_schemes):
        name = str(names.get(str(index), f"channel {index}"))
        is_ct = scheme == "CTNormalization"
        channels.append(ChannelInfo(name, "CT", "HU") if is_ct else ChannelInfo.named(name))
    return tuple(channels)


def _source(dataset: Mapping[str, Any]) -> str:
    parts = (dataset.get("name"), dataset.get("description"), dataset.get("reference"))
    return ". ".join(str(part) for part in parts if part)


def _validation(paths: Sequence[Path], label_set: LabelSet) -> dict[str, Any]:
    """Dice by nnU-Net's own validation of the folds, where it was run: the mean over cases, then over folds."""
    # nnU-Net names a label by its value and a region by its values, "(1, 2)".
    keys = {
        segment.name: str(segment.region) if label_set.has_regions else str(segment.value)
        for segment in label_set.segments
    }
    folds = []
    for path in paths:
        try:
            mean = json.loads(path.read_text(encoding="utf-8"))["mean"]
            folds.append({name: float(mean[key]["Dice"]) for name, key in keys.items()})
        except (OSError, ValueError, KeyError, TypeError):
            continue
    if not folds:
        return {}
    return {"dice_of_nnunet_validation": {name: sum(fold[name] for fold in folds) / len(folds) for name in keys}}
