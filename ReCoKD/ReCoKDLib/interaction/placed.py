"""A correction on the grid: its voxels and its window, all that does not depend on the labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..volume import Volume
from .corrections import Correction, voxels_of
from .evidence import Evidence

Array = npt.NDArray[Any]
Slices = tuple[slice, slice, slice]

MAX_WINDOW_VOXELS = 150_000


@dataclass(frozen=True)
class Placed:
    """A correction on the grid.

    Attributes:
        correction: As the user made it.
        voxels: (n, 3) indices (k, j, i) that it speaks of.
        allowed: (values,) which values they may have.
        window: The only voxels that it may change or look at.
    """

    correction: Correction
    voxels: Array
    allowed: Array
    window: Slices

    @property
    def low(self) -> Array:
        """(3,) first voxel of the window."""
        return np.array([part.start for part in self.window])

    @property
    def limits(self) -> tuple[int, ...]:
        """First voxels of the window, then one after the last."""
        return (*(part.start for part in self.window), *(part.stop for part in self.window))

    @property
    def local(self) -> Array:
        """(n, 3) the voxels that it speaks of, in the window."""
        voxels: Array = self.voxels - self.low
        return voxels

    def in_box(self, volume: Volume) -> Array:
        """Which voxels of the window the correction's box lets change: booleans that broadcast to its shape."""
        box = self.correction.box
        if box is None:
            return np.ones((1, 1, 1), dtype=bool)
        k, j, i = np.ogrid[self.window]
        return box.contains(volume.ijk_to_ras, (k, j, i))


def place(correction: Correction, volume: Volume, evidence: Evidence, reach_mm: float) -> Placed:
    """Find a correction's voxels and window.

    Args:
        correction: As the user made it.
        volume: What it was made on.
        evidence: Knows the segments.
        reach_mm: How far the window goes around it, less where it would become too large.

    Raises:
        InputError: A point lies outside the volume, or there is no such segment.
    """
    allowed = evidence.allowed(correction.segment, correction.inside)
    for name in correction.locked:
        evidence.label_set.named(name)
    voxels = voxels_of(correction, volume)
    first, last = voxels.min(axis=0), voxels.max(axis=0)
    kji_to_mm = volume.ijk_to_ras[:3, :3][:, ::-1]
    margin = np.ceil(reach_mm * np.linalg.norm(np.linalg.inv(kji_to_mm), axis=1)).astype(int)
    while (extent := np.prod(last - first + 1 + 2 * margin)) > MAX_WINDOW_VOXELS and margin.max() > 2:
        margin = np.maximum(2, (margin * min(0.95, (MAX_WINDOW_VOXELS / extent) ** (1 / 3))).astype(int))
    low, high = np.maximum(first - margin, 0), np.minimum(last + margin + 1, volume.shape)
    a, b, c = (slice(int(start), int(stop)) for start, stop in zip(low, high, strict=True))
    return Placed(correction, voxels, allowed, (a, b, c))


def overlapping(placed: Placed, others: Sequence[Placed]) -> Array:
    """(others,) whose windows have a voxel in common with this one's."""
    limits = np.array([other.limits for other in others], dtype=np.intp).reshape(len(others), 6)
    own = np.array(placed.limits)
    shared: Array = np.all((limits[:, :3] < own[3:]) & (own[:3] < limits[:, 3:]), axis=1)
    return shared
