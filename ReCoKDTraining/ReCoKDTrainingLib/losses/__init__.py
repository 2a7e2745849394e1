"""Segmentation and distillation losses: functions of tensors, found by name in a registry."""

from __future__ import annotations

from . import logits as _logits  # noqa: F401  (these two enter themselves in the registry)
from . import reco as _reco  # noqa: F401
from .base import DistillationLoss, NetworkOutputs
from .registry import available_losses, build_loss, register
from .segmentation import SegmentationLoss

__all__ = [
    "DistillationLoss",
    "NetworkOutputs",
    "SegmentationLoss",
    "available_losses",
    "build_loss",
    "register",
]
