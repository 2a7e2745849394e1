"""``ReCoKDTraining`` beside Slicer's interface, in a process of its own that can be asked to stop."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import qt

from ..training_start import understand as understand_training
from ..watched import STOP, command
from ..worker import Said
from .child_process import ChildProcess, kill

# A step of a large network and its checkpoint may take so long; then it is killed, and the last checkpoint counts.
PATIENCE_MILLISECONDS = 60_000
# Slicer waits so long for it when it quits.
GOODBYE_MILLISECONDS = 15_000
_MOST_LINES = 200
_HAS_SIGNALS = os.name == "posix"


class TrainingProcess(ChildProcess):
    """One check or training.

    Args:
        script: ``ReCoKDTraining.py``.
        arguments: Its command line.
        on_progress: Called with the newest fraction.
        on_line: Called with each line for the log.
        on_ended: Called when it has ended, with its exit code (negative after a crash or a kill) and its last lines.
    """

    def __init__(
        self,
        script: Path,
        arguments: Sequence[str],
        *,
        on_progress: Callable[[float], None],
        on_line: Callable[[str], None],
        on_ended: Callable[[int, list[str]], None],
    ) -> None:
        super().__init__(command(sys.executable, script, arguments), on_progress, on_line)
        self._on_ended = on_ended
        self.stopping = False
        self._patience = qt.QTimer()
        self._patience.setSingleShot(True)
        self._patience.setInterval(PATIENCE_MILLISECONDS)
        self._patience.connect("timeout()", self._kill)

    def stop(self) -> None:
        """Ask it to end: it finishes its step and writes a checkpoint. Asked again, or after a minute, it is killed."""
        if self._over:
            return
        if self.stopping:
            self._kill()
            return
        self._ask()
        self._patience.start()

    def abandon(self) -> None:
        """Ask it to end, wait a moment, kill it; nothing is reported any more: Slicer quits."""
        if self._over:
            return
        self._over = True
        self._patience.stop()
        if not self.stopping:
            self._ask()
        if not self._process.waitForFinished(GOODBYE_MILLISECONDS):
            kill(self._process, self._pid)

    def _ask(self) -> None:
        self.stopping = True
        if self._pid is None:
            kill(self._process, None)  # it has not begun
        elif _HAS_SIGNALS:
            os.kill(self._pid, signal.SIGTERM)
        else:
            self._process.write(STOP)
            self._process.waitForBytesWritten(GOODBYE_MILLISECONDS)

    def _kill(self) -> None:
        if not self._over:
            kill(self._process, self._pid)  # its end is reported as any other

    def _heard(self, said: Said) -> float | None:
        heard = understand_training(said.text)
        if heard.text:
            self._on_line(heard.text)
            self._lines = [*self._lines[-_MOST_LINES:], heard.text]
        return heard.fraction

    def _finished(self, code: int = -1, how: Any = None) -> None:
        self._read()
        if self._over:
            return
        self._over = True
        self._patience.stop()
        self._on_ended(code if how == qt.QProcess.NormalExit else -1, self._lines)
