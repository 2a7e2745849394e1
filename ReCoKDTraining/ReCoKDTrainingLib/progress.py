"""Progress for people (a bar) and for Slicer (the Slicer Execution Model's XML on standard output)."""

from __future__ import annotations

import os
import sys
from types import TracebackType
from typing import Any
from xml.sax.saxutils import escape

from tqdm import tqdm

STYLES = ("auto", "bar", "slicer")


class Progress:
    """How far a task with several stages is.

    Args:
        style: ``bar`` on standard error, ``slicer`` as ``<filter-progress>`` lines on standard output, ``auto`` takes
            the latter when Slicer started this process.
    """

    def __init__(self, style: str = "auto") -> None:
        # Slicer's launcher sets SLICER_HOME for every process that it starts.
        self._slicer = style == "slicer" or (style == "auto" and "SLICER_HOME" in os.environ)
        self._bar: tqdm[Any] | None = None
        self._shown = -1.0

    def __enter__(self) -> Progress:
        if self._slicer:
            self._emit("<filter-start><filter-name>ReCoKDTraining</filter-name></filter-start>")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close_bar()
        if self._slicer and kind is None:
            self._emit("<filter-end><filter-name>ReCoKDTraining</filter-name></filter-end>")

    def stage(self, title: str, total: int, done: int = 0) -> None:
        """Begin a stage of ``total`` steps, ``done`` of them before now (a resumed run)."""
        self._close_bar()
        self._shown = -1.0
        self._title, self._total, self._done = title, max(total, 1), done
        if self._slicer:
            self._emit(f"<filter-comment>{escape(title)}</filter-comment>")
        else:
            # No bar where nobody watches it: in a log file each update would be a line.
            self._bar = tqdm(total=total, initial=done, desc=title, disable=None, dynamic_ncols=True)

    def advance(self, steps: int = 1, note: str = "") -> None:
        """So many steps further; ``note`` stands beside the bar (the losses)."""
        self._done += steps
        if self._bar is not None:
            if note:
                self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(steps)
        elif self._done / self._total - self._shown >= 0.001 or self._done == self._total:
            self._shown = self._done / self._total
            self._emit(f"<filter-progress>{self._shown:.4f}</filter-progress>")
            if note:
                self._emit(f"<filter-comment>{escape(self._title)}: {escape(note)}</filter-comment>")

    def fraction(self, done: float) -> None:
        """The stage's finished part, from 0 to 1."""
        self.advance(round(done * self._total) - self._done)

    def say(self, text: str) -> None:
        """One line of the log."""
        if self._bar is not None:
            self._bar.write(text, file=sys.stdout)
        else:
            print(text)
        sys.stdout.flush()

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    @staticmethod
    def _emit(line: str) -> None:
        print(line, flush=True)
