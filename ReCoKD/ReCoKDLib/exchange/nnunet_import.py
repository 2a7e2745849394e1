"""From one fold of nnU-Net v2's results to a model package."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..card import Card, ChannelInfo, Licences, TrainingRecord
from ..errors import DatasetError, InputError, PackageError, PlanError
from ..files import read_json, sha256
from ..labels import LabelSet
from ..package import require_package_place, write_package
from ..package_files import model_name
from ..plan import Plan
from .checkpoints import read_checkpoint, unwrapped

if TYPE_CHECKING:
    import torch

CHECKPOINTS = ("final", "best")


@dataclass(frozen=True)
class NnunetModel:
    """What one fold of a results folder holds.

    Attributes:
        plan: The trained configuration.
        label_set: Of its ``dataset.json``.
        card: Made from what the folder tells.
        weights: The network's state dictionary as nnU-Net wrote it.
    """

    plan: Plan
    label_set: LabelSet
    card: Card
    weights: dict[str, torch.Tensor]


def import_nnunet(
    results: Path,
    output: Path,
    *,
    fold: str = "0",
    checkpoint: str = "final",
    orientation: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Make a teacher's package of one fold.

    Args:
        results: ``.../Dataset004_Hippocampus/nnUNetTrainer__nnUNetPlans__3d_fullres``, or the folder above it if
            that holds just one such folder.
        output: The package: a folder, or a file that ends in ``.zip``.
        fold: ``"0"`` to ``"4"``, or ``"all"``.
        checkpoint: ``"final"`` or ``"best"``.
        orientation: Axis codes (``"RAS"``) that all training images had, so that inputs are brought there; None
            takes them as they are, as nnU-Net does.
        overwrite: Replace an existing package.

    Raises:
        InputError: ``results`` is not a results folder, or lacks the fold or the checkpoint.
        PlanError: The plan or network is of a kind that is not supported, or the weights do not fit it.
        PackageError: The checkpoint is damaged or holds more than plain data.
        OutputError: The package exists or cannot be written.
    """
    require_package_place(output, overwrite)
    model = read_results(results, model_name(output), fold=fold, checkpoint=checkpoint)
    card = replace(model.card, orientation=orientation)
    return write_package(output, card, model.plan, model.label_set, [model.weights], overwrite)


def read_results(results: Path, name: str, *, fold: str = "0", checkpoint: str = "final") -> NnunetModel:
    """Read one fold; arguments and errors are those of :func:`import_nnunet`, ``name`` is for the card."""
    folder = find_results_folder(results)
    dataset = _object(folder / "dataset.json")
    file = _checkpoint_file(folder, fold, checkpoint)
    content = read_checkpoint(file)
    configuration = str((content.get("init_args") or {}).get("configuration") or folder.name.rpartition("__")[2])
    if configuration == "2d":
        raise PlanError(f"{folder} holds a 2D network; only 3D ones can be imported. Train 3d_fullres or 3d_lowres.")
    plan = Plan.from_nnunet(_object(folder / "plans.json"), configuration)
    label_set = LabelSet.from_dataset_json(dataset)
    channels = _channels(dataset, plan)
    licence = dataset.get("licence") or dataset.get("license") or ""
    fingerprint = folder / "dataset_fingerprint.json"
    card = Card(
        name=name,
        role="teacher",
        channels=channels,
        description=f"{content.get('trainer_name', 'nnU-Net')} on {plan.dataset_name}, imported from nnU-Net v2.",
        mirror_axes=tuple(int(axis) for axis in content.get("inference_allowed_mirroring_axes") or ()),
        training=TrainingRecord(
            dataset=plan.dataset_name,
            fingerprint=sha256(fingerprint) if fingerprint.is_file() else "",
            cases=int(dataset["numTraining"]) if str(dataset.get("numTraining", "")).isdigit() else None,
            batch_size=plan.batch_size,
            options={
                "trainer": str(content.get("trainer_name", "")),
                "configuration": configuration,
                "fold": fold,
                "checkpoint": file.name,
                "checkpoint_sha256": sha256(file),
                "epochs": content.get("current_epoch"),
            },
        ),
        metrics=_validation(file.parent / "validation" / "summary.json", label_set),
        licences=Licences(weights=f"as the training data: {licence}" if licence else "", attribution=_source(dataset)),
    )
    return NnunetModel(plan, label_set, card, _network_weights(file, content))


def find_results_folder(path: Path) -> Path:
    """The folder with ``plans.json`` and ``dataset.json``: ``path`` or its only such child.

    Raises:
        InputError: There is none, or more than one.
    """
    if not path.is_dir():
        raise InputError(f"{path} is not a folder. Give nnU-Net's results folder, which holds plans.json.")
    if _is_results(path):
        return path
    children = sorted(child for child in path.iterdir() if child.is_dir() and _is_results(child))
    if len(children) == 1:
        return children[0]
    if children:
        names = ", ".join(child.name for child in children)
        raise InputError(f"{path} holds several results folders: {names}. Give one of them.")
    raise InputError(
        f"{path} is not a results folder of nnU-Net v2: it lacks plans.json or dataset.json. Give the folder "
        "called like nnUNetTrainer__nnUNetPlans__3d_fullres."
    )


def _is_results(folder: Path) -> bool:
    return (folder / "plans.json").is_file() and (folder / "dataset.json").is_file()


def _object(path: Path) -> dict[str, Any]:
    value = read_json(path)
    if not isinstance(value, dict):
        raise InputError(f"{path} is not what nnU-Net writes. Restore it.")
    return value


def _checkpoint_file(folder: Path, fold: str, checkpoint: str) -> Path:
    chosen = folder / f"fold_{fold}"
    if not chosen.is_dir():
        found = ", ".join(sorted(child.name[5:] for child in folder.glob("fold_*") if child.is_dir())) or "none"
        raise InputError(f"{folder} has no fold {fold}. It has: {found}. Choose with --fold.")
    file = chosen / f"checkpoint_{checkpoint}.pth"
    if not file.is_file():
        found = ", ".join(sorted(other.name for other in chosen.glob("checkpoint_*.pth"))) or "none"
        raise InputError(
            f"{chosen} has no {file.name}. It has: {found}. Choose with --checkpoint, or finish the training."
        )
    return file


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


def _validation(path: Path, label_set: LabelSet) -> dict[str, Any]:
    """Mean Dice by nnU-Net's own validation of the fold, where it was run."""
    try:
        mean = json.loads(path.read_text(encoding="utf-8"))["mean"]
        # nnU-Net names a label by its value and a region by its values, "(1, 2)".
        keys = {
            segment.name: str(segment.region) if label_set.has_regions else str(segment.value)
            for segment in label_set.segments
        }
        return {"dice_of_nnunet_validation": {name: float(mean[key]["Dice"]) for name, key in keys.items()}}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
