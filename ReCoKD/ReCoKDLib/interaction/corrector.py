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
            where the voxel may not change, as it has the label already, or another one than the corrected voxels.
        fits: (k, j, i) bool: which voxels have the asked-for label already.
        between: (k, j, i) bool: which voxels are said to belong to another structure than the present one.
        said: (k, j, i) int8: 1 where this or an earlier correction says that a voxel is as is asked for, -1 where one
            says that it is not, 0 elsewhere.
        evident: Whether the student's probabilities tell voxels apart.
        seeds: (n, 3) indices in the window of the voxels that the correction speaks of and that must change.
        spacing: Voxel size along (k, j, i), mm.
    """

    image: Array
    gain: Array
    fits: Array
    between: Array
    said: Array
    evident: bool
    seeds: Array
    spacing: tuple[float, float, float]


class Corrector(Protocol):
    """Says how strongly a correction speaks for its label at the voxels around it.

    A student that takes clicks as guidance channels is another implementation: its support is the log-odds of its
    answer less ``gain``.
    """

    @property
    def reach_mm(self) -> float:
        """No voxel further from a correction than this changes."""

    def support(self, window: Window) -> Array:
        """(k, j, i) float32, in log-odds: voxels that hang together with the seeds change where it outweighs ``gain``.

        0 or less where the correction says nothing.
        """


@dataclass(frozen=True)
class BorderLayer:
    """Moves the present border towards the correction, as far as the student's probabilities let it.

    The correction is an observation of the log-odds at its voxels. Like the mean of a Gaussian process, it speaks for
    its surroundings with a Gaussian of the distance, and only for the layer of voxels that are no further from the
    border than itself: errors are shells, and a user who clicks in the middle of one says how thick it is. The border
    between two structures is often a convention rather than an edge, and moves on a wider front. What the student
    itself would have labelled so changes with it.

    The values were measured with ``Testing/benchmarks/clicks.py`` on training cases.

    Attributes:
        reach_mm: No voxel further away changes.
        sigma_mm: Width of the Gaussian to and from background; at least 1.5 voxels.
        sigma_between_mm: Width between two structures.
        margin: Log-odds of the asked-for label at the correction, afterwards, if it has not more from the student.
        beyond: Log-odds lost for each mm that a voxel is further from the border than the correction.
    """

    reach_mm: float = 25.0
    sigma_mm: float = 3.0
    sigma_between_mm: float = 12.0
    margin: float = 1.0
    beyond: float = 5.0

    def support(self, window: Window) -> Array:
        """See :class:`Corrector`."""
        from scipy.ndimage import distance_transform_edt

        sigma = self.sigma_between_mm if window.between[tuple(window.seeds.T)].any() else self.sigma_mm
        near = around(window, 3 * max(sigma, 1.5 * max(window.spacing)))
        gain, seeds = window.gain[near], window.seeds - [part.start for part in near]
        at = tuple(seeds.T)
        away = np.ones(gain.shape, dtype=bool)
        away[at] = False
        distance = distance_transform_edt(away, sampling=window.spacing)
        least = max(self.sigma_mm, 1.5 * max(window.spacing))
        sigmas = np.where(window.between[near], max(least, self.sigma_between_mm), least)
        strength = max(0.0, self.margin - float(np.median(gain[at])))
        push = strength * np.exp(-0.5 * (distance / sigmas) ** 2)
        fits = window.fits[near]
        if fits.any():
            depth = distance_transform_edt(~fits, sampling=window.spacing)
            push -= self.beyond * np.maximum(0, depth - depth[at].max())
        support = np.zeros(window.gain.shape, dtype=np.float32)
        support[near] = np.where(gain < 0, push, 0)
        support[tuple(window.seeds.T)] = strength
        return support


def unit(window: Window) -> float:
    """What distances are counted in, mm: 1, or the longest edge of a voxel."""
    return max(1.0, *window.spacing)


def around(window: Window, reach_mm: float, more: int = 0) -> tuple[slice, ...]:
    """The part of a window that lies no further from the correction than this, and so many voxels beyond."""
    margin = [int(np.ceil(reach_mm / mm)) + more for mm in window.spacing]
    return tuple(
        slice(max(0, int(low) - far), min(int(high) + far + 1, size))
        for low, high, far, size in zip(
            window.seeds.min(axis=0), window.seeds.max(axis=0), margin, window.gain.shape, strict=True
        )
    )
