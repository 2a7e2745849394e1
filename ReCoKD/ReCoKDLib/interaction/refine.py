"""The corrected result as a function of the first result and the corrections."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..errors import Cancelled
from ..labels import LabelSet
from ..volume import Volume
from .canvas import Canvas, require_effect
from .corrections import Box, Correction
from .corrector import Corrector
from .fitted import FittedLayer
from .placed import Slices


@dataclass(frozen=True)
class RefineResult:
    """A corrected segmentation.

    Attributes:
        labels: One channel on the volume's grid; the input's labels are not touched.
        changed: The box (k, j, i slices) with every voxel that differs from the first result, None if none does.
        changed_voxels: How many differ.
    """

    labels: Volume
    changed: Slices | None
    changed_voxels: int


def refine(
    volume: Volume,
    labels: Volume,
    label_set: LabelSet,
    corrections: Sequence[Correction],
    *,
    probabilities: Volume | None = None,
    locked: Collection[str] = (),
    box: Box | None = None,
    corrector: Corrector | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> RefineResult:
    """Correct a result.

    The corrections are carried out one after the other, each in a window around it, so that the result depends on
    nothing but the arguments. Afterwards every voxel that a correction speaks of is as the correction says, of
    contradicting ones as the later says, and no voxel of a segment that was locked for a correction was changed by it.

    Args:
        volume: The image, any number of channels.
        labels: The first result, one channel on the volume's grid.
        label_set: Its segments; those that the student does not know come last.
        corrections: In the order in which they were made.
        probabilities: The student's, see :class:`.evidence.Evidence`; None if there are none.
        locked: Names of segments that no correction may touch, besides those that it names itself.
        box: Outside of it no correction that has no box of its own may change anything.
        corrector: How far corrections reach; :class:`.fitted.FittedLayer` for None.
        cancelled: Asked before each correction.

    Raises:
        OutsideVolumeError: A point lies outside the volume.
        LockedError: A correction could do nothing for a lock or the box.
        InputError: A segment is unknown, or grids differ.
        Cancelled: ``cancelled`` said so.
    """
    canvas = Canvas(volume, labels, label_set, probabilities, corrector or FittedLayer())
    placed = [canvas.place(limited(correction, locked, box)) for correction in corrections]
    for each in placed:
        if cancelled is not None and cancelled():
            raise Cancelled("Cancelled. Nothing was changed.")
        require_effect(canvas.apply(each))
    differs = canvas.array != labels.array[0]
    return RefineResult(labels.with_array(canvas.array[None]), bounds(differs), int(differs.sum()))


def limited(correction: Correction, locked: Collection[str], box: Box | None) -> Correction:
    """The correction under these locks and this box, besides its own."""
    return replace(correction, locked=correction.locked | frozenset(locked), box=correction.box or box)


def bounds(mask: np.ndarray) -> Slices | None:
    """The smallest box (k, j, i slices) with everything that is true."""
    if not mask.any():
        return None
    ends = []
    for axis in range(3):
        line = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        ends.append(slice(int(line[0]), int(line[-1]) + 1))
    return ends[0], ends[1], ends[2]
