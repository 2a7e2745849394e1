"""Structured distillation, its pairwise part (Liu et al., "Structured Knowledge Distillation", arXiv 1903.04197)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ReCoKDLib.errors import ReCoKDError

from .registry import LossSetting, read_options, register
from .stagewise import StageOptions, StagewiseLoss, capped_grid, unit_length

MOST_CELLS = 8
"""Along each axis: 512 nodes have a matrix of a quarter of a million similarities."""


@dataclass(frozen=True)
class SkdOptions(StageOptions):
    """Options of pairwise distillation.

    Attributes:
        scale: the length of a node's window, as a part of the stage's.
    """

    scale: float = 0.5

    def __post_init__(self) -> None:
        """Raise ReCoKDError for windows that are larger than the stage, or too many of them."""
        super().__post_init__()
        if not 1 / MOST_CELLS <= self.scale <= 0.5:
            raise ReCoKDError(f"The scale must be between {1 / MOST_CELLS} and 0.5, not {self.scale}.")


def similarities(features: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """a_ij = f_i . f_j / (|f_i| |f_j|) between max-pooled nodes: (B, C, D, H, W) to (B, T, T) for T nodes."""
    nodes = unit_length(functional.adaptive_max_pool3d(features, grid).flatten(2), 1)
    return torch.bmm(nodes.transpose(1, 2), nodes)


class SkdLoss(StagewiseLoss):
    """Mean over all pairs of nodes of (a_ij^S - a_ij^T)^2 (equation 2), mean over the stages.

    Similarities are between -1 and 1 whatever the width, so no connector is needed. The gradient is that of the
    formula; the authors' code keeps the lengths |f_i| constant in it. The maxima over half a stage a side, their scale,
    are much the same in all nodes of an image of one organ, and the loss hardly pulls then: more nodes (``scale`` 0.25)
    and a larger weight (10) do.
    """

    def __init__(self, options: SkdOptions, number: int) -> None:
        super().__init__(options, number)
        self.cells = round(1 / options.scale)

    def stage_terms(self, stage: int, student: Tensor, teacher: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The one term ``pairwise``."""
        grid = capped_grid(self.cells, student.shape[2:], teacher.shape[2:])
        return {"pairwise": functional.mse_loss(similarities(student, grid), similarities(teacher, grid))}


@register("skd")
def build_skd_loss(setting: LossSetting, options: Mapping[str, Any]) -> SkdLoss:
    """Pairwise distillation for the registry."""
    return SkdLoss(read_options("skd", SkdOptions, options), len(setting.teacher_channels))
