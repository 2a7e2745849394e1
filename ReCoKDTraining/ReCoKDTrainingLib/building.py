"""The plan of a run; and student, teacher and losses, brought together."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ReCoKDLib.errors import DatasetError, PackageError, ReCoKDError
from ReCoKDLib.files import read_json
from ReCoKDLib.labels import LabelSet
from ReCoKDLib.networks import build_network, load_weights
from ReCoKDLib.package import ModelPackage
from ReCoKDLib.plan import Plan

from .class_matching import ClassMap
from .connectors import ConnectorOptions
from .datasets import Dataset, Split
from .distiller import Distiller, WeightedLoss
from .fingerprint import Fingerprint
from .losses import SegmentationLoss, build_loss
from .model_fit import TeacherModel, require_same_heads
from .planner import plan_dataset, with_backbone
from .precision import arranged, arranged_teacher
from .recorders import pair_stages, recorder_for
from .run_settings import RunSettings
from .weight_selection import load_selected_weights


def build_distiller(
    student: nn.Module,
    plan: Plan,
    label_set: LabelSet,
    teacher: TeacherModel | None,
    classes: ClassMap | None,
    *,
    losses: Mapping[str, float],
    loss_options: Mapping[str, Mapping[str, Any]],
    ramp: float,
    connectors: ConnectorOptions | None = None,
    dtype: torch.dtype | None,
    teacher_fills: bool = False,
    device: torch.device | None = None,
) -> Distiller:
    """Student, teacher and losses for training with deep supervision.

    Args:
        student: The network of ``plan``, with deep supervision.
        plan: The student's.
        label_set: What the student's outputs mean.
        teacher: Whom to learn from; None for the labels alone.
        classes: From the teacher's classes to the student's.
        losses: Distillation losses with their eta.
        loss_options: Options of each loss; any loss has ``until``, the part of the training after which it is off.
        ramp: Part of the training over which eta rises.
        connectors: How connectors start and learn.
        dtype: Of autocast in both networks; None for float32.
        teacher_fills: Whether the teacher's labels stand in where nobody annotated.
        device: Where it will be trained: both networks are arranged for it, not moved to it. None leaves them as they
            are.

    Raises:
        PackageError: The teacher is an ensemble.
        PlanError: Its weights do not fit its plan.
        ReCoKDError: A loss, an option, or a pair of encoders does not fit; options of a loss that is not used.
    """
    teacher_network, teacher_recorder, decoder = None, None, False
    weighted = {}
    if teacher is not None:
        if unused := sorted(set(loss_options) - set(losses)):
            raise ReCoKDError(
                f"There are options for {', '.join(unused)}, but the losses are {', '.join(losses) or 'none'}. "
                "Add what is missing to the losses, or leave its options out."
            )
        if teacher.card.folds != 1:
            raise PackageError(
                f"The teacher {teacher.card.name} is an ensemble of {teacher.card.folds} folds; features can be "
                "distilled from one network only. Import one of its folds."
            )
        shown = teacher.plan.architecture
        teacher_network = build_network(shown, plan.channels, teacher.label_set.number_of_heads)
        load_weights(teacher_network, teacher.weights(0))
        if device is not None:
            teacher_network = arranged_teacher(teacher_network, device)
        pairing = pair_stages(plan.architecture.strides, shown.strides)
        for name, eta in losses.items():
            options = dict(loss_options.get(name, {}))
            until = options.pop("until", math.inf)
            if isinstance(until, bool) or not isinstance(until, (int, float)):
                raise ReCoKDError(f"'until' of the loss '{name}' is no number: {until!r}. Write it as 0.5.")
            loss = build_loss(
                name,
                teacher_channels=[shown.features_per_stage[place] for place in pairing],
                student_channels=plan.architecture.features_per_stage,
                label_set=label_set,
                options=options,
            )
            weighted[name] = WeightedLoss(loss, eta, until)
        decoder = any(entry.loss.uses_decoder for entry in weighted.values())
        teacher_recorder = recorder_for(shown, decoder)
    return Distiller(
        student if device is None else arranged(student, device, plan.architecture),
        teacher_network,
        SegmentationLoss(label_set, plan.architecture.outputs, plan.batch_dice),
        weighted,
        ramp=ramp,
        teacher_dtype=dtype,
        amp_dtype=dtype,
        recorder=recorder_for(plan.architecture, decoder),
        teacher_recorder=teacher_recorder,
        class_map=classes,
        teacher_fills=teacher_fills,
        connectors=connectors,
    )


def distiller_for(
    settings: RunSettings,
    plan: Plan,
    dataset: Dataset,
    split: Split,
    teacher: ModelPackage | None,
    classes: ClassMap | None,
    initial: ModelPackage | None,
    device: torch.device,
    dtype: torch.dtype | None,
) -> Distiller:
    """Student, teacher and losses of a run, not yet on its device.

    Args:
        settings: What is asked.
        plan: The student's.
        dataset: The cases.
        split: Which of them are trained on.
        teacher: Whom to learn from; None for the labels alone.
        classes: From the teacher's classes to the student's.
        initial: Whose weights, or a part of them, training starts from; None for random ones.
        device: Where it will be trained.
        dtype: Of autocast in both networks.

    Raises:
        ReCoKDError: The losses do not fit the teacher or the cases, or the initial weights do not fit the plan.
    """
    torch.manual_seed(settings.seed)
    student = build_network(plan.architecture, plan.channels, dataset.label_set.number_of_heads, deep_supervision=True)
    distiller = build_distiller(
        student,
        plan,
        dataset.label_set,
        teacher,
        classes,
        losses=settings.losses,
        loss_options=settings.loss_options,
        ramp=settings.ramp,
        connectors=settings.connectors,
        dtype=dtype,
        teacher_fills=any(not case.labelled or case.partly_labelled for case in split.training),
        device=device,
    )
    if initial is not None:
        load_selected_weights(distiller.student, initial.weights(0))
    return distiller


def require_held_out(settings: RunSettings, split: Split) -> None:
    """Check that there are cases to measure, where the end of the training or its weights depend on that.

    Raises:
        DatasetError: There are none.
    """
    if not split.validation and (settings.patience > 0 or settings.ship == "best"):
        raise DatasetError("Early stopping and the best weights need held-out cases. The split has none in 'val'.")


def initial_weights(settings: RunSettings, dataset: Dataset) -> ModelPackage | None:
    """The model whose weights training starts from; None where that are random ones.

    Raises:
        PackageError: It cannot be used, or has other labels.
    """
    if settings.initial is None:
        return None
    model = ModelPackage.open(settings.initial)
    require_same_heads(model, dataset)
    return model


def plan_for(
    settings: RunSettings, dataset: Dataset, fingerprint: Fingerprint | None, teacher: ModelPackage | None
) -> Plan:
    """The plan of the network that is trained: the teacher's, the one that is given, or one that is made.

    Raises:
        ReCoKDError: There are two, it is malformed, or the data do not allow one.

    The training cases' fingerprint is needed only where a plan is made.
    """
    if teacher is not None:
        if settings.plan is not None:
            raise ReCoKDError("A student uses its teacher's plan. Leave out --plan.")
        full = teacher.plan
    elif settings.plan is not None:
        full = Plan.from_nnunet(read_json(settings.plan))
    else:
        assert fingerprint is not None
        full = plan_dataset(
            fingerprint,
            dataset.channel_names,
            dataset.label_set,
            dataset_name=dataset.name,
            planner=settings.planner,
            memory_gb=settings.memory_gb,
        )
    if settings.backbone and settings.backbone != full.architecture.backbone.name:
        full = with_backbone(full, settings.backbone)
    return full.with_width(settings.width)
