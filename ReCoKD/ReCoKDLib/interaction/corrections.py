"""What a user says about a result: clicks, strokes, and boxes that limit what may change."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..volume import Volume

Array = npt.NDArray[Any]
Point = tuple[float, float, float]

MAX_STROKE_POINTS = 10_000
_ON_THE_BORDER = 1e-6  # voxels: what the way from RAS and back may lose


class CorrectionError(InputError):
    """A correction cannot be carried out as it was made."""


class OutsideVolumeError(CorrectionError):
    """A point lies in no voxel of the volume."""


class LockedError(CorrectionError):
    """A lock, or a box, forbids what a correction asks for."""


@dataclass(frozen=True)
class Box:
    """A box in the world, at any angle, outside of which nothing may change.

    Attributes:
        centre: RAS, mm.
        axes: (3, 3); the columns are the directions of its axes in RAS, of any length.
        half_sizes: From the centre to the faces along the axes, mm.

    Raises:
        CorrectionError: A number is not finite, a size is negative, or the axes lie in a plane.
    """

    centre: Point
    axes: tuple[Point, Point, Point]
    half_sizes: Point

    def __post_init__(self) -> None:
        object.__setattr__(self, "centre", _point(self.centre))
        object.__setattr__(self, "axes", tuple(_point(row) for row in self.axes))
        object.__setattr__(self, "half_sizes", _point(self.half_sizes))
        numbers = np.array([self.centre, *self.axes, self.half_sizes])
        if numbers.shape != (5, 3) or not np.isfinite(numbers).all() or min(self.half_sizes) < 0:
            raise CorrectionError("The box that limits the change has no valid place or size. Draw it again.")
        if abs(np.linalg.det(self._directions())) < 1e-6:
            raise CorrectionError("The axes of the box that limits the change lie in a plane. Draw it again.")

    def _directions(self) -> Array:
        columns = np.array(self.axes)
        lengths = np.linalg.norm(columns, axis=0)
        directions: Array = columns / np.where(lengths > 0, lengths, 1)
        return directions

    def contains(self, ijk_to_ras: Array, kji: tuple[Array, Array, Array]) -> Array:
        """Whether the centres of voxels lie in the box, its faces included; ``kji`` are indices that broadcast."""
        to_box = np.linalg.inv(self._directions())
        matrix = to_box @ ijk_to_ras[:3, :3]
        start = to_box @ (ijk_to_ras[:3, 3] - self.centre)
        inside: Array = np.ones(np.broadcast_shapes(*(index.shape for index in kji)), dtype=bool)
        for row, offset, half in zip(matrix, start, self.half_sizes, strict=True):
            along = row[2] * kji[0] + row[1] * kji[1] + row[0] * kji[2] + offset
            inside &= np.abs(along) <= half + 1e-6
        return inside


@dataclass(frozen=True)
class Click:
    """One point.

    Attributes:
        position_ras: World, mm.
        segment: Name of the segment that it speaks of.
        inside: Whether the point belongs to the segment, or does not.
        locked: Names of the segments that were locked when it was made: it changes none of their voxels. A lock set
            later does not undo it.
        box: The box that limited the change when it was made.
    """

    position_ras: Point
    segment: str
    inside: bool = True
    locked: frozenset[str] = frozenset()
    box: Box | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "position_ras", _point(self.position_ras))
        object.__setattr__(self, "locked", frozenset(self.locked))

    @property
    def points(self) -> Array:
        """(1, 3) RAS, mm."""
        return np.array([self.position_ras])


@dataclass(frozen=True)
class Stroke:
    """A line drawn with a round brush: every voxel within its radius is spoken of.

    Attributes:
        points_ras: The corners of the line; world, mm.
        radius_mm: Of the brush; 0 for the voxels on the line alone.
        segment: As in :class:`Click`, and so are ``inside``, ``locked`` and ``box``.

    Raises:
        CorrectionError: There is no point, there are too many, or the radius is negative or not a number.
    """

    points_ras: tuple[Point, ...]
    radius_mm: float
    segment: str
    inside: bool = True
    locked: frozenset[str] = frozenset()
    box: Box | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "points_ras", tuple(_point(point) for point in self.points_ras))
        object.__setattr__(self, "locked", frozenset(self.locked))
        if not self.points_ras:
            raise CorrectionError("The stroke has no points. Draw it again.")
        if len(self.points_ras) > MAX_STROKE_POINTS:
            raise CorrectionError(
                f"The stroke has {len(self.points_ras)} points; {MAX_STROKE_POINTS} are the most. "
                "Draw several shorter strokes."
            )
        if not (np.isfinite(self.radius_mm) and self.radius_mm >= 0):
            raise CorrectionError(f"The radius of a stroke must be 0 mm or more, not {self.radius_mm}.")

    @property
    def points(self) -> Array:
        """(n, 3) RAS, mm."""
        return np.array(self.points_ras)


Correction = Click | Stroke


def _point(values: Iterable[float]) -> Point:
    numbers = tuple(float(value) for value in values)
    if len(numbers) != 3:
        raise CorrectionError(f"A point has three coordinates (R, A, S in mm), not {len(numbers)}.")
    return numbers[0], numbers[1], numbers[2]


def continuous_kji(points: Array, volume: Volume) -> Array:
    """(n, 3) RAS points as continuous voxel indices (k, j, i).

    Raises:
        OutsideVolumeError: A point lies beyond the faces of the outermost voxels, or is not a number.
    """
    matrix = np.linalg.inv(volume.ijk_to_ras)
    kji = (points @ matrix[:3, :3].T + matrix[:3, 3])[:, ::-1]
    shape = np.array(volume.shape)
    fits = (kji >= -0.5 - _ON_THE_BORDER) & (kji <= shape - 0.5 + _ON_THE_BORDER)  # false for NaN, too
    if not fits.all():
        outside = points[~fits.all(axis=1)][0]
        where = ", ".join(f"{axis} {value:.1f}" for axis, value in zip("RAS", outside, strict=True))
        raise OutsideVolumeError(
            f"The point at {where} mm lies outside the volume {volume.name!r} "
            f"({' x '.join(map(str, volume.shape[::-1]))} voxels). Put it on the volume."
        )
    return np.asarray(kji, dtype=np.float64)


def voxels_of(correction: Correction, volume: Volume) -> Array:
    """The voxels that a correction speaks of: (n, 3) indices (k, j, i), each once, in ascending order.

    A click has the voxel nearest to it in the volume's own axes; a stroke those that its line passes, and those whose
    centres lie within its radius.

    Raises:
        OutsideVolumeError: A point lies outside the volume.
    """
    kji = continuous_kji(correction.points, volume)
    last = np.array(volume.shape) - 1
    if isinstance(correction, Click):
        nearest: Array = np.clip(np.floor(kji + 0.5).astype(np.intp), 0, last)
        return nearest
    found = [np.clip(np.floor(_walk(kji) + 0.5).astype(np.intp), 0, last)]
    to_mm = volume.ijk_to_ras[:3, :3][:, ::-1]  # of (k, j, i) offsets
    # The voxel box around a ball of this radius, whatever the angles between the axes.
    reach = correction.radius_mm * np.linalg.norm(np.linalg.inv(to_mm), axis=1) + _ON_THE_BORDER
    for start, end in zip(kji, kji[1:] if len(kji) > 1 else kji, strict=False):
        low = np.clip(np.ceil(np.minimum(start, end) - reach), 0, last).astype(int)
        high = np.clip(np.floor(np.maximum(start, end) + reach), 0, last).astype(int)
        grid = np.stack(np.meshgrid(*(np.arange(a, b + 1) for a, b in zip(low, high, strict=True)), indexing="ij"), -1)
        places = grid.reshape(-1, 3)
        along, offset = to_mm @ (end - start), (places - start) @ to_mm.T
        length = float(along @ along)
        share = np.clip(offset @ along / length, 0, 1) if length > 0 else np.zeros(len(places))
        near = np.linalg.norm(offset - share[:, None] * along, axis=1) <= correction.radius_mm + 1e-6
        found.append(places[near])
    every: Array = np.unique(np.concatenate(found), axis=0)
    return every


def _walk(kji: Array) -> Array:
    """Points on a line at most half a voxel apart."""
    pieces = [kji[:1]]
    for start, end in itertools.pairwise(kji):
        steps = max(1, int(np.ceil(2 * np.abs(end - start).max())))
        pieces.append(start + (end - start) * (np.arange(1, steps + 1) / steps)[:, None])
    return np.concatenate(pieces)
