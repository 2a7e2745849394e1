"""Displacements between cases (DPRD, arXiv 2607.04599, and the authors' code, ClinicaAlpha/DPRD-3D-MedSeg)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ReCoKDLib.errors import ReCoKDError
from ReCoKDLib.labels import LabelSet

from .reduction import gather_over_processes
from .regions import class_masks
from .registry import LossSetting, read_options, register
from .stagewise import StageOptions, StagewiseLoss

SHRINK = 4
SMALLEST_SHARE = 1e-4
STAGE_WEIGHTS = (0.05, 0.1, 0.1, 0.15, 0.25, 0.35)


@dataclass(frozen=True)
class DprdOptions(StageOptions):
    """Options of DPRD.

    Attributes:
        displacement: coefficient of the displacements.
        distance: coefficient of their lengths (the authors' configuration for AMOS has 0.5, and 0.5 as the weight of
            the loss). With a batch of two there is one pair, whose length is the mean length: the term is 0 then.
    """

    displacement: float = 1.0
    distance: float = 0.5

    def __post_init__(self) -> None:
        """Raise ReCoKDError for a negative coefficient, or two of 0."""
        super().__post_init__()
        if min(self.displacement, self.distance) < 0:
            raise ReCoKDError("DPRD's coefficients must be 0 or more.")
        if max(self.displacement, self.distance) == 0:
            raise ReCoKDError("Both of DPRD's coefficients are 0: nothing is distilled. Raise one of them.")


def usual_weights(number: int) -> tuple[float, ...]:
    """The authors' weights for six stages; for fewer the last ones, for more with 0.05 before them; of sum 1."""
    weights = (STAGE_WEIGHTS[0],) * max(0, number - len(STAGE_WEIGHTS)) + STAGE_WEIGHTS[-number:]
    return tuple(weight / sum(weights) for weight in weights)


def case_embedding(features: Tensor, roi: Tensor) -> Tensor:
    """Means over the ROI in each cell of a grid of a quarter of the voxels a side, at least 2: (B, C * cells).

    Args:
        features: (B, C, D, H, W).
        roi: (B, 1, D, H, W) in {0, 1}.

    A cell with nothing of the ROI is 0.
    """
    d, h, w = (min(n, max(2, n // SHRINK)) for n in features.shape[2:])
    total = functional.adaptive_avg_pool3d(features * roi, (d, h, w))
    share = functional.adaptive_avg_pool3d(roi, (d, h, w))
    there = share > SMALLEST_SHARE
    return (torch.where(there, total, 0) / torch.where(there, share, 1)).flatten(1)


def normalised_displacements(embeddings: Tensor) -> Tensor:
    """x_i - x_j for all pairs i < j over their mean length: (B, d) to (pairs, d)."""
    cases = embeddings.shape[0]
    first, second = torch.triu_indices(cases, cases, offset=1, device=embeddings.device)
    delta = embeddings[first] - embeddings[second]
    return delta / (_length(delta).mean() + 1e-6)


def _length(vectors: Tensor) -> Tensor:
    return (vectors.square().sum(1) + 1e-12).sqrt()  # two cases may be the same, and a root has no slope at 0


class DprdLoss(StagewiseLoss):
    """Smooth L1 between the normalised displacements of teacher and student, and between their lengths.

    Displacements lie between the embeddings of two cases of the batch: features over the foreground, by cells. Of
    the smooth L1 the sum over the embedding and the mean over the pairs is taken, as in the authors' code. A case
    without foreground is in no pair. With several processes the batch is all of theirs.

    The authors bring both networks' features to 128 channels by 1x1x1 convolutions without bias; here the student's
    come to the teacher's width by a connector, whose bias shows only in cells where one of the two cases has no
    foreground.
    """

    needs_connectors = True

    def __init__(self, options: DprdOptions, number: int, label_set: LabelSet) -> None:
        super().__init__(options, number, usual_weights(number))
        self.options = options
        self.label_set = label_set

    def stage_terms(self, stage: int, student: Tensor, teacher: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The terms ``displacement`` and ``distance``."""
        _, *segments = class_masks(labels, teacher.shape[2:], self.label_set, "nearest")
        roi = torch.stack(segments).amax(0).reshape(-1, 1, *teacher.shape[2:]).to(student.dtype)
        ours, theirs, there = (
            gather_over_processes(values)
            for values in (case_embedding(student, roi), case_embedding(teacher, roi), roi.amax((1, 2, 3, 4)))
        )
        if int((there > 0).sum()) < 2:
            nothing = ours.sum() * 0
            return {"displacement": nothing, "distance": nothing}
        seen, shown = (normalised_displacements(x[there > 0]) for x in (ours, theirs))
        displacement = functional.smooth_l1_loss(seen, shown, reduction="none").sum(1).mean()
        distance = functional.smooth_l1_loss(_length(seen), _length(shown))
        return {
            "displacement": self.options.displacement * displacement,
            "distance": self.options.distance * distance,
        }


@register("dprd")
def build_dprd_loss(setting: LossSetting, options: Mapping[str, Any]) -> DprdLoss:
    """DPRD for the registry."""
    return DprdLoss(read_options("dprd", DprdOptions, options), len(setting.teacher_channels), setting.label_set)
