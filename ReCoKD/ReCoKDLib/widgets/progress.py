"""A run's progress as a bar and in words, with the time that is left."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ..mrml.texts import _
from ..remaining import Remaining


class RunProgress:
    """Shows one run after the other.

    Args:
        bar: ``QProgressBar``; hidden while nothing runs.
        say: Shows a text.
    """

    def __init__(self, bar: Any, say: Callable[[str], None]) -> None:
        self._bar = bar
        self._show = say
        self._words = ""
        self._remaining = Remaining()
        self._bar.visible = False

    def begin(self, text: str, words: str) -> None:
        """A run begins.

        Args:
            text: Shown until the first tile is done, while the bar only says that something happens.
            words: Shown from then on, followed by the time that is left.
        """
        self._words = words
        self._remaining = Remaining()
        self._bar.setRange(0, 0)
        self._bar.visible = True
        self._show(text)

    def say(self, words: str) -> None:
        """Show other words from now on."""
        self._words = words

    def at(self, fraction: float) -> None:
        """So much of it is done, 0 to 1."""
        self._bar.setRange(0, 100)
        self._bar.setValue(round(100 * fraction))
        left = self._remaining.seconds(fraction, time.monotonic())
        if left is None:
            self._show(self._words)
            return
        minutes, seconds = divmod(int(left + 0.5), 60)
        self._show(
            _("{words} {minutes}:{seconds:02d} left").format(words=self._words, minutes=minutes, seconds=seconds)
        )

    def end(self) -> None:
        """It is over, however it went."""
        self._bar.visible = False
        self._show("")
