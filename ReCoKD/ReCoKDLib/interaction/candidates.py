"""Which voxels a correction may change, to which value, and how probable that is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..volume import Volume
from .evidence import Evidence
from .memory import Memory
from .placed import Placed

Array = npt.NDArray[Any]

_BESIDE_MM = 10.0  # how far away the neighbours of a segment are looked for


@dataclass(frozen=True)
class Candidates:
    """Voxels that may change.

    Attributes:
        where: Their n indices (k, j, i) in the window.
        target: (n,) numbers of the values that they would get.
        gain: (n,) log-odds of that value against the present one, after the student.
        said: (k, j, i) int8 of the whole window: 1 where a user said that a voxel is as the correction asks, -1 where
            one said that it is not.
    """

    where: tuple[Array, Array, Array]
    target: Array
    gain: Array
    said: Array


def candidates(placed: Placed, codes: Array, volume: Volume, evidence: Evidence, memory: Memory) -> Candidates:
    """Find them.

    Args:
        placed: The correction.
        codes: (k, j, i) numbers of the window's values, -1 for values that nobody named.
        volume: The image.
        evidence: What student and labels say.
        memory: What earlier corrections said.
    """
    numbers, sets = memory.promised(placed)
    agreed = np.array([(placed.allowed | ~left).all() for left in sets])
    denied = np.array([not (placed.allowed & left).any() for left in sets])
    said = (agreed.astype(np.int8) - denied)[numbers]
    may = evidence.keeping(placed.correction.locked) & placed.allowed[None]  # (from, to)
    may[placed.allowed] = False  # those that fit already
    may = np.concatenate([np.asarray(may), np.zeros_like(may[:1])])  # code -1: a value that is not ours
    # One mistake is one label in place of another: voxels that have a third label stay.
    may[~np.isin(np.arange(len(may)), codes[tuple(placed.local.T)])] = False
    where = np.nonzero(np.any(may, axis=1)[codes] & placed.in_box(volume))
    present = codes[where]
    targets = np.nonzero(may[np.unique(present)].any(axis=0))[0] if len(present) else np.zeros(0, dtype=int)
    if not len(targets):
        empty = np.zeros(0)
        return Candidates((empty.astype(int),) * 3, empty, empty, said)
    if not placed.correction.inside:
        targets = _beside(placed, codes, targets, volume.spacing)
    choice = (may[present] & sets[numbers[where]])[:, targets].T  # (targets, n)
    some = choice.any(axis=0)
    where = (where[0][some], where[1][some], where[2][some])
    present, choice = present[some], choice[:, some]
    place = (where[0] + placed.low[0], where[1] + placed.low[1], where[2] + placed.low[2])
    score = np.where(choice, evidence.log_probability(targets, place, present), -np.inf)
    best = score.argmax(axis=0) if len(present) else np.zeros(0, dtype=int)
    gain = score.max(axis=0, initial=-np.inf)
    for code in np.unique(present):
        those = present == code
        spots = (place[0][those], place[1][those], place[2][those])
        gain[those] -= evidence.log_probability(np.array([code]), spots, present[those])[0]
    return Candidates(where, targets[best], gain, said)


def _beside(placed: Placed, codes: Array, targets: Array, spacing: tuple[float, float, float]) -> Array:
    """Of the values that may take a segment's place, background and those next to the correction.

    Else the next most probable label could become an island in the middle of nowhere.
    """
    from scipy.ndimage import distance_transform_edt

    local = placed.local
    margin = np.ceil(_BESIDE_MM / np.array(spacing)).astype(int)
    low, high = np.maximum(local.min(axis=0) - margin, 0), local.max(axis=0) + margin + 1
    around = codes[tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))]
    away = np.ones(around.shape, dtype=bool)
    away[tuple((local - low).T)] = False
    distance = distance_transform_edt(away, sampling=spacing)
    fits = np.append(placed.allowed, False)[around]
    near = fits & (distance <= distance[fits].min(initial=np.inf) + 1.5 * max(spacing))
    chosen: Array = targets[np.isin(targets, [0, *np.unique(around[near])])]
    return chosen if len(chosen) else targets
