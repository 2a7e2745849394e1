"""The difference of two label maps, segment by segment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..labels import LabelSet
from ..table import segment_mask
from .record import Record
from .voxels import Change

Labels = npt.NDArray[Any]


def label_changes(
    before: Labels, after: Labels, label_set: LabelSet, record: Record, present: Sequence[str]
) -> dict[str, Change]:
    """What becomes part of each segment, and what stops to be, between two label maps of one block; by segment id."""
    there = set(present)
    differs = before != after
    values = set(np.unique(np.concatenate((before[differs], after[differs]))).tolist())
    changes = {}
    for known, segment in zip(record.segments, label_set.segments, strict=True):
        if known.id in there and values & {segment.value, *segment.region}:
            was, now = segment_mask(before, segment), segment_mask(after, segment)
            changes[known.id] = Change(now & ~was, was & ~now)
    return changes
