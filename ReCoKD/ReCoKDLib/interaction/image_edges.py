"""A corrector that looks at the image alone: for segments of which no student says anything."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from .corrector import BorderLayer, Corrector, Window, around, unit

Array = npt.NDArray[Any]

_MARGIN = 2  # voxels around those that may change, for the filter


@dataclass(frozen=True)
class ImageEdges:
    """Grows from the correction as far as the way across the image is short: geodesic distance.

    A millimetre through even tissue is a millimetre; across an edge it is up to several times as much, by the size of
    the gradient. A voxel changes if its way to the correction is shorter than ``reach``, and shorter than to any voxel
    of which the user said otherwise (Criminisi et al., "GeoS: Geodesic Image Segmentation", ECCV 2008, with gradients
    as costs).

    The values were measured with ``Testing/benchmarks/clicks.py`` on training cases.

    Attributes:
        reach_mm: As in :class:`.corrector.Corrector`.
        reach: The longest way, in mm of even tissue; in :func:`.corrector.unit`.
        edge: How much longer a way is at a usual edge.
        usual: The percentile of the gradients around the correction that is a usual edge.
        least_mm: So far it grows across every edge, for clicks that lie on one.
        smooth: Width of the Gaussian before gradients are taken; in :func:`.corrector.unit`.
        otherwise: The corrector for images without any edge.
    """

    reach_mm: float = 25.0
    reach: float = 16.0
    edge: float = 5.0
    usual: float = 80.0
    least_mm: float = 2.0
    smooth: float = 0.7
    otherwise: Corrector = field(default_factory=BorderLayer)

    def support(self, window: Window) -> Array:
        """See :class:`.corrector.Corrector`."""
        reach = min(self.reach, self.reach_mm / unit(window))
        near = around(window, reach * unit(window), _MARGIN)
        steps = np.array(window.spacing) / unit(window)
        edges = self._edges(window.image[(slice(None), *near)], steps)
        if edges is None:
            return self.otherwise.support(window)
        cost = 1 + self.edge * edges
        gain, said = window.gain[near], window.said[near]
        seeds = window.seeds - [part.start for part in near]
        way = _way(cost, seeds, steps, reach)
        straight = _way(np.ones_like(cost), seeds, np.array(window.spacing), self.least_mm)
        way = np.where(straight <= self.least_mm, np.minimum(straight / unit(window), way), way)
        limit = np.minimum(_way(cost, np.argwhere(said < 0), steps, reach), reach)
        may = np.isfinite(gain)
        score = np.where(way < limit, 1 - way / reach, -1)
        support = np.full(window.gain.shape, -np.inf, dtype=np.float32)
        support[near][may] = (score - np.where(may, gain, 0))[may]
        at = tuple(window.seeds.T)
        support[at] = np.maximum(0, support[at])
        return support

    def _edges(self, image: Array, steps: Array) -> Array | None:
        """(k, j, i) how strong the image's edges are, 1 for a usual one; None where there is none."""
        from scipy.ndimage import gaussian_filter

        squares = []
        for channel in np.nan_to_num(image.astype(np.float32)):
            smooth = gaussian_filter(channel, self.smooth / steps)
            across = [np.gradient(smooth, step, axis=n) for n, step in enumerate(steps) if smooth.shape[n] > 1]
            square = np.sum(np.square(across), axis=0) if across else np.zeros_like(smooth)
            if (square > 0).any():
                squares.append(square / np.percentile(square[square > 0], self.usual))
        return np.sqrt(np.mean(squares, axis=0)) if squares else None


def _way(cost: Array, starts: Array, steps: Array, longest: float) -> Array:
    """(k, j, i) length of the shortest way to any of the (n, 3) starts, infinite where it is much longer than that."""
    import SimpleITK as sitk

    if not len(starts):
        return np.full(cost.shape, np.inf)
    speed = sitk.GetImageFromArray((1 / cost).astype(np.float32))
    speed.SetSpacing(steps[::-1].tolist())
    march = sitk.FastMarchingImageFilter()
    march.SetTrialPoints([(int(i), int(j), int(k)) for k, j, i in starts])
    march.SetStoppingValue(longest)
    way: Array = sitk.GetArrayFromImage(march.Execute(speed))
    return way
