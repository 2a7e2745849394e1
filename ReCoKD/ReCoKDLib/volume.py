"""One type for an image or label map with its place in the patient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import InputError

Array = npt.NDArray[Any]

_WORLD_AXES = ("LR", "PA", "IS")  # negative and positive end of each RAS axis


@dataclass(frozen=True, eq=False)
class Volume:
    """Voxels and their geometry.

    Attributes:
        array: Voxels in (channel, k, j, i) order; i runs fastest in memory, as in Slicer and SimpleITK.
        ijk_to_ras: (4, 4) matrix from voxel indices (i, j, k, 1) to RAS millimetres; any orientation,
            left-handed ones included.
        name: What to call it in tables and scenes.

    Raises:
        InputError: The array is not four-dimensional or empty, or the matrix is singular.
    """

    array: Array
    ijk_to_ras: npt.NDArray[np.float64] = field(repr=False)
    name: str = ""

    def __post_init__(self) -> None:
        if self.array.ndim != 4 or 0 in self.array.shape:
            raise InputError(
                f"A volume needs (channel, k, j, i) voxels; this array has shape {self.array.shape}. "
                "Choose a three-dimensional image."
            )
        matrix = np.asarray(self.ijk_to_ras, dtype=np.float64)
        if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or abs(np.linalg.det(matrix[:3, :3])) < 1e-12:
            raise InputError(
                f"The volume {self.name!r} has no valid geometry (spacing or directions are zero or not numbers). "
                "Correct its header, in Slicer with the Volumes module."
            )
        object.__setattr__(self, "ijk_to_ras", matrix)

    @property
    def channels(self) -> int:
        """Number of channels."""
        return int(self.array.shape[0])

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along (k, j, i)."""
        k, j, i = self.array.shape[1:]
        return int(k), int(j), int(i)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size in millimetres along (k, j, i), to the last digit as the image's header has it."""
        i, j, k = np.linalg.norm(self.ijk_to_ras[:3, :3], axis=0)
        return _as_stored(float(k)), _as_stored(float(j)), _as_stored(float(i))

    @property
    def axis_codes(self) -> str:
        """The anatomical direction in which i, j and k increase, to the nearest axis: ``"RAS"``, ``"LPS"``, ...

        Each world axis is used once, also for 45-degree obliques (best assignment overall).
        """
        directions = self.ijk_to_ras[:3, :3] / np.linalg.norm(self.ijk_to_ras[:3, :3], axis=0)
        # Rounded, so that of equally good ones the first is taken, whatever the last binary digits say.
        best = max(_PERMUTATIONS, key=lambda p: round(sum(abs(directions[p[axis], axis]) for axis in range(3)), 6))
        return "".join(_WORLD_AXES[best[axis]][int(directions[best[axis], axis] > 0)] for axis in range(3))

    def with_array(self, array: Array, name: str | None = None) -> Volume:
        """Other voxels on the same grid; ``array`` is (channel, k, j, i) with the same (k, j, i)."""
        if array.shape[1:] != self.array.shape[1:]:
            raise ValueError(f"array of shape {array.shape} does not fit the grid {self.shape}")
        return replace(self, array=array, name=self.name if name is None else name)

    def cropped(self, block: tuple[slice, slice, slice]) -> Volume:
        """A part of the volume at its place; ``block`` has the first and the end index along k, j and i."""
        matrix = self.ijk_to_ras.copy()
        matrix[:3, 3] += matrix[:3, :3] @ [part.start for part in reversed(block)]
        return replace(self, array=self.array[(slice(None), *block)], ijk_to_ras=matrix)

    def same_grid(self, other: Volume, tolerance: float = 1e-3) -> bool:
        """Whether both have the same voxels in the patient: no corner is further off than ``tolerance`` voxels."""
        if self.shape != other.shape:
            return False
        k, j, i = (n - 1 for n in self.shape)
        corners = np.array([(a, b, c, 1) for a in (0, i) for b in (0, j) for c in (0, k)], dtype=np.float64).T
        offset = np.abs((self.ijk_to_ras - other.ijk_to_ras) @ corners)[:3]
        return bool(offset.max() <= tolerance * min(self.spacing))

    def reoriented(self, axis_codes: str) -> Volume:
        """The same voxels at the same places with axes permuted and flipped to ``axis_codes`` (no resampling).

        Args:
            axis_codes: Three letters for i, j, k, such as ``"RAS"``.

        Raises:
            ValueError: ``axis_codes`` does not name each world axis once.
        """
        source, flipped = self._way_to(axis_codes)
        array = self.array.transpose(0, *(1 + (2 - source[2 - axis]) for axis in range(3)))
        matrix = self.ijk_to_ras.copy()
        matrix[:3, :3] = self.ijk_to_ras[:3, source]
        for new_axis in flipped:
            array_axis = 3 - new_axis
            matrix[:3, 3] += matrix[:3, new_axis] * (array.shape[array_axis] - 1)
            matrix[:3, new_axis] *= -1
            array = np.flip(array, array_axis)
        return replace(self, array=np.ascontiguousarray(array), ijk_to_ras=matrix)

    def with_reoriented_array(self, array: Array, axis_codes: str) -> Volume:
        """Other voxels on this grid, given in the order of ``reoriented(axis_codes)``: the exact way back.

        Reorienting that result once more would have to guess this volume's axes anew, and of an oblique at 45
        degrees might guess others.
        """
        source, flipped = self._way_to(axis_codes)
        unflipped = np.flip(array, tuple(3 - new_axis for new_axis in flipped))
        back = np.argsort([2 - source[2 - axis] for axis in range(3)])
        return self.with_array(np.ascontiguousarray(unflipped.transpose(0, *(1 + back))))

    def _way_to(self, axis_codes: str) -> tuple[list[int], list[int]]:
        """For each new (i, j, k) axis which old one it is, and the new axes that run the other way."""
        wanted = [next((w for w, ends in enumerate(_WORLD_AXES) if code in ends), -1) for code in axis_codes]
        if sorted(wanted) != [0, 1, 2]:
            raise ValueError(f"{axis_codes!r} is not an orientation such as 'RAS'")
        codes = self.axis_codes
        world = [next(w for w, ends in enumerate(_WORLD_AXES) if code in ends) for code in codes]
        source = [world.index(w) for w in wanted]
        return source, [axis for axis in range(3) if codes[source[axis]] != axis_codes[axis]]


def _as_stored(millimetres: float) -> float:
    """The single-precision or short decimal number that a length is but for rounding.

    The length of an oblique axis of 1.5 mm may come out as 1.5000000000000002. Half a voxel too many or too few
    after resampling (35 x 1.5 = 52.5) must not hang on that.
    """
    for stored in (float(np.float32(millimetres)), float(f"{millimetres:.12g}")):
        if abs(stored - millimetres) <= 1e-14 * millimetres:
            return stored
    return millimetres


_PERMUTATIONS = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))


def stack_channels(volumes: Sequence[Volume]) -> Volume:
    """Several volumes on one grid as the channels of one, in the given order.

    Raises:
        InputError: There is none, or their grids differ.
    """
    if not volumes:
        raise InputError("No volume was given. Choose at least one.")
    first = volumes[0]
    for other in volumes[1:]:
        if not first.same_grid(other):
            raise InputError(
                f"The volumes {first.name!r} {first.shape} and {other.name!r} {other.shape} lie on different grids. "
                "Resample one to the other first (in Slicer: Resample Scalar/Vector/DWI Volume)."
            )
    if len(volumes) == 1:
        return first
    return first.with_array(np.concatenate([volume.array for volume in volumes]))
