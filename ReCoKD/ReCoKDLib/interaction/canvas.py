"""A label map under correction: one correction applied or taken back at a time, only near it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..image_io import label_array
from ..labels import LabelSet
from ..volume import Volume
from .corrections import Box, Correction, LockedError, voxels_of
from .corrector import Corrector, Window
from .evidence import Evidence

Array = npt.NDArray[Any]
Slices = tuple[slice, slice, slice]

MAX_WINDOW_VOXELS = 150_000
_BESIDE_MM = 10.0  # how far away the neighbours of a segment are looked for


@dataclass(frozen=True)
class Placed:
    """A correction on the grid: all that does not depend on the labels.

    Attributes:
        correction: As the user made it.
        voxels: (n, 3) indices (k, j, i) that it speaks of.
        allowed: (values,) which values they may have.
        window: The only voxels that it may change or look at.
    """

    correction: Correction
    voxels: Array
    allowed: Array
    window: Slices

    @property
    def low(self) -> Array:
        """(3,) first voxel of the window."""
        return np.array([part.start for part in self.window])

    @property
    def limits(self) -> tuple[int, ...]:
        """First voxels of the window, then one after the last."""
        return (*(part.start for part in self.window), *(part.stop for part in self.window))


def overlapping(placed: Placed, others: Sequence[Placed]) -> Array:
    """(others,) whose windows have a voxel in common with this one's."""
    limits = np.array([other.limits for other in others], dtype=np.intp).reshape(len(others), 6)
    own = np.array(placed.limits)
    shared: Array = np.all((limits[:, :3] < own[3:]) & (own[:3] < limits[:, 3:]), axis=1)
    return shared


@dataclass(frozen=True)
class Applied:
    """What a correction did.

    Attributes:
        placed: The correction.
        changed: (3, n) indices (k, j, i) of the voxels that it changed.
        before: (n,) their values before.
        support: (n,) how strongly it spoke for the values they have now, in log-odds; a later correction must be
            stronger to change them.
        refused: Why it could do nothing, in words; empty if it could.
    """

    placed: Placed
    changed: Array
    before: Array
    support: Array
    refused: str = ""


