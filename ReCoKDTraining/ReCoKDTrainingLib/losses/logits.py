"""Distillation of the logits (Hinton, Vinyals, Dean, arXiv 1503.02531), by voxel or by class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ReCoKDLib.errors import ReCoKDError
from ReCoKDLib.labels import LabelSet

from .base import DistillationLoss, NetworkOutputs, full_precision
from .regions import class_masks, region_terms, region_weights
from .registry import LossSetting, read_options, register


@dataclass(frozen=True)
class LogitsOptions:
    """Options of the logits loss.

    Attributes:
        temperature: T (usual setting: 3).
        by_class: whether each class counts the same whatever its volume, as in ReCo-KD's MS-SARD, and not each voxel
            (ours).
    """

    temperature: float = 3.0
    by_class: bool = False

    def __post_init__(self) -> None:
        """Raise ReCoKDError for a temperature that isn't positive."""
        if not self.temperature > 0:
            raise ReCoKDError(f"The temperature must be above 0, not {self.temperature}.")


def softmax_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(z_T / T) || softmax(z_S / T)) of each voxel, (B, D, H, W), of logits (B, K, D, H, W)."""
    log_student = (student / temperature).log_softmax(1)
    log_teacher = (teacher / temperature).log_softmax(1)
    return temperature**2 * functional.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(1)


def sigmoid_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL of the two Bernoulli distributions sigmoid(z / T), each voxel's mean over the regions; (B, D, H, W)."""
    student, teacher = student / temperature, teacher / temperature
    inside = teacher.sigmoid() * (functional.logsigmoid(teacher) - functional.logsigmoid(student))
    outside = (-teacher).sigmoid() * (functional.logsigmoid(-teacher) - functional.logsigmoid(-student))
    return temperature**2 * (inside + outside).mean(1)


class LogitsLoss(DistillationLoss):
    """T^2 KL between teacher and student at full resolution, in float32.

    By voxel, all of them count, the ignored ones too: the teacher has an opinion where the annotator has none. By
    class, it is L_fg and L_bg of ReCo-KD with the divergence in place of the features' difference: two means, of no
    ignored voxel.
    """

    uses_logits = True

    def __init__(self, options: LogitsOptions, label_set: LabelSet) -> None:
        super().__init__()
        self.options = options
        self.label_set = label_set

    def forward(self, student: NetworkOutputs, teacher: NetworkOutputs, labels: Tensor) -> dict[str, Tensor]:
        """The one term ``kl``, or by class ``fg`` and ``bg``."""
        divergence = sigmoid_divergence if self.label_set.has_regions else softmax_divergence
        with torch.autocast(labels.device.type, enabled=False):
            ours, theirs = full_precision(student.logits[0]), full_precision(teacher.logits[0].detach())
            found = divergence(ours, theirs, self.options.temperature)
            if not self.options.by_class:
                return {"kl": found.mean()}
            weights = region_weights(class_masks(labels, found.shape[1:], self.label_set, "nearest"))
            foreground, background = region_terms(found.flatten(1), weights)
            return {"fg": foreground, "bg": background}


@register("logits")
def build_logits_loss(setting: LossSetting, options: Mapping[str, Any]) -> LogitsLoss:
    """The logits loss for the registry."""
    return LogitsLoss(read_options("logits", LogitsOptions, options), setting.label_set)
