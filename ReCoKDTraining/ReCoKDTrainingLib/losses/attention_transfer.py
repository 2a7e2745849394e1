"""Attention transfer (Zagoruyko, Komodakis, "Paying More Attention to Attention", arXiv 1612.03928), in 3D."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .registry import LossSetting, read_options, register
from .stagewise import StageOptions, StagewiseLoss, brought_to, unit_length


def importance_map(features: Tensor, power: int) -> Tensor:
    """mean_c |F|^power of (B, C, D, H, W), scaled by a constant of the case: (B, 1, D, H, W).

    Whoever uses it normalises it, so that the constant has no effect but to prevent overflow.
    """
    largest = features.detach().abs().amax((1, 2, 3, 4), keepdim=True).clamp_min(1e-20)
    scaled: Tensor = features / largest
    return scaled.abs().pow(power).mean(1, keepdim=True)


def importance_difference(student: Tensor, teacher: Tensor, power: int) -> Tensor:
    """Mean over the cases of ||Q_S / ||Q_S|| - Q_T / ||Q_T|| ||^2 with Q = mean_c |F|^power.

    (B, C', D', H', W') and (B, C, D, H, W): widths and grids may differ.
    """
    ours = brought_to(importance_map(student, power), teacher.shape[2:]).flatten(1)
    theirs = importance_map(teacher, power).flatten(1)
    return (unit_length(ours, 1) - unit_length(theirs, 1)).square().sum(1).mean()


class AttentionTransferLoss(StagewiseLoss):
    """Equation 2 with p = 2 and the squared norm, as in the authors' code, mean over the stages.

    The authors add the stages up with weights of 10^3 over the number of pixels and cases, so that the coarse ones
    count most; here a case's squared distance (at most 2) is taken as it is, and each stage counts the same whatever
    the patch [ours]. Features times a number, or channels in another order, have the same maps; no connector is needed.
    """

    def stage_terms(self, stage: int, student: Tensor, teacher: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The one term ``attention``."""
        return {"attention": importance_difference(student, teacher, power=2)}


@register("at")
def build_attention_transfer_loss(setting: LossSetting, options: Mapping[str, Any]) -> AttentionTransferLoss:
    """Attention transfer for the registry."""
    return AttentionTransferLoss(read_options("at", StageOptions, options), len(setting.teacher_channels))
