"""A simulated user corrects results click by click: how much each click gains, and how long it takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt, label

from ReCoKDLib.interaction.corrections import Click
from ReCoKDLib.labels import LabelSet
from ReCoKDLib.volume import Volume

Array = npt.NDArray[Any]


def next_click(labels: Volume, truth: Volume, label_set: LabelSet) -> Click | None:
    """A click at the deepest point of the largest connected error, None where there is no error.

    An error is a set of voxels, connected over faces, of one true label that all have the same other one.
    """
    found, true = labels.array[0], truth.array[0]
    wrong = found != true
    best = np.zeros(found.shape, dtype=bool)
    pairs = np.unique(np.stack([true[wrong], found[wrong]]), axis=1).T
    for is_value, was_value in pairs:
        parts, number = label((true == is_value) & (found == was_value))
        sizes = np.bincount(parts.ravel(), minlength=number + 1)[1:]
        if sizes.max(initial=0) > best.sum():
            best = parts == 1 + int(sizes.argmax())
    if not best.any():
        return None
    # Beyond the volume's faces nothing is wrong.
    depth = distance_transform_edt(np.pad(best, 1), sampling=labels.spacing)[1:-1, 1:-1, 1:-1]
    k, j, i = (int(n) for n in np.unravel_index(int(depth.argmax()), depth.shape))
    ras = (labels.ijk_to_ras @ (i, j, k, 1))[:3]
    names = {segment.value: segment.name for segment in label_set.segments}
    is_value, was_value = int(true[k, j, i]), int(found[k, j, i])
    return Click(tuple(ras), names[is_value or was_value], inside=is_value > 0)


def mean_dice(labels: Volume, truth: Volume, label_set: LabelSet) -> float:
    """Mean over the segments; 1 for one that is in neither."""
    scores = []
    for segment in label_set.segments:
        a, b = labels.array == segment.value, truth.array == segment.value
        together = int(a.sum()) + int(b.sum())
        scores.append(2 * int((a & b).sum()) / together if together else 1.0)
    return float(np.mean(scores))
