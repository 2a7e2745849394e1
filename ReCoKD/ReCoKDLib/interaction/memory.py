"""What earlier corrections said of each voxel, and how strongly."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .placed import Placed, Slices

Array = npt.NDArray[Any]


class Memory:
    """The voxels that corrections spoke of, and those that they changed.

    A later correction must be stronger than an earlier one to change what that one changed, and leaves alone what that
    one spoke of, unless they contradict each other at a voxel: the later wins there. Whatever the number of
    corrections, a window is looked up in the same time. Pages that no correction touched take no memory.

    Args:
        shape: (k, j, i) of the volume.
        values: How many label values there are.
    """

    def __init__(self, shape: tuple[int, int, int], values: int) -> None:
        self._support = np.zeros(shape, dtype=np.float32)
        self._promise = np.zeros(shape, dtype=np.uint16)
        # Sets of values that voxels were promised; number 0 are all of them.
        self._sets: list[Array] = [np.ones(values, dtype=bool)]
        self._numbers = {self._sets[0].tobytes(): 0}

    def support(self, window: Slices) -> Array:
        """How strongly earlier corrections speak for the values that voxels have, in log-odds; not to be changed."""
        return self._support[window]

    def promised(self, placed: Placed) -> tuple[Array, Array]:
        """Numbers of the sets of values that are left to the window's voxels, and the sets, (numbers, values).

        The correction itself is taken into account.
        """
        numbers = self._promise[placed.window].copy()
        numbers[tuple(placed.local.T)] = self._narrowed(placed)
        return numbers, np.array(self._sets)

    def promise(self, placed: Placed) -> Array:
        """Remember what a correction speaks of; returns what :meth:`forget` needs."""
        at = tuple(placed.voxels.T)
        before: Array = self._promise[at]
        self._promise[at] = self._narrowed(placed)
        return before

    def hold(self, changed: tuple[Array, ...], support: Array) -> Array:
        """Remember how strongly a correction changed voxels; returns what :meth:`forget` needs."""
        before: Array = self._support[changed]
        self._support[changed] = support
        return before

    def forget(self, placed: Placed, promise: Array, changed: tuple[Array, ...], support: Array) -> None:
        """Take back the last correction in a window."""
        self._promise[tuple(placed.voxels.T)] = promise
        self._support[changed] = support

    def _narrowed(self, placed: Placed) -> Array:
        """(n,) numbers of the sets that are left to the voxels a correction speaks of, after it."""
        before = self._promise[tuple(placed.voxels.T)]
        known, at = np.unique(before, return_inverse=True)
        after = []
        for number in known.tolist():
            both = self._sets[number] & placed.allowed
            after.append(self._number(both if both.any() else placed.allowed))
        return np.array(after, dtype=np.uint16)[at]

    def _number(self, values: Array) -> int:
        number = self._numbers.setdefault(values.tobytes(), len(self._sets))
        if number == len(self._sets):
            self._sets.append(values.copy())
        return number