class Canvas:
    """Labels, and what is known of them.

    Args:
        volume: The image.
        labels: One channel on the volume's grid. Values that the label set does not have are never changed.
        label_set: The segments that may be corrected; those that the student does not know come last.
        probabilities: The student's, on the volume's grid; None if there are none.
        corrector: How far corrections reach.

    Raises:
        InputError: The grids differ, the labels have several channels, or probabilities do not fit the label set.
    """

    def __init__(
        self, volume: Volume, labels: Volume, label_set: LabelSet, probabilities: Volume | None, corrector: Corrector
    ) -> None:
        for name, other in (("segmentation", labels), ("probability map", probabilities)):
            if other is not None and not volume.same_grid(other):
                raise InputError(
                    f"The {name} {other.name!r} {other.shape} lies on another grid than the volume {volume.name!r} "
                    f"{volume.shape}. Resample it to the volume's grid first."
                )
        if labels.channels != 1:
            raise InputError(f"A label map has one channel; {labels.name!r} has {labels.channels}.")
        self.volume = volume
        self.evidence = Evidence(label_set, probabilities)
        self.corrector = corrector
        widest = max(int(labels.array.max()), int(self.evidence.values.max()))
        self.array: Array = labels.array[0].astype(label_array(np.array([widest])).dtype, order="C", copy=True)
        self._code = np.full(widest + 1, -1, dtype=np.int16)
        self._code[self.evidence.values] = np.arange(len(self.evidence.values))
        self._kji_to_mm = volume.ijk_to_ras[:3, :3][:, ::-1]

    def place(self, correction: Correction) -> Placed:
        """Find a correction's voxels and window.

        Raises:
            InputError: A point lies outside the volume, or there is no such segment.
        """
        allowed = self.evidence.allowed(correction.segment, correction.inside)
        for name in correction.locked:
            self.evidence.label_set.named(name)
        voxels = voxels_of(correction, self.volume)
        first, last = voxels.min(axis=0), voxels.max(axis=0)
        margin = np.ceil(self.corrector.reach_mm * np.linalg.norm(np.linalg.inv(self._kji_to_mm), axis=1)).astype(int)
        while (extent := np.prod(last - first + 1 + 2 * margin)) > MAX_WINDOW_VOXELS and margin.max() > 2:
            margin = np.maximum(2, (margin * min(0.95, (MAX_WINDOW_VOXELS / extent) ** (1 / 3))).astype(int))
        low, high = np.maximum(first - margin, 0), np.minimum(last + margin + 1, self.volume.shape)
        a, b, c = (slice(int(start), int(stop)) for start, stop in zip(low, high, strict=True))
        return Placed(correction, voxels, allowed, (a, b, c))

    def apply(self, placed: Placed, earlier: Sequence[Applied]) -> Applied:
        """Change the labels by one correction, given all that were made before it, in their order."""
        shared = overlapping(placed, [other.placed for other in earlier])
        near = [earlier[index] for index in np.flatnonzero(shared).tolist()]
        window = placed.window
        codes = self._code[self.array[window]]
        seeds = placed.voxels - placed.low
        own = tuple(seeds.T)
        possible = self._possible(placed, near, codes)

        index = possible.where
        gain = np.full(codes.shape, -np.inf, dtype=np.float32)
        gain[index] = possible.gain - self._held(near, placed, codes.shape)[index]
        wrong = np.isfinite(gain[own])
        if not wrong.any():
            return _nothing(placed, self._refusal(placed, codes[own]))
        seeds = seeds[wrong]
        targets = np.zeros(codes.shape, dtype=np.int16)
        targets[index] = possible.target
        at = tuple(seeds.T)
        gain[~np.isin(targets, targets[at])] = -np.inf
        support = self.corrector.support(
            Window(
                image=self.volume.array[(slice(None), *window)],
                gain=gain,
                fits=np.append(placed.allowed, False)[codes],
                between=(codes > 0) & (targets > 0) & placed.correction.inside,
                seeds=seeds,
                spacing=self.volume.spacing,
            )
        )
        flips = gain + support > 0
        flips[at] = True
        flips = _connected(flips, flips | np.append(placed.allowed, False)[codes], seeds)
        local = np.nonzero(flips)
        whole = tuple(axis + start for axis, start in zip(local, placed.low, strict=True))
        before = self.array[whole]
        self.array[whole] = self.evidence.values[targets[local]]
        return Applied(placed, np.array(whole), before, support[local])

    def take_back(self, applied: Applied) -> None:
        """Undo the last correction in a window."""
        self.array[tuple(applied.changed)] = applied.before

    def _possible(self, placed: Placed, near: Sequence[Applied], codes: Array) -> _Possible:
        """Which voxels of the window may change, to which value, and how probable that is."""
        correction = placed.correction
        may = self.evidence.keeping(correction.locked) & placed.allowed[None]  # (from, to)
        may[placed.allowed] = False  # those that fit already
        may = np.concatenate([np.asarray(may), np.zeros_like(may[:1])])  # code -1: a value that is not ours
        # One mistake is one label in place of another: voxels that have a third label stay.
        may[~np.isin(np.arange(len(may)), codes[tuple((placed.voxels - placed.low).T)])] = False
        candidates: Array = np.any(may, axis=1)[codes]
        if correction.box is not None:
            candidates &= _in_box(correction.box, self.volume, placed)
        where = np.nonzero(candidates)
        present = codes[where]
        targets = np.nonzero(may[np.unique(present)].any(axis=0))[0] if len(present) else np.zeros(0, dtype=int)
        if not len(targets):
            empty = np.zeros(0)
            return _Possible((empty.astype(int),) * 3, empty, empty)
        if not correction.inside:
            targets = self._beside(placed, codes, targets)
        choice = may[present][:, targets].T  # (targets, n)
        rows, promised = self._promised(placed, near, codes.shape)
        if len(rows):
            at = np.searchsorted(rows, np.ravel_multi_index(where, codes.shape))
            at = np.where(at < len(rows), at, 0)
            kept = rows[at] == np.ravel_multi_index(where, codes.shape)
            choice = choice & (promised[at][:, targets].T | ~kept)
        some = choice.any(axis=0)
        where = (where[0][some], where[1][some], where[2][some])
        present, choice = present[some], choice[:, some]
        place = (where[0] + placed.low[0], where[1] + placed.low[1], where[2] + placed.low[2])
        score = np.where(choice, self.evidence.log_probability(targets, place, present), -np.inf)
        best = score.argmax(axis=0) if len(present) else np.zeros(0, dtype=int)
        gain = score.max(axis=0, initial=-np.inf)
        for code in np.unique(present):
            those = present == code
            spots = (place[0][those], place[1][those], place[2][those])
            gain[those] -= self.evidence.log_probability(np.array([code]), spots, present[those])[0]
        return _Possible(where, targets[best], gain)

    def _beside(self, placed: Placed, codes: Array, targets: Array) -> Array:
        """Of the values that may take a segment's place, background and those next to the correction.

        Else the next most probable label could become an island in the middle of nowhere.
        """
        from scipy.ndimage import distance_transform_edt

        local = placed.voxels - placed.low
        margin = np.ceil(_BESIDE_MM / np.array(self.volume.spacing)).astype(int)
        low, high = np.maximum(local.min(axis=0) - margin, 0), local.max(axis=0) + margin + 1
        around = codes[tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))]
        away = np.ones(around.shape, dtype=bool)
        away[tuple((local - low).T)] = False
        distance = distance_transform_edt(away, sampling=self.volume.spacing)
        fits = np.append(placed.allowed, False)[around]
        near = fits & (distance <= distance[fits].min(initial=np.inf) + 1.5 * max(self.volume.spacing))
        chosen: Array = targets[np.isin(targets, [0, *np.unique(around[near])])]
        return chosen if len(chosen) else targets

    def _promised(self, placed: Placed, near: Sequence[Applied], shape: tuple[int, ...]) -> tuple[Array, Array]:
        """The voxels of the window that corrections speak of and the values left to them; the later wins.

        Returns:
            Flat indices in the window, ascending, and (n, values) booleans.
        """
        said = []
        for other in [*(applied.placed for applied in near), placed]:
            local = other.voxels - placed.low
            fits = ((local >= 0) & (local < shape)).all(axis=1)
            if fits.any():
                said.append((np.ravel_multi_index(tuple(local[fits].T), shape), other.allowed))
        rows = np.unique(np.concatenate([voxels for voxels, _ in said]))
        left = np.ones((len(rows), len(placed.allowed)), dtype=bool)
        for voxels, allowed in said:
            at = np.searchsorted(rows, voxels)
            both = left[at] & allowed
            left[at] = np.where(both.any(axis=1, keepdims=True), both, allowed)
        return rows, left

    def _held(self, near: Sequence[Applied], placed: Placed, shape: tuple[int, ...]) -> Array:
        """How strongly earlier corrections speak for the values that the window's voxels have."""
        held = np.zeros(shape, dtype=np.float32)
        low = placed.low[:, None]
        for other in near:
            local = other.changed - low
            fits = ((local >= 0) & (local < np.array(shape)[:, None])).all(axis=0)
            held[tuple(local[:, fits])] = other.support[fits]
        return held

    def _refusal(self, placed: Placed, codes: Array) -> str:
        """Why none of a correction's own voxels can change; empty if they need not."""
        correction = placed.correction
        what = f"The {type(correction).__name__.lower()} for {correction.segment!r}"
        if (
            correction.box is not None
            and not _in_box(correction.box, self.volume, placed)[tuple((placed.voxels - placed.low).T)].any()
        ):
            return f"{what} lies outside the box that limits the change. Move it into the box, or remove the box."
        if (codes >= 0).any() and placed.allowed[codes[codes >= 0]].all():
            return ""
        return f"{what} lies in a locked segment, or would change one. Unlock it first."


@dataclass(frozen=True)
class _Possible:
    where: tuple[Array, Array, Array]
    target: Array
    gain: Array


def _in_box(box: Box, volume: Volume, placed: Placed) -> Array:
    k, j, i = np.ogrid[placed.window]
    return box.contains(volume.ijk_to_ras, (k, j, i))


def _nothing(placed: Placed, refused: str) -> Applied:
    none = np.zeros(0, dtype=np.intp)
    return Applied(placed, np.zeros((3, 0), dtype=np.intp), none, none, refused)


def _connected(flips: Array, through: Array, seeds: Array) -> Array:
    """Only those that hang together with a seed, over faces of others and of what fits already: no islands."""
    from scipy.ndimage import label

    parts, _ = label(through)
    wanted: Array = np.isin(parts, parts[tuple(seeds.T)]) & flips
    return wanted


def require_effect(applied: Applied) -> Applied:
    """The same, if the correction could be carried out.

    Raises:
        LockedError: A lock or the box forbids it.
    """
    if applied.refused:
        raise LockedError(applied.refused)
    return applied
