"""How long a run still takes, from what was done in how much time."""

from __future__ import annotations


class Remaining:
    """Counts from the first fraction on, so that the loading of the student does not spoil the guess."""

    def __init__(self) -> None:
        self._first: tuple[float, float] | None = None

    def seconds(self, fraction: float, now: float) -> float | None:
        """Seconds left when this fraction is done at this time (any clock, seconds); None as long as nobody knows."""
        if self._first is None:
            self._first = (fraction, now)
            return None
        begun, at = self._first
        if fraction <= begun:
            return None
        return max(0.0, (now - at) / (fraction - begun) * (1.0 - fraction))
