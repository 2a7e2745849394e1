"""A corrector that looks at the image alone: for segments of which no student says anything."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from .corrector import BorderLayer, Corrector, Window, around

Array = npt.NDArray[Any]
Spacing = tuple[float, float, float]

_MARGIN = 2  # voxels around those that may change, for the filter


@dataclass(frozen=True)
class ImageEdges:
    """Grows from the correction as far as the way across the image is short: geodesic distance.

    A millimetre through even tissue is a millimetre; across an edge it is up to several times as much, by the size of
    the gradient for each mm. A voxel changes if its way to the correction is shorter than ``reach_mm``, and shorter
    than to any voxel of which the user said otherwise (Criminisi et al., "GeoS: Geodesic Image Segmentation", ECCV
    2008, with gradients as costs).

    Where the segment has a border already, errors are shells along it, and a click in the middle of one says how thick
    it is: nothing that is deeper than the click changes.

    The values were measured with ``Testing/benchmarks/clicks.py`` on training cases.

    Attributes:
        reach_mm: The longest way; as in :class:`.corrector.Corrector`.
        edge: How much longer a way is at a usual edge.
        usual: The percentile of the gradients around the correction that is a usual edge.
        deeper: The greatest distance from the present border, as a multiple of the correction's.
        least_mm: So far it grows across every edge, for clicks that lie on one, and at least by a voxel along the two
            axes with the smaller voxels: in the plane of thick slices.
        smooth_mm: Width of the Gaussian before gradients are taken.
        otherwise: The corrector for images without any edge.
    """

    reach_mm: float = 20.0
    edge: float = 5.0
    usual: float = 80.0
    deeper: float = 1.0
    least_mm: float = 2.0
    smooth_mm: float = 0.7
    otherwise: Corrector = field(default_factory=BorderLayer)

    def support(self, window: Window) -> Array:
        """See :class:`.corrector.Corrector`."""
        near = around(window, self.reach_mm, _MARGIN)
        edges = self._edges(window.image[(slice(None), *near)], window.spacing)
        if edges is None:
            return self.otherwise.support(window)
        gain = window.gain[near]
        may = np.isfinite(gain)
        seeds = window.seeds - [part.start for part in near]
        cost = 1 + self.edge * edges
        way = _way(cost, seeds, window.spacing, self.reach_mm)
        way[~self._shallow(window.fits[near], seeds, window.spacing)] = np.inf
        least = max(self.least_mm, float(np.median(window.spacing)))
        straight = _distance(seeds, gain.shape, window.spacing)
        way = np.where(straight <= least, np.minimum(straight, way), way)
        otherwise = _way(cost, np.argwhere(window.said[near] < 0), window.spacing, self.reach_mm)
        score = np.where(way < np.minimum(otherwise, self.reach_mm), 1 - way / self.reach_mm, -1)
        support = np.full(window.gain.shape, -np.inf, dtype=np.float32)
        support[near][may] = (score - np.where(may, gain, 0))[may]
        at = tuple(window.seeds.T)
        support[at] = np.maximum(0, support[at])
        return support

    def _shallow(self, fits: Array, seeds: Array, spacing: Spacing) -> Array:
        """(k, j, i) which voxels are no deeper below the present border than the seeds; all without a border."""
        from scipy.ndimage import distance_transform_edt

        if not fits.any():
            return np.ones(fits.shape, dtype=bool)
        depth = distance_transform_edt(~fits, sampling=spacing)
        shallow: Array = depth <= self.deeper * depth[tuple(seeds.T)].max()
        return shallow

    def _edges(self, image: Array, spacing: Spacing) -> Array | None:
        """(k, j, i) how strong the image's edges are, 1 for a usual one; None where there is none."""
        from scipy.ndimage import gaussian_filter

        squares = []
        for channel in np.nan_to_num(image.astype(np.float32)):
            smooth = gaussian_filter(channel, self.smooth_mm / np.array(spacing))
            across = [np.gradient(smooth, mm, axis=n) for n, mm in enumerate(spacing) if smooth.shape[n] > 1]
            square = np.sum(np.square(across), axis=0) if across else np.zeros_like(smooth)
            if (square > 0).any():
                squares.append(square / np.percentile(square[square > 0], self.usual))
        return np.sqrt(np.mean(squares, axis=0)) if squares else None


def _distance(starts: Array, shape: tuple[int, ...], spacing: Spacing) -> Array:
    """(k, j, i) straight distance from the nearest of the (n, 3) starts, mm."""
    from scipy.ndimage import distance_transform_edt

    away = np.ones(shape, dtype=bool)
    away[tuple(starts.T)] = False
    distance: Array = distance_transform_edt(away, sampling=spacing)
    return distance


def _way(cost: Array, starts: Array, spacing: Spacing, longest: float) -> Array:
    """(k, j, i) length of the shortest way to any of the (n, 3) starts, mm; huge where it is longer than ``longest``.

    Args:
        cost: (k, j, i) what a millimetre counts.
        starts: Voxels.
        spacing: Along (k, j, i), mm.
        longest: Where to stop.
    """
    import SimpleITK as sitk

    if not len(starts):
        return np.full(cost.shape, np.inf)
    speed = sitk.GetImageFromArray((1 / cost).astype(np.float32))
    speed.SetSpacing(spacing[::-1])
    march = sitk.FastMarchingImageFilter()
    march.SetTrialPoints([(int(i), int(j), int(k)) for k, j, i in starts])
    march.SetStoppingValue(longest)
    way: Array = sitk.GetArrayFromImage(march.Execute(speed))
    return way
