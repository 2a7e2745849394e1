"""A label map under correction: one correction applied or taken back at a time, only near it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..image_io import label_array
from ..labels import LabelSet
from ..volume import Volume
from .candidates import candidates
from .corrections import Correction, LockedError
from .corrector import Corrector, Window
from .evidence import Evidence
from .memory import Memory
from .placed import Placed, place

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Before:
    """What it takes to take a correction back.

    Attributes:
        values: (n,) of the voxels that it changed.
        support: (n,) how strongly earlier corrections spoke for those.
        promise: (m,) what earlier corrections said of the voxels that it speaks of, see :class:`.memory.Memory`.
    """

    values: Array
    support: Array
    promise: Array


@dataclass(frozen=True)
class Applied:
    """What a correction did.

    Attributes:
        placed: The correction.
        changed: (3, n) indices (k, j, i) of the voxels that it changed.
        before: What was there before.
        refused: Why it could do nothing, in words; empty if it could.
    """

    placed: Placed
    changed: Array
    before: Before
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
        self._memory = Memory(volume.shape, len(self.evidence.values))

    def place(self, correction: Correction) -> Placed:
        """Find a correction's voxels and window.

        Raises:
            InputError: A point lies outside the volume, or there is no such segment.
        """
        return place(correction, self.volume, self.evidence, self.corrector.reach_mm)

    def apply(self, placed: Placed) -> Applied:
        """Change the labels by one correction, given all in its window that were made before and not taken back."""
        window = placed.window
        codes = self._code[self.array[window]]
        own = tuple(placed.local.T)
        possible = candidates(placed, codes, self.volume, self.evidence, self._memory)

        index = possible.where
        gain = np.full(codes.shape, -np.inf, dtype=np.float32)
        gain[index] = possible.gain - self._memory.support(window)[index]
        wrong = np.isfinite(gain[own])
        if not wrong.any():
            return self._applied(placed, np.zeros((3, 0), dtype=np.intp), np.zeros(0), np.zeros(0), codes[own])
        seeds = placed.local[wrong]
        targets = np.zeros(codes.shape, dtype=np.int16)
        targets[index] = possible.target
        at = tuple(seeds.T)
        gain[~np.isin(targets, targets[at])] = -np.inf
        fits = np.append(placed.allowed, False)[codes]
        support = self.corrector.support(
            Window(
                image=self.volume.array[(slice(None), *window)],
                gain=gain,
                fits=fits,
                between=(codes > 0) & (targets > 0) & placed.correction.inside,
                said=possible.said,
                evident=self.evidence.tells(placed.correction.segment, window),
                seeds=seeds,
                spacing=self.volume.spacing,
            )
        )
        flips = gain + support > 0
        flips[at] = True
        flips = _connected(flips, flips | fits, seeds)
        local = np.nonzero(flips)
        whole = np.array(local) + placed.low[:, None]
        return self._applied(placed, whole, self.evidence.values[targets[local]], support[local])

    def take_back(self, applied: Applied) -> None:
        """Undo the last correction in a window."""
        changed, before = tuple(applied.changed), applied.before
        self.array[changed] = before.values
        self._memory.forget(applied.placed, before.promise, changed, before.support)

    def _applied(
        self, placed: Placed, changed: Array, values: Array, support: Array, refused: Array | None = None
    ) -> Applied:
        """Write what a correction changes; ``refused`` are the numbers of its voxels' values if it could not."""
        where = tuple(changed)
        before = Before(self.array[where], self._memory.hold(where, support), self._memory.promise(placed))
        self.array[where] = values
        return Applied(placed, changed, before, "" if refused is None else self._refusal(placed, refused))

    def _refusal(self, placed: Placed, codes: Array) -> str:
        """Why none of a correction's own voxels can change; empty if they need not."""
        correction = placed.correction
        what = f"The {type(correction).__name__.lower()} for {correction.segment!r}"
        in_box = np.broadcast_to(placed.in_box(self.volume), [part.stop - part.start for part in placed.window])
        if not in_box[tuple(placed.local.T)].any():
            return f"{what} lies outside the box that limits the change. Move it into the box, or remove the box."
        if (codes >= 0).any() and placed.allowed[codes[codes >= 0]].all():
            return ""
        return f"{what} lies in a locked segment, or would change one. Unlock it first."


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
