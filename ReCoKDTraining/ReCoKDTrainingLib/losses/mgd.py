"""Masked generative distillation (Yang et al., "Masked Generative Distillation", arXiv 2205.01529), in 3D."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ReCoKDLib.errors import ReCoKDError

from .base import NetworkOutputs
from .reduction import process_number
from .registry import LossSetting, read_options, register
from .stagewise import StageOptions, StagewiseLoss

MOST_STAGES, MOST_PROCESSES = 64, 2**16
"""So that no two masks have the same seed."""


@dataclass(frozen=True)
class MgdOptions(StageOptions):
    """Options of masked generative distillation.

    Attributes:
        masked: the part of the voxels that the generator does not see; that of the authors' segmentation networks.
    """

    masked: float = 0.75

    def __post_init__(self) -> None:
        """Raise ReCoKDError for a part that is none."""
        super().__post_init__()
        if not 0 <= self.masked < 1:
            raise ReCoKDError(f"The masked part must be at least 0 and below 1, not {self.masked}.")


class MgdLoss(StagewiseLoss):
    """mean((G(mask . P F_S) - F_T)^2), G = conv3-ReLU-conv3, for every stage.

    It trains a generator G for each stage; P is the connector. The authors take the sum of squares of a case with a
    weight of 2e-5 to 7e-5 (two-stage detectors: 5e-7); here the mean does not depend on the patch. 2e-5 of the sum is
    2e-5 C N of the mean: 57, 14, 4 and 1 for stages of 32 to 256 channels and 40x56x40 voxels halved each time. So give
    it a weight of tens; at 1 it hardly pulls. The masks are a function of how many there were before (kept in the
    checkpoint), so a run that is resumed sees the same ones.
    """

    needs_connectors = True
    drawn: Tensor

    def __init__(self, options: MgdOptions, teacher_channels: Sequence[int]) -> None:
        super().__init__(options, len(teacher_channels))
        self.masked = options.masked
        self.generators = nn.ModuleDict(
            {
                str(k): nn.Sequential(
                    nn.Conv3d(teacher_channels[k], teacher_channels[k], kernel_size=3, padding=1),
                    nn.ReLU(),
                    nn.Conv3d(teacher_channels[k], teacher_channels[k], kernel_size=3, padding=1),
                )
                for k in self.stages
            }
        )
        self.register_buffer("drawn", torch.zeros((), dtype=torch.int64))

    def forward(self, student: NetworkOutputs, teacher: NetworkOutputs, labels: Tensor) -> dict[str, Tensor]:
        """As for every loss on stages; masks of the next step are others."""
        terms = super().forward(student, teacher, labels)
        if self.training:
            self.drawn += 1
        return terms

    def mask(self, stage: int, like: Tensor) -> Tensor:
        """(B, 1, D, H, W): 0 for the masked voxels, 1 for the others."""
        seed = (int(self.drawn) * MOST_STAGES + stage) * MOST_PROCESSES + process_number()
        generator = torch.Generator().manual_seed(seed)
        chance = torch.rand((like.shape[0], 1, *like.shape[2:]), generator=generator)
        return (chance >= self.masked).to(like)

    def stage_terms(self, stage: int, student: Tensor, teacher: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The one term ``generation``."""
        made = self.generators[str(stage)](student * self.mask(stage, student))
        return {"generation": functional.mse_loss(made, teacher)}


@register("mgd")
def build_mgd_loss(setting: LossSetting, options: Mapping[str, Any]) -> MgdLoss:
    """Masked generative distillation for the registry."""
    return MgdLoss(read_options("mgd", MgdOptions, options), setting.teacher_channels)
