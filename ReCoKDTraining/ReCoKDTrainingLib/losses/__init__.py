"""Segmentation and distillation losses: functions of tensors, found by name in a registry."""

from __future__ import annotations

from . import (  # noqa: F401  (they enter themselves in the registry)
    attention_transfer,
    cirkd,
    cwd,
    dprd,
    emkd,
    fitnet,
    ifvd,
    logits,
    mgd,
    reco,
    skd,
)
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
