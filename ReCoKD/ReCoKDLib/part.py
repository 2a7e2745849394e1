"""A part of a volume, in the terms of the volume and in those of its preprocessed case."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .errors import InputError
from .volume import Volume

if TYPE_CHECKING:
    from .plan import Plan
    from .preprocessing import PreprocessedCase

# First and end index along k, j and i; JSON can write it.
Block = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
Slices = tuple[slice, slice, slice]


def slices_of(block: Block) -> Slices:
    """The same for indexing arrays."""
    k, j, i = (slice(int(first), int(end)) for first, end in block)
    return k, j, i


def block_of(part: Slices) -> Block:
    """The way back of :func:`slices_of`."""
    k, j, i = ((int(p.start), int(p.stop)) for p in part)
    return k, j, i


def region_of(volume: Volume, block: Block | None) -> Volume:
    """A block of a volume at its place; all of it for None.

    Raises:
        InputError: It holds no voxel, or such as the volume does not have.
    """
    if block is None:
        return volume
    if not all(0 <= first < end <= count for (first, end), count in zip(block, volume.shape, strict=True)):
        raise InputError(
            f"The region {block} (first and end index along k, j, i) does not lie in the volume of {volume.shape} "
            "voxels. Give one that does."
        )
    return volume.cropped(slices_of(block))


@dataclass(frozen=True, eq=False)
class Part:
    """What is wanted of a case.

    Attributes:
        grid: The volume's voxels there, on whose grid the answer is given.
        shape: Of the part in the plan's axes.
        inside: Where in the part, in the plan's axes, the student is asked: not in the empty border of the image.
        asked: The same in the voxels of the case after cropping; None where the student is not asked at all.
        to_ras: (3, 4) from indices of ``asked`` to RAS, mm.
    """

    grid: Volume
    shape: tuple[int, ...]
    inside: Slices
    asked: Slices | None
    to_ras: npt.NDArray[np.float64]


def part_of(volume: Volume, oriented: Volume, case: PreprocessedCase, plan: Plan, block: Block | None) -> Part:
    """The part of a case that a block of its volume is.

    Args:
        volume: As it was given.
        oriented: The same with the axes that the plan begins with.
        case: Made of ``oriented``.
        plan: Its axes.
        block: Of ``volume``; None for all of it.
    """
    whole = case.shape_before_cropping
    start = np.zeros(3, int)
    stop = np.array(whole)
    axes = [2 - axis for axis in plan.transpose_forward]  # of (i, j, k)
    if block is not None:
        ends = np.array([[first, end - 1] for first, end in reversed(block)] + [[1, 1]], dtype=np.float64)
        there = (np.linalg.inv(oriented.ijk_to_ras) @ volume.ijk_to_ras @ ends)[axes]
        there = np.rint(there).astype(int)
        start, stop = there.min(axis=1), there.max(axis=1) + 1
    box = case.bounding_box
    low = np.maximum(start, [part.start for part in box])
    high = np.minimum(stop, [part.stop for part in box])
    empty = bool((high <= low).any())
    x, y, z = (slice(int(a), int(b)) for a, b in zip(low - start, np.maximum(high, low) - start, strict=True))
    a, b, c = (
        slice(int(first - part.start), int(end - part.start)) for first, end, part in zip(low, high, box, strict=True)
    )
    directions = oriented.ijk_to_ras[:3, axes]
    to_ras = np.column_stack((directions, oriented.ijk_to_ras[:3, 3] + directions @ low))
    shape = tuple(int(n) for n in stop - start)
    return Part(region_of(volume, block), shape, (x, y, z), None if empty else (a, b, c), to_ras)
