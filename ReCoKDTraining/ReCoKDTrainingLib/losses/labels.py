"""Label maps at other resolutions: the one place where labels are downsampled."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def downsample_labels(labels: Tensor, shape: Sequence[int]) -> Tensor:
    """Nearest-neighbour downsampling of a label map, as nnU-Net makes its deep-supervision targets.

    Args:
        labels: (B, 1, D, H, W), any integer type.
        shape: the (D, H, W) wanted.

    Returns:
        (B, 1, *shape) of the same type; the input itself where the shape is the same already.

    The rule is PyTorch's ``nearest-exact`` (the voxel whose centre is nearest). The detour over float32 is
    exact for labels below 2**24.
    """
    if tuple(labels.shape[2:]) == tuple(shape):
        return labels
    small = functional.interpolate(labels.to(torch.float32), size=list(shape), mode="nearest-exact")
    return small.to(labels.dtype)


def region_mask(labels: Tensor, values: Sequence[int]) -> Tensor:
    """Bool mask of the voxels whose label is one of ``values``; the shape of ``labels``."""
    mask = labels == values[0]
    for value in values[1:]:
        mask = mask | (labels == value)
    return mask
