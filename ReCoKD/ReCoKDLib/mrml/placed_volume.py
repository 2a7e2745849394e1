"""A volume that is corrected, and where it lies now: its parent transforms may change at any time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..volume import Volume
from .record import require_volumes
from .volumes import Matrix, moved, world_from_node


@dataclass(frozen=True)
class PlacedVolume:
    """Voxels, and the way between the volume's own coordinates and the world.

    Attributes:
        segmentation_node: Whose volume it is.
        local: All channels, in the volume's own coordinates.
    """

    segmentation_node: Any
    local: Volume

    @property
    def node(self) -> Any:
        """The volume node, the first of several channels.

        Raises:
            InputError: It was removed.
        """
        return require_volumes(self.segmentation_node)[0]

    @property
    def grid(self) -> Matrix:
        """(4, 4) from voxels (i, j, k) to the world."""
        grid: Matrix = world_from_node(self.node) @ self.local.ijk_to_ras
        return grid

    @property
    def from_world(self) -> Matrix:
        """(4, 4) from the world to the volume's own coordinates."""
        return np.asarray(np.linalg.inv(world_from_node(self.node)), dtype=np.float64)

    @property
    def in_world(self) -> Volume:
        """The volume in the world."""
        return replace(self.local, ijk_to_ras=self.grid)

    def to_world(self, points: Any) -> npt.NDArray[np.float64]:
        """(n, 3) points of the volume's own coordinates in the world."""
        return moved(np.array(points), world_from_node(self.node))
