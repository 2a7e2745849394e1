"""How far a correction reaches: the seam between what a user says and how a result follows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Window:
    """The surroundings of one correction.

    Attributes:
        image: (channel, k, j, i) voxels of the volume; a view, not to be written to.
        gain: (k, j, i) float32: log-odds of the asked-for label against the present one at each voxel; minus infinity
            where the voxel has it already or may not change.
        seeds: (n, 3) indices in the window of the voxels that the correction speaks of and that must change.
        kji_to_mm: (3, 3) from voxel offsets (k, j, i) to millimetres.
    """

    image: Array
    gain: Array
    seeds: Array
    kji_to_mm: Array


class Corrector(Protocol):
    """Says how strongly a correction speaks for its label at the voxels around it.

    A student that takes clicks as guidance channels is another implementation: its support is the log-odds of its
    answer less ``gain``.
    """

    @property
    def reach_mm(self) -> float:
        """No voxel further from a correction than this changes."""

    def support(self, window: Window) -> Array:
        """(k, j, i) float32, 0 or more, in log-odds: voxels change where ``gain + support`` is positive."""


@dataclass(frozen=True)
class EdgeAware:
    """Moves the student's own boundary towards the correction, as far as the image's edges let it.

    The correction is an observation of the log-odds at its voxels; like the mean of a Gaussian process it speaks for
    its surroundings with a Gaussian of the distance.

    Attributes:
        reach_mm: No voxel further away changes.
        sigma_mm: Width of the Gaussian.
        margin: Log-odds of the asked-for label at the correction itself, afterwards.
    """

    reach_mm: float = 25.0
    sigma_mm: float = 4.0
    margin: float = 1.0

    def support(self, window: Window) -> Array:
        """See :class:`Corrector`."""
        from scipy.ndimage import distance_transform_edt

        away = np.ones(window.gain.shape, dtype=bool)
        away[tuple(window.seeds.T)] = False
        spacing = np.linalg.norm(window.kji_to_mm, axis=0)
        distance = distance_transform_edt(away, sampling=spacing)
        wrong = -float(np.median(window.gain[tuple(window.seeds.T)]))
        strength = max(0.0, wrong) + self.margin
        support: Array = strength * np.exp(-0.5 * (distance / self.sigma_mm) ** 2)
        return support.astype(np.float32)
