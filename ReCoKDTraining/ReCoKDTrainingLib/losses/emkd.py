"""EMKD's importance maps and region affinity, in 3D.

Qin et al., "Efficient Medical Image Segmentation Based on Knowledge Distillation", IEEE TMI 2021, arXiv 2108.09987.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ReCoKDLib.errors import ReCoKDError
from ReCoKDLib.labels import LabelSet

from .attention_transfer import importance_difference
from .class_means import class_mean
from .reduction import mean_over_present
from .regions import class_masks
from .registry import LossSetting, read_options, register
from .stagewise import StageOptions, StagewiseLoss, brought_to, unit_length


@dataclass(frozen=True)
class EmkdOptions(StageOptions):
    """Options of EMKD.

    Attributes:
        importance: coefficient of the importance maps.
        affinity: coefficient of the region affinities.
        power: of |F| in the importance maps; the authors' code has 4.
    """

    importance: float = 1.0
    affinity: float = 1.0
    power: int = 4

    def __post_init__(self) -> None:
        """Raise ReCoKDError for a negative coefficient, two of 0, or a power below 1."""
        super().__post_init__()
        if min(self.importance, self.affinity) < 0 or self.power < 1:
            raise ReCoKDError("EMKD's coefficients must be 0 or more, and its power 1 or more.")
        if max(self.importance, self.affinity) == 0:
            raise ReCoKDError("Both of EMKD's coefficients are 0: nothing is distilled. Raise one of them.")


def region_affinity(features: Tensor, masks: Tensor) -> Tensor:
    """Cosines between the mean features of the regions: (B, C, N) and (B, R, N) to (B, R, R)."""
    means = torch.stack([class_mean(features, masks[:, r]) for r in range(masks.shape[1])], dim=1)
    directions = unit_length(means, 2)
    return torch.bmm(directions, directions.transpose(1, 2))


class EmkdLoss(StagewiseLoss):
    """Importance maps and region affinity, the mean over the stages; the authors give both a weight of 0.9.

    They compare two maps, of features that were brought to one size before, and add the two up. Nearly all of the pull
    comes from the importance maps: 0.9 pulls twelve times as hard as nnU-Net's loss at the start of a narrow student.
    The regions are background and every segment, and those of a case are compared pair by pair; with two classes it
    is the authors' contrast of inside and outside. An absent region has no pair. Their third part distils the logits:
    add it as ``logits=0.1`` (T = 4). Neither part needs a connector.
    """

    def __init__(self, options: EmkdOptions, number: int, label_set: LabelSet) -> None:
        super().__init__(options, number)
        self.options = options
        self.label_set = label_set

    def stage_terms(self, stage: int, student: Tensor, teacher: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The terms ``importance`` and ``affinity``."""
        maps = importance_difference(student, teacher, self.options.power)
        masks = torch.stack(list(class_masks(labels, teacher.shape[2:], self.label_set, "nearest")), dim=1)
        ours = brought_to(student, teacher.shape[2:]).flatten(2)
        seen = region_affinity(ours, masks.to(ours.dtype))
        shown = region_affinity(teacher.flatten(2), masks.to(teacher.dtype))
        there = masks.any(2)
        pairs = torch.triu(there[:, :, None] & there[:, None, :], diagonal=1).to(seen.dtype)
        affinity = mean_over_present((pairs * (seen - shown).square()).sum(), pairs.sum())
        return {"importance": self.options.importance * maps, "affinity": self.options.affinity * affinity}


@register("emkd")
def build_emkd_loss(setting: LossSetting, options: Mapping[str, Any]) -> EmkdLoss:
    """EMKD for the registry."""
    return EmkdLoss(read_options("emkd", EmkdOptions, options), len(setting.teacher_channels), setting.label_set)
