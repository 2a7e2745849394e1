"""Intra-class feature variation distillation (Wang et al., ECCV 2020), in 3D."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ReCoKDLib.labels import LabelSet

from .class_means import class_mean, likeness
from .reduction import mean_over_present
from .regions import class_masks
from .registry import LossSetting, read_options, register
from .stagewise import StageOptions, StagewiseLoss, brought_to, unit_length


class IfvdLoss(StagewiseLoss):
    """Mean over the labelled voxels of (cos(F_S, mean_S) - cos(F_T, mean_T))^2 (equations 1 and 2), for every stage.

    The mean is that of the voxel's class in its case; background is a class. Each side has means of its own, so no
    connector is needed. A voxel in several regions counts in each of them; an ignored one in none.
    """

    def __init__(self, options: StageOptions, number: int, label_set: LabelSet) -> None:
        super().__init__(options, number)
        self.label_set = label_set

    def stage_terms(self, stage: int, student: Tensor, teacher: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The one term ``variation``."""
        ours = brought_to(student, teacher.shape[2:]).flatten(2)
        theirs = teacher.flatten(2)
        our_directions, their_directions = unit_length(ours, 1), unit_length(theirs, 1)
        total, count = ours.sum() * 0, ours.new_zeros(())
        for mask in class_masks(labels, teacher.shape[2:], self.label_set, "nearest"):
            seen = likeness(our_directions, class_mean(ours, mask.to(ours.dtype)))
            with torch.no_grad():
                shown = likeness(their_directions, class_mean(theirs, mask.to(theirs.dtype)))
            total = total + (mask * (seen - shown).square()).sum()
            count = count + mask.sum()
        return {"variation": mean_over_present(total, count)}


@register("ifvd")
def build_ifvd_loss(setting: LossSetting, options: Mapping[str, Any]) -> IfvdLoss:
    """Intra-class feature variation distillation for the registry."""
    return IfvdLoss(read_options("ifvd", StageOptions, options), len(setting.teacher_channels), setting.label_set)
