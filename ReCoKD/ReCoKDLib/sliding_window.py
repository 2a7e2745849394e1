"""The one sliding window: nnU-Net's own tile positions and Gaussian weights.

MONAI's inferer places border tiles otherwise, so that labels would differ from nnU-Net's.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

from .errors import Cancelled


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


def _mirrored(network: nn.Module, tile: torch.Tensor, mirror_axes: Sequence[int]) -> torch.Tensor:
    """Mean over all flips of the given spatial axes, each flipped back."""
    total: torch.Tensor = network(tile)
    flips = [c for n in range(1, len(mirror_axes) + 1) for c in itertools.combinations(mirror_axes, n)]
    for axes in flips:
        dims = [axis + 2 for axis in axes]
        total = total + torch.flip(network(torch.flip(tile, dims)), dims)
    return total / (len(flips) + 1)


@torch.inference_mode()
def sliding_window_logits(
    network: nn.Module,
    data: torch.Tensor,
    patch_size: Sequence[int],
    heads: int,
    *,
    tile_step: float = 0.5,
    mirror_axes: Sequence[int] = (),
    device: torch.device | str = "cpu",
    progress: Callable[[float], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> torch.Tensor:
    """Weighted mean of the network's logits over overlapping tiles.

    Args:
        network: Maps (1, channel, x, y, z) patches to (1, heads, x, y, z); on ``device``, in evaluation mode.
        data: (channel, x, y, z) float32 on the CPU; zero-padded around the centre where smaller than a patch.
        patch_size: Voxels of a tile.
        heads: Outputs of the network.
        tile_step: See :func:`tile_starts`.
        mirror_axes: Spatial axes (0, 1, 2) over whose flips the result is averaged.
        device: Where the network runs; sums are kept on the CPU in float32.
        progress: Called with the finished fraction after each tile.
        cancelled: Asked before each tile.

    Returns:
        (heads, x, y, z) float32 on the CPU.

    Raises:
        Cancelled: ``cancelled`` said so.
    """
    device = torch.device(device)
    shape = tuple(data.shape[1:])
    missing = [max(patch - length, 0) for length, patch in zip(shape, patch_size, strict=True)]
    below = [m // 2 for m in missing]
    padding = [p for m, b in zip(reversed(missing), reversed(below), strict=True) for p in (b, m - b)]
    padded = nn.functional.pad(data, padding) if any(missing) else data
    weights = gaussian_weights(tuple(int(n) for n in patch_size))
    total = torch.zeros((heads, *padded.shape[1:]))
    weight_sum = torch.zeros(padded.shape[1:])
    positions = list(itertools.product(*tile_starts(padded.shape[1:], patch_size, tile_step)))
    for done, start in enumerate(positions, 1):
        if cancelled is not None and cancelled():
            raise Cancelled("Cancelled. Nothing was changed.")
        box = tuple(slice(s, s + n) for s, n in zip(start, patch_size, strict=True))
        tile = padded[(slice(None), *box)][None].contiguous().to(device)
        with torch.autocast(device.type, enabled=device.type == "cuda"):
            prediction = _mirrored(network, tile, mirror_axes)[0].float().cpu()
        total[(slice(None), *box)] += prediction * weights
        weight_sum[box] += weights
        if progress is not None:
            progress(done / len(positions))
    total /= weight_sum
    return total[(slice(None), *(slice(b, b + n) for b, n in zip(below, shape, strict=True)))]
