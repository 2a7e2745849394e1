"""Channel-wise distillation (Shu et al., "Channel-wise Knowledge Distillation for Dense Prediction", arXiv 2011.13256).

In 3D.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import functional

from ReCoKDLib.errors import ReCoKDError

from .registry import LossSetting, read_options, register
from .stagewise import StageOptions, StagewiseLoss


@dataclass(frozen=True)
class CwdOptions(StageOptions):
    """Options of channel-wise distillation.

    Attributes:
        tau: the temperature of the softmax over the voxels.
    """

    tau: float = 1.0

    def __post_init__(self) -> None:
        """Raise ReCoKDError for a temperature that isn't positive."""
        super().__post_init__()
        if not self.tau > 0:
            raise ReCoKDError(f"The temperature tau must be above 0, not {self.tau}.")


def channel_divergence(student: Tensor, teacher: Tensor, tau: float) -> Tensor:
    """tau^2 / (B C) sum over cases and channels of KL(softmax_x(F_T / tau) || softmax_x(F_S / tau)).

    The paper's channel-wise divergence phi; (B, C, D, H, W) each. A number added to a channel changes nothing.
    """
    ours, theirs = ((f.flatten(2) / tau).log_softmax(2) for f in (student, teacher))
    total = functional.kl_div(ours, theirs, reduction="sum", log_target=True)
    return tau**2 * total / (student.shape[0] * student.shape[1])


class CwdLoss(StagewiseLoss):
    """Channel-wise distillation of every stage's features, after connectors."""

    needs_connectors = True

    def __init__(self, options: CwdOptions, number: int) -> None:
        super().__init__(options, number)
        self.tau = options.tau

    def stage_terms(self, stage: int, student: Tensor, teacher: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The one term ``channel``."""
        return {"channel": channel_divergence(student, teacher, self.tau)}


@register("cwd")
def build_cwd_loss(setting: LossSetting, options: Mapping[str, Any]) -> CwdLoss:
    """Channel-wise distillation for the registry."""
    return CwdLoss(read_options("cwd", CwdOptions, options), len(setting.teacher_channels))
