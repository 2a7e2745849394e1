"""FitNets' hints (Romero et al., "FitNets: Hints for Thin Deep Nets", arXiv 1412.6550, equation 3), in 3D."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.nn import functional

from .registry import LossSetting, read_options, register
from .stagewise import StageOptions, StagewiseLoss


class FitNetLoss(StagewiseLoss):
    """mean((P F_S - F_T)^2) of every stage; P is the connector, the paper's regressor r.

    The paper halves the sum of squares, and trains with one hint before anything else; here the mean does not
    depend on the patch, and the hints accompany the segmentation loss.
    """

    needs_connectors = True

    def stage_terms(self, stage: int, student: Tensor, teacher: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The one term ``hint``."""
        return {"hint": functional.mse_loss(student, teacher)}


@register("fitnet")
def build_fitnet_loss(setting: LossSetting, options: Mapping[str, Any]) -> FitNetLoss:
    """FitNets for the registry."""
    return FitNetLoss(read_options("fitnet", StageOptions, options), len(setting.teacher_channels))
