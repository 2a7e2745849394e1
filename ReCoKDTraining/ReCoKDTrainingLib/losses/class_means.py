"""Features of voxels against the mean features of their classes, for the losses that go by labels."""

from __future__ import annotations

import torch
from torch import Tensor

from .stagewise import unit_length


def class_mean(features: Tensor, mask: Tensor) -> Tensor:
    """sum_x M F / sum_x M, (B, C); zero where the mask is empty.

    Args:
        features: (B, C, N).
        mask: (B, N) in [0, 1].
    """
    n = mask.sum(1, keepdim=True)
    weights = mask / torch.where(n > 0, n, torch.ones_like(n))
    return torch.bmm(features, weights[:, :, None])[:, :, 0]


def likeness(directions: Tensor, mean: Tensor) -> Tensor:
    """The cosine between each voxel's features, (B, C, N) of length 1, and ``mean``, (B, C): (B, N)."""
    return torch.bmm(unit_length(mean, 1)[:, None], directions)[:, 0]
