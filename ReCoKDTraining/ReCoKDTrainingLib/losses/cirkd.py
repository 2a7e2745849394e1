"""Cross-image relations (Yang et al., "Cross-Image Relational Knowledge Distillation", arXiv 2204.06986), in 3D."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ReCoKDLib.errors import ReCoKDError

from .reduction import gather_over_processes
from .registry import LossSetting, read_options, register
from .stagewise import StageOptions, StagewiseLoss, capped_grid, unit_length

CELLS = 4
"""Tokens along each axis."""


@dataclass(frozen=True)
class CirkdOptions(StageOptions):
    """Options of cross-image relations.

    Attributes:
        tau: the temperature of the softmax over the tokens of the other image.
    """

    tau: float = 0.1

    def __post_init__(self) -> None:
        """Raise ReCoKDError for a temperature that isn't positive."""
        super().__post_init__()
        if not self.tau > 0:
            raise ReCoKDError(f"The temperature tau must be above 0, not {self.tau}.")


def tokens(features: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """Average-pooled and L2-normalised over the channels: (B, C, D, H, W) to (B, T, C)."""
    return unit_length(functional.adaptive_avg_pool3d(features, grid).flatten(2), 1).transpose(1, 2)


def relations(z: Tensor, tau: float) -> Tensor:
    """Log of the row-softmax of z_i z_j^T / tau for all pairs of images: (B, T, C) to (B, B, T, T)."""
    scores = torch.einsum("itc,juc->ijtu", z, z)
    return (scores / tau).log_softmax(3)


class CirkdLoss(StagewiseLoss):
    """Mean over pairs of images of the batch and rows of KL(relations_T || relations_S), mean over the stages.

    The paper's mini-batch pixel-to-pixel part; its memory banks are left out. The teacher comes first in the KL, as in
    the authors' code. An image is paired with itself too. Relations have no channels, so no connector is needed. With
    several processes the batch is all of theirs. The paper's tokens are pixels of the last stage; pooled ones of every
    stage, four along each axis, are what remains affordable of it in 3D (as in the port that ReCo-KD's authors made).
    """

    def __init__(self, options: CirkdOptions, number: int) -> None:
        super().__init__(options, number)
        self.tau = options.tau

    def stage_terms(self, stage: int, student: Tensor, teacher: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The one term ``relation``."""
        grid = capped_grid(CELLS, student.shape[2:], teacher.shape[2:])
        ours = relations(gather_over_processes(tokens(student, grid)), self.tau)
        theirs = relations(gather_over_processes(tokens(teacher, grid)), self.tau)
        rows = ours.numel() // ours.shape[3]
        return {"relation": functional.kl_div(ours, theirs, reduction="sum", log_target=True) / rows}


@register("cirkd")
def build_cirkd_loss(setting: LossSetting, options: Mapping[str, Any]) -> CirkdLoss:
    """Cross-image relations for the registry."""
    return CirkdLoss(read_options("cirkd", CirkdOptions, options), len(setting.teacher_channels))
