"""A Python process beside Slicer's interface, and how it is watched."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Sequence
from typing import Any

import qt

from ..worker import HELLO, Said, understand

_GOODBYE_MILLISECONDS = 1500


class ChildProcess:
    """A process that says its number first, and then what it does, line by line.

    What it reports arrives by Qt's signals, in the thread of the interface. Who inherits says what a line means
    (:meth:`_heard`) and what the end of the process does (:meth:`_finished`).

    Args:
        command: Program and arguments.
        on_progress: Called with the newest fraction.
        on_line: Called with each line for the log.
    """

    def __init__(
        self, command: Sequence[str], on_progress: Callable[[float], None], on_line: Callable[[str], None]
    ) -> None:
        self._command = tuple(command)
        self._on_progress = on_progress
        self._on_line = on_line
        self._reader = LineReader()
        self._lines: list[str] = []
        self._pid: int | None = None
        self._over = False  # what the process still signals then is of no interest
        self._process = qt.QProcess()
        self._process.setProcessChannelMode(qt.QProcess.MergedChannels)
        self._process.connect("readyReadStandardOutput()", self._read)
        self._process.connect("finished(int,QProcess::ExitStatus)", self._finished)
        self._process.connect("errorOccurred(QProcess::ProcessError)", self._error)

    @property
    def pid(self) -> int | None:
        """Number of the process that works; None until it has said it."""
        return self._pid

    def start(self) -> None:
        """Begin; returns at once."""
        program, *arguments = self._command
        self._process.start(program, arguments)
        self._process.write(HELLO)

    def _heard(self, said: Said) -> float | None:
        """Take in what a line says; returns the fraction that is done, where it says one."""
        raise NotImplementedError

    def _finished(self, code: int = -1, how: Any = None) -> None:
        """It has ended, or could not be started; what it had printed is not read yet."""
        raise NotImplementedError

    def _read(self) -> None:
        if self._over:
            return
        fraction = None
        for line in self._reader.read(self._process):
            said = understand(line)
            if said.pid is not None:
                self._pid = said.pid
                continue
            newest = self._heard(said)
            fraction = fraction if newest is None else newest
        if fraction is not None:
            self._on_progress(fraction)

    def _error(self, error: Any) -> None:
        # Any other error is followed by the signal that it has finished.
        if error == qt.QProcess.FailedToStart:
            self._lines.append(str(self._process.errorString()))
            self._finished()


class LineReader:
    """The whole lines of what a process prints; undecodable bytes do no harm."""

    def __init__(self) -> None:
        self._rest = b""

    def read(self, process: Any) -> list[str]:
        """The lines that came to their end since the last call."""
        self._rest += bytes(process.readAllStandardOutput().data())
        *lines, self._rest = self._rest.split(b"\n")
        return [raw.decode("utf-8", errors="replace").rstrip("\r") for raw in lines]


def kill(process: Any, pid: int | None) -> None:
    """End a ``QProcess`` at once.

    Args:
        process: It; in Slicer a launcher, which does not take its child along.
        pid: Number of the process that works, where it has said it.
    """
    if pid is not None:
        with contextlib.suppress(OSError):  # it may have ended just now
            os.kill(pid, getattr(signal, "SIGKILL", signal.SIGTERM))
    process.kill()
    process.waitForFinished(_GOODBYE_MILLISECONDS)
