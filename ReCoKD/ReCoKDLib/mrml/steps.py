"""The steps of a segmentation under correction: which clicks were carried out after each."""

from __future__ import annotations

from .record import Done

Clicks = tuple[Done, ...]


class Steps:
    """Which clicks were carried out, after each step; one of the steps is where the segmentation is now.

    Args:
        first: What was carried out before the first step.
        highest: The highest number that a click ever had before.
    """

    def __init__(self, first: Clicks, highest: int = 0) -> None:
        self._states = [first]
        self._now = 0
        self._highest = max([highest, *(done.number for done in first)])

    @property
    def highest(self) -> int:
        """The highest number that a click ever had, also one that was taken back or deleted."""
        return self._highest

    def add(self, clicks: Clicks) -> None:
        """A step was made; those that were taken back before are forgotten."""
        del self._states[self._now + 1 :]
        self._states.append(clicks)
        self._now += 1
        self._highest = max([self._highest, *(done.number for done in clicks)])

    def go(self, by: int) -> Clicks:
        """Go back (-1) or forward (1) by a step; what is carried out there."""
        self._now += by
        return self._states[self._now]
