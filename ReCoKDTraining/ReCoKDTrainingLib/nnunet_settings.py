"""What ``nnUNetTrainerReCoKD`` is told by environment variables, and what it does to nnU-Net's plans.

nnU-Net itself is not needed here.

===================== ==================================================================== =============
variable              meaning                                                              default
===================== ==================================================================== =============
RECOKD_TEACHER        model package, or results folder of nnU-Net v2                       (needed)
RECOKD_TEACHER_FOLD   fold of a results folder                                             the fold that
                                                                                           is trained
RECOKD_WIDTH          the student's t: 1/2^t of the channels, 0 to 3                       2
RECOKD_LOSSES         distillation losses with their eta, as ``reco=1,logits=0.5``         logits=3
RECOKD_LOSS_OPTIONS   options of the losses in JSON, as ``{"reco": {"masks": "area"}}``    (none)
RECOKD_RAMP           part of the training over which eta rises, 0 to 1                    0.6
RECOKD_EPOCHS         epochs                                                               1000
===================== ==================================================================== =============
"""

from __future__ import annotations

import copy
import difflib
import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from ReCoKDLib.card import Card
from ReCoKDLib.errors import InputError, PackageError
from ReCoKDLib.exchange.nnunet_import import read_results
from ReCoKDLib.labels import LabelSet
from ReCoKDLib.networks import plain_state
from ReCoKDLib.package import ModelPackage
from ReCoKDLib.package_files import CHECKSUMS
from ReCoKDLib.plan import Plan

from .model_fit import TeacherModel
from .parsing import parse_loss_options, parse_losses

PREFIX = "RECOKD_"
_NAMES = ("TEACHER", "TEACHER_FOLD", "WIDTH", "LOSSES", "LOSS_OPTIONS", "RAMP", "EPOCHS")
_TOLERANCE = 0.01
"""By which part the numbers of two plans may differ and still mean the same preprocessing."""

Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class DistillationVariables:
    """The environment variables, read.

    Attributes:
        teacher: Model package or results folder.
        teacher_fold: Fold of a results folder; None for the one that is trained.
        width: The student's t.
        losses: Distillation losses with their eta.
        loss_options: Options of each loss.
        ramp: Part of the training over which eta rises.
        epochs: Length of the training.
    """

    teacher: Path
    teacher_fold: str | None
    width: int
    losses: Mapping[str, float]
    loss_options: Mapping[str, Mapping[str, Any]]
    ramp: float
    epochs: int

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> DistillationVariables:
        """Read the variables; one that is empty counts as not set.

        Raises:
            InputError: There is no teacher, or a variable is misspelt.
            ReCoKDError: A value is not of its kind; the message names the variable or the form.
        """
        known = [PREFIX + name for name in _NAMES]
        for name in sorted(set(environment) - set(known)):
            meant = difflib.get_close_matches(name, known, 1, 0.85) if name.startswith(PREFIX) else []
            if meant:
                raise InputError(f"{name} is not a variable of nnUNetTrainerReCoKD; {meant[0]} is. Rename it.")
        given = {name: environment.get(PREFIX + name, "").strip() for name in _NAMES}
        if not given["TEACHER"]:
            raise InputError(
                f"{PREFIX}TEACHER is not set. Set it to the teacher: a model package (.recokd.zip), or a results "
                "folder of nnU-Net v2."
            )
        return cls(
            teacher=Path(given["TEACHER"]).expanduser(),
            teacher_fold=given["TEACHER_FOLD"] or None,
            width=_number("WIDTH", given["WIDTH"] or "2", int, 0, 3),
            losses=parse_losses(given["LOSSES"] or "logits=3"),
            loss_options=parse_loss_options(given["LOSS_OPTIONS"]),
            ramp=_number("RAMP", given["RAMP"] or "0.6", float, 0, 1),
            epochs=_number("EPOCHS", given["EPOCHS"] or "1000", int, 1, math.inf),
        )

    def to_dict(self) -> dict[str, Any]:
        """What makes a training what it is, as plain values; the teacher's place is not of it."""
        return {
            "width": self.width,
            "losses": dict(self.losses),
            "loss_options": {name: dict(options) for name, options in self.loss_options.items()},
            "ramp": self.ramp,
            "epochs": self.epochs,
        }


def _number(name: str, text: str, kind: Callable[[str], Number], smallest: float, largest: float) -> Number:
    try:
        value = kind(text)
    except ValueError:
        value = kind("-1")
    if not smallest <= value <= largest:
        what = "a whole number" if kind is int else "a number"
        limits = f"of {smallest} or more" if largest == math.inf else f"from {smallest} to {largest}"
        raise InputError(f"{PREFIX}{name} must be {what} {limits}; it is {text!r}.")
    return value


