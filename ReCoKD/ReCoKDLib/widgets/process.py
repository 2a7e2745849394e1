"""A student's run beside Slicer's interface, in a process of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import qt

from ..errors import Cancelled, InputError
from ..mrml.texts import _
from ..package import ModelPackage
from ..volume import Volume
from ..worker import HELLO, command, read_result, understand, write_job

if TYPE_CHECKING:
    from ..segment import SegmentationResult

_GOODBYE_MILLISECONDS = 1500


class BackgroundRun:
    """One run; what it reports arrives by Qt's signals, in the thread of the interface.

    A process and not a thread: Slicer's main thread keeps Python's lock while it waits for events, a tile cannot be
    interrupted, and a crash or a full memory would take Slicer with it. See :mod:`ReCoKDLib.worker` for what the two
    sides say to each other.

    Args:
        volume: All channels.
        package: The student.
        options: Of :func:`ReCoKDLib.segment.segment`; what JSON can write.
        on_progress: Called with the newest fraction.
        on_line: Called with each line for the log.
        on_done: Called with what was found.
        on_failed: Called with the error; :class:`ReCoKDLib.errors.Cancelled` after a cancel.

    Raises:
        InputError: The voxels cannot be written to the folder for temporary files.
    """

    def __init__(
        self,
        volume: Volume,
        package: ModelPackage,
        options: Mapping[str, Any],
        *,
        on_progress: Callable[[float], None],
        on_line: Callable[[str], None],
        on_done: Callable[[SegmentationResult], None],
        on_failed: Callable[[BaseException], None],
    ) -> None:
        self._volume = volume
        self._package = package
        self._on_progress = on_progress
        self._on_line = on_line
        self._on_done = on_done
        self._on_failed = on_failed
        self._pid: int | None = None
        self._reader = LineReader()
        self._lines: list[str] = []
        self._over = False
        try:
            self._folder = _job_folder(volume, package, options)
        except OSError as error:
            raise InputError(
                _("The volume cannot be handed to the background process ({error}). Make room on the disk.").format(
                    error=error.strerror
                )
            ) from error
        self._process = qt.QProcess()
        self._process.setProcessChannelMode(qt.QProcess.MergedChannels)
        self._process.connect("readyReadStandardOutput()", self._read)
        self._process.connect("finished(int,QProcess::ExitStatus)", self._finished)
        self._process.connect("errorOccurred(QProcess::ProcessError)", self._error)

    @property
    def pid(self) -> int | None:
        """Number of the process that computes; None until it has said it."""
        return self._pid

    def start(self) -> None:
        """Begin; returns at once."""
        program, *arguments = command(sys.executable, self._folder)
        self._process.start(program, arguments)
        self._process.write(HELLO)

    def cancel(self) -> None:
        """End the process, at once; ``on_failed`` is called before this returns."""
        if not self._over:
            self._kill()
            self._on_failed(Cancelled(_("Cancelled. The scene is as it was.")))

    def abandon(self) -> None:
        """End the process and report nothing any more: the scene is closed, or the module goes away."""
        if not self._over:
            self._kill()

    def _kill(self) -> None:
        self._over = True  # what the killed process still signals is of no interest
        kill(self._process, self._pid)
        self._remove_folder()

    def _remove_folder(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def _read(self) -> None:
        if self._over:
            return
        fraction = None
        for line in self._reader.read(self._process):
            said = understand(line)
            if said.pid is not None:
                self._pid = said.pid
            elif said.fraction is not None:
                fraction = said.fraction
            else:
                self._lines.append(said.text)
                self._on_line(said.text)
        if fraction is not None:
            self._on_progress(fraction)

    def _finished(self, *how: Any) -> None:
        self._read()
        if self._over:
            return
        self._over = True
        try:
            result = read_result(self._folder, self._volume, self._package, self._lines)
        except Exception as error:  # every error is the interface's to show
            self._remove_folder()
            self._on_failed(error)
            return
        self._remove_folder()
        self._on_done(result)

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


def _job_folder(volume: Volume, package: ModelPackage, options: Mapping[str, Any]) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="recokd-run-"))
    try:
        write_job(folder, volume, package.path, options)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder
