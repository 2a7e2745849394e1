"""Segments brought to the grid of an image, as one label map, and what is lost on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from .volume import Volume

_NEAR = 1e-3  # voxels: so far outside a centre may lie by rounding


@dataclass(frozen=True)
class Outside:
    """A segment that does not lie in its image altogether.

    Attributes:
        value: What it is in the label map.
        lost: How many of its own voxels have their centre outside of the image.
        voxels: How many it has.
    """

    value: int
    lost: int
    voxels: int


@dataclass(frozen=True)
class Annotation:
    """What was annotated in an image.

    Attributes:
        labels: One-channel label map.
        overlaps: (value, later value) of segments that claim the same voxels, with how many; the later one has them.
        outside: Segments that reach out of the image.
    """

    labels: Volume
    overlaps: Mapping[tuple[int, int], int] = field(default_factory=dict)
    outside: tuple[Outside, ...] = ()


class AnnotationBuilder:
    """Puts segments into a label map one after the other: where they overlap, the later one wins.

    Args:
        reference: The image.
        highest: The greatest value that will come.
    """

    def __init__(self, reference: Volume, highest: int) -> None:
        self._reference = reference
        self._labels = np.zeros(reference.shape, np.uint16 if highest > 255 else np.uint8)
        self._overlaps: dict[tuple[int, int], int] = {}
        self._outside: list[Outside] = []

    def put(self, found: npt.NDArray[Any], block: Any = ...) -> None:
        """Segments that do not overlap each other: their values, 0 elsewhere, in a block (k, j, i) of the image."""
        labels = self._labels[block]
        both = (found > 0) & (labels > 0) & (found != labels)
        if both.any():
            pairs, counts = np.unique(np.stack([labels[both], found[both]]), axis=1, return_counts=True)
            for (earlier, later), count in zip(pairs.T.tolist(), counts.tolist(), strict=True):
                self._overlaps[earlier, later] = self._overlaps.get((earlier, later), 0) + count
        np.copyto(labels, found, where=found > 0, casting="unsafe")

    def compare(self, found: npt.NDArray[Any], place: npt.NDArray[np.float64]) -> None:
        """Look how much of segments lies outside of the image.

        Args:
            found: (k, j, i) values on the segments' own grid, 0 elsewhere.
            place: From indices (i, j, k) of that grid to the world.
        """
        ranges = [np.flatnonzero(found.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
        if not all(len(where) for where in ranges):
            return
        way = np.linalg.inv(self._reference.ijk_to_ras) @ place
        corners = np.stack(np.meshgrid(*(where[[0, -1]] for where in ranges), indexing="ij"), -1).reshape(-1, 3)
        if self._inside(corners, way).all():  # so is all that lies between them
            return
        voxels: npt.NDArray[np.intp] = np.zeros(int(found.max()) + 1, np.intp)
        lost = voxels.copy()
        for k in ranges[0]:  # a slice at a time, as coordinates take much more memory than voxels
            ji = np.argwhere(found[k])
            values = found[k][tuple(ji.T)]
            outside = ~self._inside(np.column_stack([np.full(len(ji), k), ji]), way)
            voxels += np.bincount(values, minlength=len(voxels))
            lost += np.bincount(values[outside], minlength=len(voxels))
        self._outside += [Outside(int(value), int(lost[value]), int(voxels[value])) for value in np.flatnonzero(lost)]

    def annotation(self) -> Annotation:
        """What was put in."""
        return Annotation(
            self._reference.with_array(self._labels[None], name=""), dict(self._overlaps), tuple(self._outside)
        )

    def _inside(self, kji: npt.NDArray[np.intp], way: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
        there = (kji[:, ::-1] @ way[:3, :3].T + way[:3, 3])[:, ::-1]
        last = np.array(self._reference.shape) - 0.5
        inside: npt.NDArray[np.bool_] = np.all((there >= -0.5 - _NEAR) & (there <= last + _NEAR), axis=1)
        return inside