@dataclass(frozen=True)
class NnunetTask:
    """What nnU-Net's dataset.json says is to be segmented in what."""

    name: str
    channel_names: tuple[str, ...]
    label_set: LabelSet

    @classmethod
    def from_dataset_json(cls, name: str, dataset: Mapping[str, Any]) -> NnunetTask:
        """Read ``channel_names`` (``modality`` in older files) and the labels.

        Raises:
            DatasetError: The labels are not of the kind that is supported.
        """
        channels = dataset.get("channel_names") or dataset.get("modality") or {}
        return cls(name, tuple(str(c) for c in channels.values()), LabelSet.from_dataset_json(dataset))


def student_plans(plans: Mapping[str, Any], configuration: str, width: int) -> dict[str, Any]:
    """nnU-Net's plans in which one configuration has the student's network; all else is as it was.

    Raises:
        PlanError: The configuration is of a kind that is not supported (2D, a cascade, ...).
    """
    student = Plan.from_nnunet(plans, configuration).with_width(width).to_nnunet()
    changed = copy.deepcopy(dict(plans))
    changed["configurations"][configuration]["architecture"] = student["configurations"][configuration]["architecture"]
    return changed


@dataclass(frozen=True)
class _ResultsTeacher:
    """One fold of a results folder, which is read and not written anywhere."""

    plan: Plan
    label_set: LabelSet
    card: Card
    state: Mapping[str, torch.Tensor] = field(repr=False)

    def weights(self, fold: int = 0) -> dict[str, torch.Tensor]:
        """Its state dictionary."""
        return dict(self.state)


def open_teacher(path: Path, fold: str) -> TeacherModel:
    """A model package, or one fold of a results folder of nnU-Net.

    Raises:
        InputError: It is neither, or it lacks the fold.
        PackageError: It is damaged, or holds more than plain data.
        PlanError: Its plan or network is not supported.
    """
    if not path.exists():
        raise InputError(f"{PREFIX}TEACHER names {path}, which does not exist.")
    if path.is_file() or (path / CHECKSUMS).is_file():
        return ModelPackage.open(path)
    try:
        model = read_results(path, path.name, folds=(fold,))
    except InputError as error:
        raise InputError(f"{error} The folder is that of {PREFIX}TEACHER, the fold {PREFIX}TEACHER_FOLD.") from error
    return _ResultsTeacher(model.plan, model.label_set, model.card, model.weights[0])


def require_same_preprocessing(plan: Plan, teacher: TeacherModel) -> None:
    """Check that the images that nnU-Net has prepared by ``plan`` are what the teacher is used to.

    Raises:
        PackageError: Their axes, spacing or intensities differ; the message says which.
    """
    theirs = teacher.plan
    pairs: dict[str, tuple[Any, Any]] = {
        "axis order": (theirs.transpose_forward, plan.transpose_forward),
        "normalisation": (theirs.normalization_schemes, plan.normalization_schemes),
        "normalisation by a mask": (theirs.use_mask_for_norm, plan.use_mask_for_norm),
        "spacing": (theirs.spacing, plan.spacing),
    }
    for channel, scheme in enumerate(plan.normalization_schemes):
        if scheme == "CTNormalization" and theirs.channels == plan.channels:
            pairs[f"intensities of channel {channel}"] = (
                _ct_intensities(theirs, channel),
                _ct_intensities(plan, channel),
            )
    for what, (its, ours) in pairs.items():
        if not _alike(its, ours):
            raise PackageError(
                f"The teacher {teacher.card.name} was trained on images that were prepared otherwise: {what} is {its} "
                f"there and {ours} in the plans of this training. Give nnU-Net the teacher's plans "
                "(nnUNetv2_move_plans_between_datasets) and preprocess with them, or use another teacher."
            )


def _ct_intensities(plan: Plan, channel: int) -> tuple[float, ...]:
    properties = plan.intensity_properties[channel]
    return tuple(properties[name] for name in ("mean", "std", "percentile_00_5", "percentile_99_5"))


def _alike(a: tuple[Any, ...], b: tuple[Any, ...]) -> bool:
    if not all(isinstance(value, float) for value in (*a, *b)):
        return a == b
    return len(a) == len(b) and all(math.isclose(x, y, rel_tol=_TOLERANCE) for x, y in zip(a, b, strict=True))


def network_checksum(network: nn.Module) -> str:
    """SHA-256 of a network's weights, whatever file they came from."""
    digest = hashlib.sha256()
    for key, tensor in sorted(plain_state(network).items()):
        digest.update(key.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
