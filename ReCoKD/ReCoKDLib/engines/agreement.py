"""Whether bfloat16 keeps a student's labels: measured when it is packaged, and written on its card."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from ..package import ModelPackage
from ..prediction import Predictor
from ..volume import Volume
from .base import OPENVINO, TORCH
from .choosing import BF16_METRIC, has_bf16


def bf16_against_f32(package: ModelPackage, volumes: Iterable[Volume]) -> dict[str, Any]:
    """The Dice between the label maps of bf16 and those of PyTorch in f32, on the CPU.

    OpenVINO computes in bf16 where it is installed and the CPU can, else PyTorch does.

    Returns:
        One entry for a card's ``metrics``; empty without volumes. ``choosing.make_engines`` reads it.
    """
    engine = OPENVINO if has_bf16() else TORCH
    full = Predictor.from_package(package, "cpu")
    half = Predictor.from_package(package, "cpu", engine=engine, precision="bf16")
    values = [segment.value for segment in package.label_set.segments]
    dice = [_dice(full.predict(volume).labels.array, half.predict(volume).labels.array, values) for volume in volumes]
    if not dice:
        return {}
    measured = {"Dice": round(float(np.mean(dice)), 6), "smallest": round(float(np.min(dice)), 6), "cases": len(dice)}
    return {BF16_METRIC: {**measured, "engine": half.engines[0].name}}


def _dice(one: npt.NDArray[Any], other: npt.NDArray[Any], values: Iterable[int]) -> float:
    """Mean over the structures that either map has; 1 where there is none."""
    found = []
    for value in values:
        a, b = one == value, other == value
        if total := int(a.sum()) + int(b.sum()):
            found.append(2 * int((a & b).sum()) / total)
    return float(np.mean(found)) if found else 1.0
