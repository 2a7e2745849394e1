"""What the losses on encoder features have in common: which stages, with which weights, in float32."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ReCoKDLib.errors import ReCoKDError

from .base import DistillationLoss, NetworkOutputs, full_precision


@dataclass(frozen=True)
class StageOptions:
    """Options of every loss on encoder features.

    Attributes:
        stages: the encoder stages that are compared, full resolution first, -1 for the bottleneck; none: all.
        stage_weights: one for each of them; none: the method's own.

    Raises:
        ReCoKDError: another number of weights than of stages, a negative weight, or none above 0.
    """

    stages: Sequence[int] = ()
    stage_weights: Sequence[float] = ()

    def __post_init__(self) -> None:
        if self.stages and self.stage_weights and len(self.stages) != len(self.stage_weights):
            raise ReCoKDError(f"There are {len(self.stage_weights)} stage weights for {len(self.stages)} stages.")
        if any(weight < 0 for weight in self.stage_weights):
            raise ReCoKDError("Stage weights must be 0 or more.")
        if self.stage_weights and not any(self.stage_weights):
            raise ReCoKDError("All stage weights are 0: nothing is distilled. Raise one of them.")

    def chosen(self, number: int) -> tuple[int, ...]:
        """The stages, counted from 0, of an encoder with ``number`` of them.

        Raises:
            ReCoKDError: it has no such stage.
        """
        stages = tuple(k + number if k < 0 else k for k in self.stages or range(number))
        if not all(0 <= k < number for k in stages) or len(set(stages)) < len(stages):
            raise ReCoKDError(
                f"The encoder has the stages 0 to {number - 1}; {list(self.stages)} doesn't name each once."
            )
        return stages

    def weights(self, stages: Sequence[int], usual: Sequence[float] = ()) -> tuple[float, ...]:
        """The weight of each stage: the given ones, or ``usual``, or the same for each with a sum of 1.

        Raises:
            ReCoKDError: another number of weights was given.
        """
        if self.stage_weights and len(self.stage_weights) != len(stages):
            raise ReCoKDError(f"There are {len(self.stage_weights)} stage weights for {len(stages)} stages.")
        return tuple(self.stage_weights or usual or [1 / len(stages)] * len(stages))


class StagewiseLoss(DistillationLoss):
    """sum_k w_k L_k over encoder stages, computed in float32 outside autocast.

    Args:
        options: which stages, and their weights.
        number: how many stages the encoder has.
        usual_weights: one for each stage, where the method has weights of its own.
    """

    def __init__(self, options: StageOptions, number: int, usual_weights: Sequence[float] = ()) -> None:
        super().__init__()
        self.stages = options.chosen(number)
        usual = [usual_weights[k] for k in self.stages] if usual_weights else ()
        self.stage_weights = options.weights(self.stages, usual)

    def forward(self, student: NetworkOutputs, teacher: NetworkOutputs, labels: Tensor) -> dict[str, Tensor]:
        """The weighted sum over the stages of each of the terms."""
        with torch.autocast(labels.device.type, enabled=False):
            sums: dict[str, list[Tensor]] = {}
            for k, weight in zip(self.stages, self.stage_weights, strict=True):
                seen = student.aligned[k] if self.needs_connectors else student.features[k]
                ours, theirs = full_precision(seen), full_precision(teacher.features[k].detach())
                for name, value in self.stage_terms(k, ours, theirs, labels).items():
                    sums.setdefault(name, []).append(weight * value)
            return {name: torch.stack(values).sum() for name, values in sums.items()}

    @abstractmethod
    def stage_terms(self, stage: int, student: Tensor, teacher: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The terms of one stage.

        Args:
            stage: which, counted from 0.
            student: (B, C, D, H, W) float32 with gradient: at the teacher's width and on its grid where the loss
                wants connectors, as the student has them otherwise.
            teacher: (B, C, D, H, W) float32, without gradient.
            labels: (B, 1, D, H, W) integers at full resolution, ignore label possible.
        """


def brought_to(features: Tensor, shape: Sequence[int]) -> Tensor:
    """(B, C, D, H, W) on another grid, by trilinear interpolation; itself where it is on that grid."""
    if tuple(features.shape[2:]) == tuple(shape):
        return features
    return functional.interpolate(features, size=list(shape), mode="trilinear", align_corners=False)


def capped_grid(cells: int, *shapes: Sequence[int]) -> tuple[int, int, int]:
    """``cells`` along each axis, but no more than any of the shapes has."""
    d, h, w = (min(cells, *sizes) for sizes in zip(*shapes, strict=True))
    return d, h, w


def unit_length(values: Tensor, dim: int) -> Tensor:
    """L2-normalised along ``dim``; zeros stay zeros, with a gradient of zero."""
    largest = values.detach().abs().amax(dim, keepdim=True).clamp_min(1e-20)
    return functional.normalize(values / largest, dim=dim, eps=1e-6)  # scaled first, or huge ones overflow
