"""Progress for people (a bar) and for Slicer (the Slicer Execution Model's XML on standard output)."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

from tqdm import tqdm

from ReCoKDLib.errors import Cancelled
from ReCoKDLib.remaining import Remaining

if TYPE_CHECKING:
    from .journal import Journal

STYLES = ("auto", "bar", "slicer")


class Progress:
    """How far a task with several stages is.

    Args:
        style: ``bar`` on standard error, ``slicer`` as ``<filter-progress>`` lines on standard output, ``auto`` takes
            the latter when Slicer started this process.
        stop: Whether the user asked for an end. Asked wherever a stage can be left without losing anything; a
            training is left by the trainer itself.
        silent: Tell nothing: of several processes one is enough.

    Attributes:
        journal: Told everything too; None before there is a run folder.
    """

    def __init__(self, style: str = "auto", stop: Callable[[], bool] = lambda: False, *, silent: bool = False) -> None:
        # Slicer's launcher sets SLICER_HOME for every process that it starts.
        self._slicer = style == "slicer" or (style == "auto" and "SLICER_HOME" in os.environ)
        self._silent = silent
        self._bar: tqdm[Any] | None = None
        self._shown = -1.0
        self.stop = stop
        self.journal: Journal | None = None

    def __enter__(self) -> Progress:
        if self._slicer:
            self._emit("<filter-start><filter-name>ReCoKDTraining</filter-name></filter-start>")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close_bar()
        if self._slicer and kind is None:
            self._emit("<filter-progress>1.0000</filter-progress>")
            self._emit("<filter-end><filter-name>ReCoKDTraining</filter-name></filter-end>")

    def stage(self, title: str, total: int, done: int = 0, part: tuple[float, float] = (0.0, 1.0)) -> None:
        """Begin a stage.

        Args:
            title: What is done.
            total: Steps of the stage.
            done: So many of them were done before now (a resumed run).
            part: From where to where of the whole task the stage goes.

        Raises:
            Cancelled: The user asked for an end.
        """
        self._check_stop()
        self._close_bar()
        self._shown = -1.0
        self._title, self._total, self._done, self._part = title, max(total, 1), done, part
        self._remaining = Remaining()
        self._remaining.seconds(done / self._total, time.monotonic())
        if self._slicer:
            self._emit(f"<filter-comment>{escape(title)}</filter-comment>")
        else:
            # No bar where nobody watches it: in a log file each update would be a line.
            quiet = self._silent or None  # None: where standard error is no terminal
            self._bar = tqdm(total=total, initial=done, desc=title, disable=quiet, dynamic_ncols=True)
        if self.journal is not None:
            self.journal.stage(title, done / self._total, begins=True)

    def advance(self, steps: int = 1, note: str = "") -> None:
        """So many steps further; ``note`` stands beside the bar (the losses)."""
        self._done += steps
        fraction = self._done / self._total
        if self._bar is not None:
            if note:
                self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(steps)
        elif fraction - self._shown >= 0.001 or self._done == self._total:
            self._shown = fraction
            first, last = self._part
            self._emit(f"<filter-progress>{first + (last - first) * fraction:.4f}</filter-progress>")
            self._emit(f"<filter-stage-progress>{fraction:.4f}</filter-stage-progress>")
            if note:
                left = self._remaining.seconds(fraction, time.monotonic())
                self.comment(note if left is None else f"{note}, {math.ceil(left / 60)} min left")
        if self.journal is not None:
            self.journal.stage(self._title, fraction)

    def comment(self, note: str) -> None:
        """What is being done within the stage."""
        if self._bar is not None:
            self._bar.set_postfix_str(note)
        else:
            self._emit(f"<filter-comment>{escape(self._title)}: {escape(note)}</filter-comment>")

    def fraction(self, done: float) -> None:
        """The stage's finished part, from 0 to 1.

        Raises:
            Cancelled: The user asked for an end.
        """
        self._check_stop()
        self.advance(round(done * self._total) - self._done)

    def say(self, text: str) -> None:
        """One line of the log."""
        if self._silent:
            return
        if self._bar is not None:
            self._bar.write(text, file=sys.stdout)
        else:
            print(text)
        sys.stdout.flush()
        if self.journal is not None:
            self.journal.line(text)

    def _check_stop(self) -> None:
        if self.stop():
            raise Cancelled("Stopped.")

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _emit(self, line: str) -> None:
        if not self._silent:
            print(line, flush=True)
