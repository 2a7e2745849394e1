"""Letting torchvision be imported where its build does not fit torch."""

from __future__ import annotations

import importlib
from contextlib import suppress

import torch


def declare_torchvision_operators() -> None:
    """Declare the operators that the import of torchvision asks for, where its build has none for this torch.

    nnU-Net's search for classes imports all that it has, timm and with it torchvision. Nothing here calls them.
    """
    try:
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError):
        for operator in ("nms", "qnms"):
            with suppress(RuntimeError):  # declared already
                torch.library.define(
                    f"torchvision::{operator}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
                )
