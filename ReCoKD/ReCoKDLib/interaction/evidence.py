"""What student and label set say about label values, voxel by voxel, only where it is asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..labels import LabelSet
from ..volume import Volume

Array = npt.NDArray[Any]

_FROM_LABELS = 0.95  # how sure a label map is where there is no probability
_FLOOR = 1e-4  # no probability counts as less
_NO_IDEA = 0.02  # a student that gives a segment no more anywhere near says nothing about where it is
# Networks are surer than they are right: log-probabilities count as much less (a temperature of 2.5).
_TRUST = 0.4


class Evidence:
    """Log-probabilities of label values.

    Values are numbered: 0 is background, n is the label set's segment n - 1. A segment without a channel in
    ``probabilities`` (one that the student does not know; they come last in the label set) is as probable as the label
    map says.

    Args:
        label_set: All segments that may be corrected.
        probabilities: (heads, k, j, i) of the label set's first heads, as :class:`.prediction.Prediction` has them;
            None takes all from the labels.

    Raises:
        InputError: There are more channels than heads.
    """

    def __init__(self, label_set: LabelSet, probabilities: Volume | None) -> None:
        self.label_set = label_set
        self.values = np.array([0, *(segment.value for segment in label_set.segments)])
        # Which value lies in which segment: more than one with regions.
        self.member = np.array(
            [[value in (s.value, *s.region) for s in label_set.segments] for value in self.values.tolist()]
        ).reshape(len(self.values), len(label_set.segments))
        self._heads = None if probabilities is None else probabilities.array
        self._known = 0 if probabilities is None else probabilities.channels
        if self._known > label_set.number_of_heads:
            raise InputError(
                f"There are probabilities of {self._known} classes, but only {label_set.number_of_heads} in the label "
                "set. Give the probabilities that belong to the segments."
            )

    def allowed(self, segment: str, inside: bool) -> Array:
        """(values,) which values a voxel inside, or outside, a segment may have."""
        wanted = self.label_set.named(segment)
        index = self.label_set.segments.index(wanted)
        if self.label_set.has_regions:
            member: Array = self.member[:, index]
        else:
            member = np.arange(len(self.values)) == index + 1
        return member if inside else ~member

    def keeping(self, locked: frozenset[str]) -> Array:
        """(values, values) whether a voxel may change from one value to the other without touching locked segments."""
        names = {self.label_set.named(name).name for name in locked}
        columns = [s.name in names for s in self.label_set.segments]
        parts = self.member[:, columns]
        same: Array = (parts[:, None] == parts[None]).all(axis=2)
        return same

    def tells(self, segment: str, window: tuple[slice, slice, slice]) -> bool:
        """Whether the student's probabilities say anything about where a segment is, in a part of the volume."""
        head = self.label_set.segments.index(self.label_set.named(segment)) + (not self.label_set.has_regions)
        return self._heads is not None and head < self._known and bool(self._heads[head][window].max() > _NO_IDEA)

    def log_probability(self, codes: Array, where: tuple[Array, Array, Array], present: Array) -> Array:
        """(codes, n) float32 of values at voxels.

        Args:
            codes: Numbers of the values.
            where: n voxels, indices (k, j, i) in the volume.
            present: (n,) numbers of the values that they have.
        """
        if self.label_set.has_regions:
            return self._of_regions(codes, where, present)
        result = np.empty((len(codes), len(present)), dtype=np.float32)
        for row, code in enumerate(codes.tolist()):
            if code < self._known:
                assert self._heads is not None
                result[row] = self._heads[code][where]
            else:
                result[row] = np.where(present == code, _FROM_LABELS, 1 - _FROM_LABELS)
        return _TRUST * np.log(np.clip(result, _FLOOR, 1))

    def _of_regions(self, codes: Array, where: tuple[Array, Array, Array], present: Array) -> Array:
        result = np.zeros((len(codes), len(present)), dtype=np.float32)
        for head in range(len(self.label_set.segments)):
            if head < self._known:
                assert self._heads is not None
                inside = self._heads[head][where].astype(np.float32)
            else:
                inside = np.where(self.member[present, head], np.float32(_FROM_LABELS), np.float32(1 - _FROM_LABELS))
            yes, no = (_TRUST * np.log(np.clip(p, _FLOOR, 1)) for p in (inside, 1 - inside))
            result += np.where(self.member[codes, head][:, None], yes, no)
        return result
