"""Where a student is not sure: a confidence map, and the slices that are worth a look first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..labels import LabelSet
from ..volume import Volume

if TYPE_CHECKING:
    from ..prediction import Predictor

Array = npt.NDArray[Any]

AXES = ("k", "j", "i")


@dataclass(frozen=True)
class DoubtfulSlice:
    """The slice through a doubtful region that shows most of the doubt.

    Attributes:
        axis: Array axis that it is perpendicular to: 0, 1, 2 for k, j, i.
        index: Its number along that axis.
        position_ras: Where in it the doubt is greatest: a voxel's centre, mm.
        score: Doubt of the whole region, mm^3: the sum of 1 - confidence over its voxels, times a voxel's volume.
        segments: Names of the segments that the region touches, those with most voxels of it first.
        size_mm3: Volume of the region.
    """

    axis: int
    index: int
    position_ras: tuple[float, float, float]
    score: float
    segments: tuple[str, ...]
    size_mm3: float


def confidence(probabilities: Volume | Sequence[Volume], label_set: LabelSet) -> Volume:
    """How sure a student is of its label at each voxel: one channel of float32 from 0 to 1.

    The margin: the largest probability less the second largest, so 0 where two labels are equally probable; with
    regions the smallest of |2p - 1| over the heads. Of several runs, such as :func:`mirrored_probabilities`, the label
    is that of their mean, and the confidence the smallest margin by which any run is for it: 0 where one is against.

    Args:
        probabilities: A channel for each head; one run or several on one grid.
        label_set: What the heads mean.

    Raises:
        InputError: There is no run, or the number of channels is not that of the heads.
    """
    runs = [probabilities] if isinstance(probabilities, Volume) else list(probabilities)
    if not runs or any(run.channels != label_set.number_of_heads for run in runs):
        raise InputError(
            f"Confidence is made from the probabilities of {label_set.number_of_heads} heads; "
            f"{runs[0].channels if runs else 'none'} given. Segment with probabilities first."
        )
    result = np.empty((1, *runs[0].shape), dtype=np.float32)
    for k in range(runs[0].shape[0]):  # slice by slice: no second copy of all probabilities
        slices = [run.array[:, k].astype(np.float32) for run in runs]
        result[0, k] = _region_margin(slices) if label_set.has_regions else _label_margin(slices)
    return runs[0].with_array(result, "confidence")


def _label_margin(runs: list[Array]) -> Array:
    if len(runs[0]) == 1:
        return np.ones(runs[0].shape[1:], dtype=np.float32)
    winner = sum(runs[1:], runs[0]).argmax(axis=0)[None]
    margins = []
    for run in runs:
        own = np.take_along_axis(run, winner, axis=0)[0]
        others = run.copy()
        np.put_along_axis(others, winner, -1.0, axis=0)
        margins.append(own - others.max(axis=0))
    smallest: Array = np.min(margins, axis=0)
    return np.clip(smallest, 0, 1)


def _region_margin(runs: list[Array]) -> Array:
    side = np.where(sum(runs[1:], runs[0]) > 0.5 * len(runs), 1, -1)
    margins: Array = np.min([(side * (2 * run - 1)).min(axis=0) for run in runs], axis=0)
    return np.clip(margins, 0, 1)


def mirrored_probabilities(
    predictor: Predictor, volume: Volume, cancelled: Callable[[], bool] | None = None
) -> Iterator[Volume]:
    """The student's probabilities of the volume, then of its mirror images along each of ``mirror_axes``.

    Each is turned back onto the volume's grid. The predictor must have been made with mirroring; the axes are its
    plan's.

    Raises:
        Cancelled: ``cancelled`` said so.
    """
    for axis in (None, *predictor.mirror_axes):
        yield predictor.predict_mirrored(volume, axis, cancelled)


def doubtful_slices(
    confidence: Volume,
    labels: Volume,
    label_set: LabelSet,
    *,
    axis: int | None = None,
    threshold: float = 0.5,
    smallest_mm3: float = 10.0,
) -> list[DoubtfulSlice]:
    """One slice for each connected doubtful region, the most doubtful region first.

    Args:
        confidence: One channel, 0 to 1, see :func:`confidence`.
        labels: One channel on the same grid.
        label_set: Names of the labels.
        axis: Array axis that all slices are perpendicular to (0, 1, 2 for k, j, i); None takes for each region the one
            with the slice that shows most of the doubt.
        threshold: Voxels of less confidence are doubtful; they are connected over faces.
        smallest_mm3: Regions of a smaller volume are left out.

    Raises:
        InputError: The grids differ.
    """
    from scipy.ndimage import find_objects, label

    if not confidence.same_grid(labels):
        raise InputError("Confidence and labels lie on different grids. Make the confidence from the same result.")
    voxel_mm3 = abs(float(np.linalg.det(confidence.ijk_to_ras[:3, :3])))
    regions, _ = label(confidence.array[0] < threshold)
    found = []
    for number, box in enumerate(find_objects(regions), 1):
        mask = regions[box] == number
        size = float(mask.sum()) * voxel_mm3
        if size < smallest_mm3:
            continue
        doubt = np.where(mask, 1 - confidence.array[0][box].astype(np.float64), 0)
        sums = [doubt.sum(axis=tuple(o for o in range(3) if o != a)) for a in range(3)]
        chosen = axis if axis is not None else int(np.argmax([s.max() for s in sums]))
        in_slice = int(sums[chosen].argmax())
        worst = np.take(doubt, in_slice, axis=chosen)
        place = [int(p) for p in np.unravel_index(int(worst.argmax()), worst.shape)]
        place.insert(chosen, in_slice)
        kji = np.array([p + int(s.start) for p, s in zip(place, box, strict=True)])
        ras = (confidence.ijk_to_ras @ [*kji[::-1], 1.0])[:3]
        found.append(
            DoubtfulSlice(
                axis=chosen,
                index=int(kji[chosen]),
                position_ras=(float(ras[0]), float(ras[1]), float(ras[2])),
                score=float(doubt.sum()) * voxel_mm3,
                segments=_names(labels.array[0][box][mask], label_set),
                size_mm3=size,
            )
        )
    return sorted(found, key=lambda s: (-round(s.score, 6), s.axis, s.index, s.position_ras))


def _names(values: Array, label_set: LabelSet) -> tuple[str, ...]:
    """Segments by their number of voxels."""
    from ..table import segment_mask

    counts = {segment.name: int(segment_mask(values, segment).sum()) for segment in label_set.segments}
    return tuple(sorted((name for name in counts if counts[name]), key=lambda name: -counts[name]))
