"""What is known of the slices that somebody looks at, while a run is under way. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .volume import Volume

# A slice: a point in it and its normal; RAS, mm.
Plane = tuple[Sequence[float], Sequence[float]]


@dataclass(frozen=True, eq=False)
class Preview:
    """Labels so far of the voxels of slices.

    Attributes:
        voxels: (n, 3) indices (k, j, i) of the volume that was given; those that hold no segment so far are left out.
        values: (n,) their label values.
    """

    voxels: npt.NDArray[np.int32]
    values: npt.NDArray[np.int32]

    def on(self, volume: Volume) -> Volume:
        """As a label map of the volume, zero elsewhere."""
        largest = int(self.values.max(initial=0))
        array = np.zeros((1, *volume.shape), np.uint8 if largest < 256 else np.uint16)
        array[0][tuple(self.voxels.T)] = self.values
        return volume.with_array(array)
