"""Distillation of the logits (Hinton, Vinyals, Dean, arXiv 1503.02531), voxel by voxel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ReCoKDLib.errors import ReCoKDError

from .base import DistillationLoss, NetworkOutputs, full_precision
from .registry import LossSetting, read_options, register


@dataclass(frozen=True)
class LogitsOptions:
    """Options of the logits loss: the temperature T (usual setting: 3)."""

    temperature: float = 3.0

    def __post_init__(self) -> None:
        """Raise ReCoKDError for a temperature that isn't positive."""
        if not self.temperature > 0:
            raise ReCoKDError(f"The temperature must be above 0, not {self.temperature}.")


def softmax_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 * mean over voxels of KL(softmax(z_T / T) || softmax(z_S / T)); logits (B, K, D, H, W)."""
    log_student = (student / temperature).log_softmax(1)
    log_teacher = (teacher / temperature).log_softmax(1)
    voxels = student.numel() // student.shape[1]
    total = functional.kl_div(log_student, log_teacher, reduction="sum", log_target=True)
    return temperature**2 * total / voxels


def sigmoid_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 * mean over voxels and regions of the KL of the two Bernoulli distributions sigmoid(z / T)."""
    student, teacher = student / temperature, teacher / temperature
    inside = teacher.sigmoid() * (functional.logsigmoid(teacher) - functional.logsigmoid(student))
    outside = (-teacher).sigmoid() * (functional.logsigmoid(-teacher) - functional.logsigmoid(-student))
    return temperature**2 * (inside + outside).mean()


class LogitsLoss(DistillationLoss):
    """T^2 KL between teacher and student at full resolution, in float32.

    All voxels count, the ignored ones too: the teacher has an opinion where the annotator has none.
    """

    uses_logits = True

    def __init__(self, options: LogitsOptions, has_regions: bool) -> None:
        super().__init__()
        self.options = options
        self.has_regions = has_regions

    def forward(self, student: NetworkOutputs, teacher: NetworkOutputs, labels: Tensor) -> dict[str, Tensor]:
        """The one term ``kl``."""
        divergence = sigmoid_divergence if self.has_regions else softmax_divergence
        with torch.autocast(labels.device.type, enabled=False):
            ours, theirs = full_precision(student.logits[0]), full_precision(teacher.logits[0].detach())
            return {"kl": divergence(ours, theirs, self.options.temperature)}


@register("logits")
def build_logits_loss(setting: LossSetting, options: Mapping[str, Any]) -> LogitsLoss:
    """The logits loss for the registry."""
    return LogitsLoss(read_options("logits", LogitsOptions, options), setting.label_set.has_regions)
