"""Correcting step by step: add, move, delete, undo, redo, each in the time that its neighbourhood takes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..errors import InputError
from ..labels import LabelSet
from ..volume import Volume
from .canvas import Applied, Canvas, require_effect
from .corrections import Box, Correction
from .corrector import Corrector
from .fitted import FittedLayer
from .placed import Placed, Slices, overlapping
from .refine import limited


@dataclass(frozen=True)
class State:
    """What a session can come back to.

    Attributes:
        corrections: In their order, each with the locks and the box that it was made under.
        locked: Names of the segments that are locked now: corrections to come leave them alone.
        box: Limits the corrections to come.
    """

    corrections: tuple[Correction, ...] = ()
    locked: frozenset[str] = frozenset()
    box: Box | None = None


class RefineSession:
    """A result under correction.

    After every step ``labels`` equals what :func:`.refine.refine` gives for ``state.corrections``, but only the windows
    of corrections that the step touches, and of later ones that overlap with those, are computed again. A later
    correction that a step leaves without any effect, because its voxels have come to lie in a segment that was locked
    for it, stays in the list and is named in ``refused``.

    Every step returns the box (k, j, i slices) with all voxels that changed, or None.

    Args:
        volume: As in :func:`.refine.refine`, as are the others.
        state: Where a saved session is gone on with.

    Raises:
        InputError: Grids differ, a point lies outside the volume, or a segment is unknown.
    """

    def __init__(
        self,
        volume: Volume,
        labels: Volume,
        label_set: LabelSet,
        *,
        probabilities: Volume | None = None,
        corrector: Corrector | None = None,
        state: State | None = None,
    ) -> None:
        self._canvas = Canvas(volume, labels, label_set, probabilities, corrector or FittedLayer())
        self._labels = labels.with_array(self._canvas.array[None])
        self._done: list[Applied] = []
        self._states = [State()]
        self._now = 0
        if state is not None:
            self._replace(state.corrections)
            self._states = [state]

    @property
    def labels(self) -> Volume:
        """The labels as they are now: changed in place by every step, so copy what is to stay."""
        return self._labels

    @property
    def state(self) -> State:
        """Corrections, locks and box as they are now."""
        return self._states[self._now]

    @property
    def refused(self) -> dict[int, str]:
        """By its number, why a correction has no effect now."""
        return {index: applied.refused for index, applied in enumerate(self._done) if applied.refused}

    @property
    def can_undo(self) -> bool:
        """Whether there is a step to take back."""
        return self._now > 0

    @property
    def can_redo(self) -> bool:
        """Whether a step was taken back."""
        return self._now + 1 < len(self._states)

    def add(self, correction: Correction) -> Slices | None:
        """Make a correction, under the session's locks and box.

        Raises:
            OutsideVolumeError: A point lies outside the volume.
            LockedError: A lock or the box forbids it.
            InputError: There is no such segment.
        """
        state = self.state
        made = limited(correction, state.locked, state.box)
        return self._step(replace(state, corrections=(*state.corrections, made)), len(state.corrections))

    def move(self, index: int, correction: Correction) -> Slices | None:
        """Put a correction elsewhere, or change what it says; it keeps its place in the order.

        Args:
            index: Its number.
            correction: What it is now; it keeps the locks and the box of the old one.

        Raises:
            IndexError: There is no such correction.

        Other errors are those of :meth:`add`.
        """
        state = self.state
        old = state.corrections[self._checked(index)]
        made = replace(correction, locked=old.locked, box=old.box)
        changed = (*state.corrections[:index], made, *state.corrections[index + 1 :])
        return self._step(replace(state, corrections=changed), index)

    def delete(self, index: int) -> Slices | None:
        """Take a correction out, whenever it was made.

        Raises:
            IndexError: There is no such correction.
        """
        state = self.state
        self._checked(index)
        left = (*state.corrections[:index], *state.corrections[index + 1 :])
        return self._step(replace(state, corrections=left))

    def change(self, corrections: Sequence[Correction], must_work: int | None = None) -> Slices | None:
        """Make the list of corrections another one in a single step, with the locks and boxes that each has.

        Args:
            corrections: All of them, in their order.
            must_work: Number of one without whose effect the step is not made.

        Errors are those of :meth:`add`.
        """
        return self._step(replace(self.state, corrections=tuple(corrections)), must_work)

    def limit(self, *, locked: Collection[str], box: Box | None) -> None:
        """Set the locks and the box for the corrections to come; a step that changes no voxel.

        Raises:
            InputError: There is no such segment.
        """
        for name in locked:
            self._canvas.evidence.label_set.named(name)
        self._step(replace(self.state, locked=frozenset(locked), box=box))

    def undo(self) -> Slices | None:
        """Take back the last step.

        Raises:
            InputError: There is none.
        """
        if not self.can_undo:
            raise InputError("There is nothing to undo.")
        self._now -= 1
        return self._replace(self.state.corrections)

    def redo(self) -> Slices | None:
        """Make the step again that was taken back last.

        Raises:
            InputError: There is none.
        """
        if not self.can_redo:
            raise InputError("There is nothing to redo.")
        self._now += 1
        return self._replace(self.state.corrections)

    def _checked(self, index: int) -> int:
        if not 0 <= index < len(self.state.corrections):
            raise IndexError(f"there is no correction {index}")
        return index

    def _step(self, state: State, must_work: int | None = None) -> Slices | None:
        """Go to a new state; if correction ``must_work`` has no effect there, stay, and say why."""
        changed = self._replace(state.corrections)
        if must_work is not None and self._done[must_work].refused:
            refusal = self._done[must_work]
            self._replace(self.state.corrections)
            require_effect(refusal)
        del self._states[self._now + 1 :]
        self._states.append(state)
        self._now += 1
        return changed

    def _replace(self, wanted: Sequence[Correction]) -> Slices | None:
        """Make the list of corrections another one, and compute again what depends on the difference.

        Windows do not depend on labels, so a correction whose window overlaps none of a changed one's, nor of one that
        depends on it in turn, did and does the same.
        """
        old = [applied.placed.correction for applied in self._done]
        start = _common(old, wanted)
        end = _common(old[start:][::-1], list(wanted[start:])[::-1])
        fresh = [self._canvas.place(correction) for correction in wanted[start : len(wanted) - end]]
        gone = self._done[start : len(old) - end]
        kept = self._done[len(old) - end :]
        reached = [*(applied.placed for applied in gone), *fresh]
        again = []
        for applied in kept:
            again.append(_reaches(reached, applied.placed))
            if again[-1]:
                reached.append(applied.placed)
        for applied, affected in zip(reversed(kept), reversed(again), strict=True):
            if affected:
                self._canvas.take_back(applied)
        for applied in reversed(gone):
            self._canvas.take_back(applied)
        done = self._done[:start]
        for placed in fresh:
            done.append(self._canvas.apply(placed))
        for applied, affected in zip(kept, again, strict=True):
            done.append(self._canvas.apply(applied.placed) if affected else applied)
        before, self._done = self._done, done
        return self._touched(before, done)

    def _touched(self, before: Sequence[Applied], after: Sequence[Applied]) -> Slices | None:
        """A box with every voxel that a step may have changed."""
        same = {id(applied) for applied in before} & {id(applied) for applied in after}
        voxels = [a.changed for a in (*before, *after) if id(a) not in same and a.changed.size]
        if not voxels:
            return None
        places = np.concatenate(voxels, axis=1)
        a, b, c = (slice(int(lo), int(hi) + 1) for lo, hi in zip(places.min(1), places.max(1), strict=True))
        return a, b, c


def _common(one: Sequence[Correction], other: Sequence[Correction]) -> int:
    """How many they have in common at the beginning."""
    for index, (a, b) in enumerate(zip(one, other, strict=False)):
        if a is not b and a != b:
            return index
    return min(len(one), len(other))


def _reaches(reached: Sequence[Placed], placed: Placed) -> bool:
    return bool(overlapping(placed, reached).any())
