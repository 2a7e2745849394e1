"""How much memory a prediction takes, and the tiles that fit into a bound."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .errors import InputError
from .plan import Int3, Plan

_STATUS = Path("/proc/self/status")
_ASSUMED = 600 << 20  # bytes of a process with its libraries where the system does not tell
_CHUNKS = 400 << 20  # bytes for what is decided and interpolated at a time, see restoring


def total_stride(plan: Plan) -> Int3:
    """By what the sides of a tile must be divisible."""
    x, y, z = (int(n) for n in np.prod(np.array(plan.architecture.strides), axis=0))
    return x, y, z


def smaller_tile(tile: Sequence[int], plan: Plan) -> Int3 | None:
    """The tile with its longest side (that can be) halved; None where two strides are left along each.

    At least two, because a network's normalisation cannot do with one voxel in its coarsest stage.
    """
    stride = total_stride(plan)
    sides = [int(n) for n in tile]
    halves = [max(side // 2 // step, 2) * step for side, step in zip(sides, stride, strict=True)]
    possible = [axis for axis in range(3) if halves[axis] < sides[axis]]
    if not possible:
        return None
    axis = max(possible, key=lambda a: sides[a])
    sides[axis] = halves[axis]
    return sides[0], sides[1], sides[2]


def resident_bytes() -> int:
    """What this process holds now."""
    if _STATUS.is_file():
        for line in _STATUS.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmRSS:"):
                return 1024 * int(line.split()[1])
    return _ASSUMED


def counted(held: int) -> int:
    """Of so many bytes that this process holds already, those that :func:`resident_bytes` tells of."""
    return held if _STATUS.is_file() else 0


def tile_bytes(tile: Sequence[int], plan: Plan, heads: int) -> int:
    """What a network needs for one tile, float32, by its stages: skips, two convolutions' outputs, the logits."""
    features, strides = plan.architecture.features_per_stage, plan.architecture.strides
    voxels, values = float(np.prod(tile)), 0.0
    for stage, (channels, stride) in enumerate(zip(features, strides, strict=True)):
        voxels /= np.prod(stride)
        values += channels * voxels * (6 if stage == 0 else 3)
    return int(4 * (values + 2 * heads * float(np.prod(tile))))


def fitting_tile(plan: Plan, heads: int, shape: Sequence[int], result_bytes: int, bound: float) -> Int3:
    """The plan's patch, or the largest smaller one for which a prediction stays within a bound.

    Args:
        plan: Patch, network.
        heads: Of the network.
        shape: Voxels of the preprocessed case, which is in memory already.
        result_bytes: Of the labels and probabilities that will be made.
        bound: GB for the whole process.

    Raises:
        InputError: Not even the smallest tile fits; the message says what would.
    """
    tile: Int3 = plan.patch_size
    while True:
        needed = needed_bytes(plan, heads, shape, result_bytes, tile)
        if needed <= bound * 1e9:
            return tile
        smaller = smaller_tile(tile, plan)
        if smaller is None:
            raise InputError(
                f"{bound:g} GB of memory are too few for this volume: with the smallest tiles ({_sides(tile)} voxels) "
                f"about {needed / 1e9:.1f} GB are needed. Give more (--memory), or crop the volume."
            )
        tile = smaller


def needed_bytes(plan: Plan, heads: int, shape: Sequence[int], result_bytes: int, tile: Sequence[int]) -> int:
    """What this process holds during a prediction with tiles of this size; see :func:`fitting_tile`."""
    y, z = (max(n, side) for n, side in zip(shape[1:], tile[1:], strict=True))
    band = band_bytes(heads, tile, (y, z))
    return resident_bytes() + result_bytes + _CHUNKS + tile_bytes(tile, plan, heads) + band


def band_bytes(heads: int, tile: Sequence[int], plane: Sequence[int]) -> int:
    """Of the sums over tiles, as thick as a tile and as wide as ``plane``."""
    return 4 * (heads + 1) * int(tile[0]) * int(np.prod(plane))


def _sides(tile: Sequence[int]) -> str:
    return " x ".join(map(str, tile))


def tiles_in_words(tile: Sequence[int], plan: Plan, why: str) -> str:
    """What to tell of tiles that are not the plan's."""
    return (
        f"{why}, so tiles of {_sides(tile)} voxels are used in place of the plan's {_sides(plan.patch_size)}. The "
        "network sees less around each voxel: the result differs a little from that of larger tiles."
    )
