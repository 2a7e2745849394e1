"""A corrector whose weights were fitted: how probable is an error at a voxel, given one at the click?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from .corrector import BorderLayer, Corrector, Window, around, unit
from .image_edges import ImageEdges

Array = npt.NDArray[Any]

# Log-odds for one unit of each of ``features``: printed by Testing/benchmarks/fit_clicks.py, from training cases alone.
WEIGHTS = {
    "constant": -1.339,
    "gain": 0.735,
    "deeper than the click": -1.108,
    "deeper than twice the click": -0.685,
    "depth": 0.251,
    "share within 1": 6.163,
    "share within 2": -3.437,
    "within 2": 2.985,
    "within 4": -0.156,
    "within 8": -0.65,
    "gain of the click, within 4": -0.495,
    "depth of the click, within 4": 0.552,
    "facing": 0.656,
    "between": 2.009,
    "between, gain": -0.262,
    "between, within 8": -1.808,
}

_MARGIN = 2  # voxels around those that may change, for the filters


@dataclass(frozen=True)
class FittedLayer:
    """A logistic regression on what lies between a voxel and the correction.

    Errors of a student are shells, and they are displacements: where a border runs too far in at the click, it does so
    on the whole side that faces the same way, hardly on the other. Nothing is asked of the kind of structure or of
    student but log-odds, distances, and which way borders face, so that the weights serve others, too.

    Where there is no border to move (an empty result, a lost class, a click far from the segment) another corrector is
    asked, and another one yet where the student says nothing about the segment.

    Attributes:
        reach_mm: As in :class:`.corrector.Corrector`.
        reach: No voxel further from the correction changes; in :func:`.corrector.unit`.
        deepest: The border must be as near to the correction; in :func:`.corrector.unit`.
        otherwise: The corrector where there is no border.
        unknown: The corrector for segments of which no student says anything.
        weights: Log-odds for one unit of each of :func:`features`.
    """

    reach_mm: float = 25.0
    reach: float = 14.0
    deepest: float = 6.0
    otherwise: Corrector = field(default_factory=BorderLayer)
    unknown: Corrector = field(default_factory=ImageEdges)
    weights: Mapping[str, float] = field(default_factory=lambda: WEIGHTS)

    def support(self, window: Window) -> Array:
        """See :class:`.corrector.Corrector`."""
        if not window.evident:
            return self.unknown.support(window)
        near = self.near(window)
        gain = window.gain[near]
        may = np.isfinite(gain)
        if not window.fits[near].any() or np.ptp(gain[may]) < 1e-3:
            return self.otherwise.support(window)
        values = features(window, near)
        if float(values["depth of the click"]) > self.deepest:
            return self.otherwise.support(window)
        score = sum(weight * np.broadcast_to(values[name], gain.shape) for name, weight in self.weights.items())
        may &= values["distance"] <= min(self.reach, self.reach_mm / unit(window))
        support = np.full(window.gain.shape, -np.inf, dtype=np.float32)
        support[near][may] = (score - np.where(may, gain, 0))[may]
        at = tuple(window.seeds.T)
        support[at] = np.maximum(0, support[at])
        return support

    def near(self, window: Window) -> tuple[slice, ...]:
        """The part of the window that is looked at."""
        return around(window, self.reach * unit(window), _MARGIN)


def features(window: Window, near: tuple[slice, ...]) -> dict[str, Array]:
    """What the regression knows of each voxel in a part of the window: (k, j, i) arrays, or one number for all.

    ``distance`` is from the correction, ``depth`` from the segment that is asked for, ``facing`` the cosine between the
    directions of the border here and at the correction.
    """
    from scipy.ndimage import distance_transform_edt, gaussian_filter, uniform_filter

    gain, fits, between = window.gain[near], window.fits[near], window.between[near].astype(np.float32)
    seeds = tuple((window.seeds - [part.start for part in near]).T)
    steps = np.array(window.spacing) / unit(window)
    away = np.ones(gain.shape, dtype=bool)
    away[seeds] = False
    distance = distance_transform_edt(away, sampling=steps)
    depth = distance_transform_edt(~fits, sampling=steps)
    deep, expected = depth[seeds].max(), float(np.median(gain[seeds]))
    share = fits.astype(np.float32)
    smooth = gaussian_filter(share, 1.5 / steps)
    across = [
        np.gradient(smooth, step, axis=axis) if smooth.shape[axis] > 1 else np.zeros_like(smooth)
        for axis, step in enumerate(steps)
    ]
    normal = np.stack(across)
    normal /= np.linalg.norm(normal, axis=0) + 1e-6
    mean = normal[(slice(None), *seeds)].mean(axis=1)
    facing = np.tensordot(mean / (np.linalg.norm(mean) + 1e-6), normal, 1)
    near2, near4, near8 = (np.exp(-0.5 * (distance / sigma) ** 2) for sigma in (2, 4, 8))
    beside, around = (uniform_filter(share, [2 * round(r / step) + 1 for step in steps]) for r in (1, 2))
    return {
        "constant": np.array(1.0),
        "gain": gain,
        "deeper than the click": np.maximum(0, depth - deep),
        "deeper than twice the click": np.maximum(0, depth - 2 * deep + 1),
        "depth": depth,
        "share within 1": beside,
        "share within 2": around,
        "within 2": near2,
        "within 4": near4,
        "within 8": near8,
        "gain of the click, within 4": expected * near4,
        "depth of the click, within 4": deep * near4,
        "facing": facing,
        "between": between,
        "between, gain": between * np.where(np.isfinite(gain), gain, 0),
        "between, within 8": between * near8,
        "distance": distance,
        "depth of the click": deep,
    }
