"""Class masks at the encoder's resolutions, and the voxel weights that MS-SARD makes of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ReCoKDLib.labels import LabelSet

from .labels import downsample_labels, region_mask
from .reduction import mean_over_present


def background_mask(labels: Tensor, label_set: LabelSet) -> Tensor:
    """Bool mask of the voxels that are in no segment and not ignored; the shape of ``labels``."""
    others = {value for segment in label_set.segments for value in segment.region}
    if label_set.ignore_label is not None:
        others.add(label_set.ignore_label)
    return ~region_mask(labels, sorted(others))


def class_masks(labels: Tensor, shape: Sequence[int], label_set: LabelSet, method: str) -> Iterator[Tensor]:
    """The masks M_{b,c}(x) in [0, 1] of a stage, (B, N) float32 each: background first, then every segment.

    They come one by one, so that many classes need no more memory than one. Ignored voxels are in no mask,
    and the background (c = 0) is never a foreground class.

    Args:
        labels: (B, 1, D, H, W) integers at full resolution.
        shape: the stage's (D', H', W'), N voxels.
        label_set: the classes; overlapping regions are classes too.
        method: ``nearest`` [C]: the mask of the downsampled labels; ``area`` [ours]: the average-pooled mask,
            so that no small structure vanishes.
    """
    if method == "nearest":
        labels = downsample_labels(labels, shape)

    def at_stage(mask: Tensor) -> Tensor:
        values = mask.to(torch.float32)
        if method == "area" and tuple(mask.shape[2:]) != tuple(shape):
            values = functional.interpolate(values, size=list(shape), mode="area")
        return values.flatten(1)

    yield at_stage(background_mask(labels, label_set))
    for segment in label_set.segments:
        yield at_stage(region_mask(labels, segment.region))


@dataclass(frozen=True)
class RegionWeights:
    """Weights with which a map e_b(x) is summed to the sums of MS-SARD's l_{b,c} = sum_x M e_b / n.

    Attributes:
        foreground: (B, N), sum (or maximum) over c >= 1 of M_{b,c}(x) / n_{b,c}.
        background: (B, N), M_{b,0}(x) / n_{b,0}.
        foreground_total: scalar by which the sum over the foreground is divided: the number of present pairs, or the
            sum of the merged weights [C]. A constant error of 1 so gives 1 either way.
        foreground_present: (B, classes) bool, n_{b,c} > 0.
        background_present: (B,) bool.
    """

    foreground: Tensor
    background: Tensor
    foreground_total: Tensor
    foreground_present: Tensor
    background_present: Tensor


def region_weights(masks: Iterable[Tensor], merged: bool = False) -> RegionWeights:
    """Every class weighted by 1 / n, whatever its volume; classes with n = 0 drop out.

    Args:
        masks: (B, N) each, background first, as from ``class_masks``.
        merged: overlapping regions by the voxel-wise maximum of their weighted masks [C], not by their sum
            (each region a pair of its own, the default). The same where nothing overlaps.
    """
    remaining = iter(masks)
    background, background_present = _normalised(next(remaining))
    foreground = torch.zeros_like(background)
    present = []
    for mask in remaining:
        weight, there = _normalised(mask)
        foreground = torch.maximum(foreground, weight) if merged else foreground + weight
        present.append(there)
    foreground_present = torch.stack(present, dim=1)
    total = foreground.sum() if merged else foreground_present.sum().to(foreground.dtype)
    return RegionWeights(foreground, background, total, foreground_present, background_present)


def _normalised(mask: Tensor) -> tuple[Tensor, Tensor]:
    """M / n and whether n > 0; zero where n = 0, without ever dividing by 0."""
    n = mask.sum(1, keepdim=True)
    present = n > 0
    return mask / torch.where(present, n, torch.ones_like(n)), present[:, 0]


def region_terms(weighted_error: Tensor, weights: RegionWeights) -> tuple[Tensor, Tensor]:
    """L_fg and L_bg: means over the present pairs (b, c) of l_{b,c} = sum_x M e_b / n, or over the merged weights.

    Args:
        weighted_error: e_b(x), (B, N); for features A_S(x) * (1/C) sum_c A_C(c) (F̂ - F_T)^2.
        weights: of the masks on its grid.
    """
    foreground = mean_over_present(
        (weighted_error * weights.foreground).sum(), weights.foreground_total.to(weighted_error.dtype)
    )
    background = mean_over_present(
        (weighted_error * weights.background).sum(), weights.background_present.sum().to(weighted_error.dtype)
    )
    return foreground, background
