"""The one sliding window: nnU-Net's own tile positions and Gaussian weights.

MONAI's inferer places border tiles otherwise, so that labels would differ from nnU-Net's.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

from .errors import Cancelled

Network = Callable[[torch.Tensor], torch.Tensor]


def tile_starts(shape: Sequence[int], patch_size: Sequence[int], tile_step: float = 0.5) -> list[list[int]]:
    """First voxels of the tiles along each axis: evenly spread, at most ``tile_step`` patches apart.

    Args:
        shape: Voxels of the image, at least ``patch_size``.
        patch_size: Voxels of a tile.
        tile_step: Largest distance of neighbouring tiles as a fraction of the patch, in (0, 1].
    """
    if not 0 < tile_step <= 1:
        raise ValueError(f"tile_step must lie in (0, 1], not {tile_step}")
    starts = []
    for length, patch in zip(shape, patch_size, strict=True):
        steps = math.ceil((length - patch) / (patch * tile_step)) + 1
        distance = (length - patch) / max(steps - 1, 1)
        starts.append([int(np.round(distance * step)) for step in range(steps)])
    return starts


@lru_cache(maxsize=4)
def gaussian_weights(patch_size: tuple[int, ...]) -> torch.Tensor:
    """Weight of each voxel of a tile: a Gaussian of sigma = patch / 8, largest 10, nowhere zero; float32."""
    impulse = np.zeros(patch_size)
    impulse[tuple(n // 2 for n in patch_size)] = 1
    weights = gaussian_filter(impulse, [n / 8 for n in patch_size], mode="constant", cval=0)
    weights *= 10 / weights.max()
    weights[weights == 0] = weights[weights > 0].min()
    result = torch.from_numpy(weights).float()
    result[result == 0] = result[result > 0].min()  # what float32 rounds away
    return result


def _mirrored(network: Network, tile: torch.Tensor, mirror_axes: Sequence[int]) -> torch.Tensor:
    """Mean over all flips of the given spatial axes, each flipped back."""
    flips = [c for n in range(1, len(mirror_axes) + 1) for c in itertools.combinations(mirror_axes, n)]
    if not flips:
        return network(tile)
    total = network(tile).clone()  # an engine may overwrite its logits
    for axes in flips:
        dims = [axis + 2 for axis in axes]
        total += torch.flip(network(torch.flip(tile, dims)), dims)
    return total / (len(flips) + 1)


def sliding_window_slabs(
    network: Network,
    data: torch.Tensor,
    patch_size: Sequence[int],
    heads: int,
    *,
    tile_step: float = 0.5,
    mirror_axes: Sequence[int] = (),
    progress: Callable[[float], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Iterator[tuple[int, torch.Tensor]]:
    """Weighted mean of the network's logits over overlapping tiles, slab by slab along the first spatial axis.

    A slab is finished as soon as no further tile touches it, so that no more than a patch's length of the volume is
    in memory. Arguments and errors are those of :func:`sliding_window_logits`.

    Yields:
        The first plane of a slab and its (heads, n, y, z) float32 logits, in order and without gaps. The logits are
        overwritten when the next slab is asked for.
    """
    shape = tuple(data.shape[1:])
    missing = [max(patch - length, 0) for length, patch in zip(shape, patch_size, strict=True)]
    below = [m // 2 for m in missing]
    padding = [p for m, b in zip(reversed(missing), reversed(below), strict=True) for p in (b, m - b)]
    padded = nn.functional.pad(data, padding) if any(missing) else data
    weights = gaussian_weights(tuple(int(n) for n in patch_size))
    depth, *plane = (int(patch_size[0]), *padded.shape[2:])
    total = torch.zeros((heads, depth, *plane))
    weight_sum = torch.zeros((depth, *plane))
    inside = tuple(slice(b, b + n) for b, n in zip(below[1:], shape[1:], strict=True))
    starts, *in_plane = tile_starts(padded.shape[1:], patch_size, tile_step)
    tiles = list(itertools.product(*in_plane))
    for row, first in enumerate(starts):
        for column, start in enumerate(tiles, 1):
            if cancelled is not None and cancelled():
                raise Cancelled("Cancelled. Nothing was changed.")
            box = tuple(slice(s, s + n) for s, n in zip(start, patch_size[1:], strict=True))
            tile = padded[(slice(None), slice(first, first + depth), *box)][None].contiguous()
            with torch.inference_mode():
                prediction = _mirrored(network, tile, mirror_axes)[0].float().cpu()
            total[(slice(None), slice(None), *box)].addcmul_(prediction, weights)
            weight_sum[(slice(None), *box)] += weights
            if progress is not None:
                progress((row * len(tiles) + column) / (len(starts) * len(tiles)))
        done = starts[row + 1] - first if row + 1 < len(starts) else depth
        total[:, :done] /= weight_sum[:done]
        # Where the image is smaller than a patch there is one row of tiles, and the padding around it is left out.
        ends = (below[0], below[0] + shape[0]) if missing[0] else (0, done)
        yield first, total[(slice(None), slice(*ends), *inside)]
        _shift(total, done, 1)
        _shift(weight_sum, done, 0)


def _shift(sums: torch.Tensor, by: int, axis: int) -> None:
    """Move planes to the front in place, and begin with zeros behind them."""
    planes = sums.movedim(axis, 0)
    for target in range(planes.shape[0] - by):
        planes[target] = planes[target + by]
    planes[planes.shape[0] - by :] = 0


def sliding_window_logits(
    network: Network,
    data: torch.Tensor,
    patch_size: Sequence[int],
    heads: int,
    *,
    tile_step: float = 0.5,
    mirror_axes: Sequence[int] = (),
    progress: Callable[[float], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> torch.Tensor:
    """Weighted mean of the network's logits over overlapping tiles.

    Args:
        network: An engine or a network: maps (1, channel, x, y, z) patches on the CPU to (1, heads, x, y, z).
        data: (channel, x, y, z) float32 on the CPU; zero-padded around the centre where smaller than a patch.
        patch_size: Voxels of a tile.
        heads: Outputs of the network.
        tile_step: See :func:`tile_starts`.
        mirror_axes: Spatial axes (0, 1, 2) over whose flips the result is averaged.
        progress: Called with the finished fraction after each tile.
        cancelled: Asked before each tile.

    Returns:
        (heads, x, y, z) float32 on the CPU.

    Raises:
        Cancelled: ``cancelled`` said so.
    """
    result = torch.empty((heads, *data.shape[1:]))
    slabs = sliding_window_slabs(
        network,
        data,
        patch_size,
        heads,
        tile_step=tile_step,
        mirror_axes=mirror_axes,
        progress=progress,
        cancelled=cancelled,
    )
    for first, logits in slabs:
        result[:, first : first + logits.shape[1]] = logits
    return result
