"""A student's run beside Slicer's interface, in a process of its own that stays for the next run."""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import Cancelled, InputError, OutputError
from ..mrml.texts import _
from ..package import ModelPackage
from ..volume import Volume
from ..worker import (
    WAIT_SECONDS,
    RunEndedError,
    Said,
    command,
    job_folder,
    read_preview,
    read_result,
    write_job,
    write_volume,
)
from .child_process import ChildProcess, kill

if TYPE_CHECKING:
    from ..preview import Preview
    from ..segment import SegmentationResult

# Processes that wait for a run, one at the most: PyTorch and the student are loaded there.
_waiting: list[StudentProcess] = []


class BackgroundRun:
    """One run.

    In a process and not in a thread: Slicer's main thread keeps Python's lock while it waits for events, a tile cannot
    be interrupted, and a crash or a full memory would take Slicer with it. See :mod:`ReCoKDLib.worker` for what the two
    sides say to each other.

    Args:
        volume: All channels.
        package: The student.
        options: Of :func:`ReCoKDLib.segment.segment`; what JSON can write.
        on_progress: Called with the newest fraction.
        on_line: Called with each line for the log.
        on_done: Called with what was found.
        on_failed: Called with the error; :class:`ReCoKDLib.errors.Cancelled` after a cancel.
        on_preview: Called with the newest preview, where ``options`` have slices to look at.

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
        on_preview: Callable[[Preview], None] | None = None,
    ) -> None:
        self._volume = volume
        self._package = package
        self._options = options
        self._on_progress = on_progress
        self._on_line = on_line
        self._on_done = on_done
        self._on_failed = on_failed
        self._on_preview = on_preview
        self._preview = ""
        self._is_done = False
        self._begun = False
        self._over = False  # what the process still says then is of no interest
        try:
            self._process = _process_for(self)
            self._folder = self._process.prepare(volume)
        except OSError as error:
            raise InputError(
                _("The volume cannot be handed to the background process ({error}). Make room on the disk.").format(
                    error=error.strerror
                )
            ) from error

    @property
    def pid(self) -> int | None:
        """Number of the process that works; None until it has said it."""
        return self._process.pid

    def start(self) -> None:
        """Begin; returns at once. ``on_failed`` is called where the disk does not even take the question."""
        self._begun = True
        try:
            self._process.go(self._volume, self._package, self._options)
        except OutputError as error:
            self.abandon()
            self._on_failed(error)

    def cancel(self) -> None:
        """End the process, at once; ``on_failed`` is called before this returns."""
        if not self._over:
            self.abandon()
            self._on_failed(Cancelled(_("Cancelled. The scene is as it was.")))

    def abandon(self) -> None:
        """End the process and report nothing any more: the scene is closed, or the module goes away."""
        if not self._over:
            self._over = True
            self._process.end()

    # What the process says

    def heard(self, said: Said) -> None:
        """Take in a line, but for its fraction."""
        if said.preview is not None:
            if self._preview:
                (self._folder / self._preview).unlink(missing_ok=True)
            self._preview = said.preview
        elif said.done:
            self._is_done = True
        elif said.fraction is None:
            self._on_line(said.text)

    def progressed(self, fraction: float) -> None:
        """So much is done."""
        if not self._over:
            self._on_progress(fraction)

    def settle(self) -> None:
        """All that was said by now is heard: show the newest preview, or the result."""
        if self._over:
            return
        name, self._preview = self._preview, ""
        if self._is_done:
            self.finish([])
        elif name and self._on_preview is not None:
            with contextlib.suppress(OSError):  # it is only a preview
                self._on_preview(read_preview(self._folder, name))

    def finish(self, lines: list[str]) -> None:
        """The result is there, or the process has ended; ``lines`` are what it printed."""
        if self._over:
            return
        self._over = True
        try:
            result = read_result(self._folder, self._volume, self._package, lines)
        except Exception as error:  # every error is the interface's to show
            if isinstance(error, RunEndedError) and self._began_again():
                return
            self._process.release()
            self._on_failed(error)
            return
        self._process.release()
        self._on_done(result)

    def _began_again(self) -> bool:
        """Try once more in a new process where it was one that had waited, which earlier runs may have harmed."""
        if not self._process.has_waited:
            return False
        self._process.end()
        self._on_line(
            _("The background process, which had waited since an earlier run, ended. A new one begins again.")
        )
        try:
            self._process = StudentProcess()
            self._process.run = self
            self._folder = self._process.prepare(self._volume)
            self._preview, self._is_done, self._over = "", False, False
            if self._begun:
                self._process.go(self._volume, self._package, self._options)
        except (OSError, OutputError):
            self._over = True
            self._process.end()
            return False
        return True


class StudentProcess(ChildProcess):
    """A process that runs students, one run after another, and ends when nobody wants it for some minutes.

    Raises:
        OSError: There is no room for its folder.
    """

    def __init__(self) -> None:
        self.run: BackgroundRun | None = None
        self._home = Path(tempfile.mkdtemp(prefix="recokd-run-"))
        self._number = 0
        self._waits_since = 0.0
        super().__init__(command(sys.executable, self._home), self._progressed, lambda line: None)

    @property
    def has_waited(self) -> bool:
        """Whether its run is not its first one."""
        return self._number > 1

    def is_as_new(self) -> bool:
        """Whether it is as good as a new one: started by the same command, and not about to end by itself."""
        same = self._command == tuple(command(sys.executable, self._home))
        return same and time.monotonic() - self._waits_since < 0.9 * WAIT_SECONDS

    def prepare(self, volume: Volume) -> Path:
        """Write the voxels of the next run; returns its folder.

        Raises:
            OSError: There is no room.
        """
        self._lines.clear()
        self._number += 1
        folder = job_folder(self._home, self._number)
        try:
            folder.mkdir()
            write_volume(folder, volume)
        except BaseException:
            self.end()
            raise
        return folder

    def go(self, volume: Volume, package: ModelPackage, options: Mapping[str, Any]) -> None:
        """Let the run that was prepared begin.

        Raises:
            OutputError: There is no room.
        """
        # Nothing is renamed but this small file: where a virus scanner reads the voxels, Windows would refuse it.
        write_job(job_folder(self._home, self._number), volume, package.path, options)
        if self._number == 1:
            self.start()

    def release(self) -> None:
        """The run is over: wait for another one, unless one waits already."""
        self.run = None
        shutil.rmtree(job_folder(self._home, self._number), ignore_errors=True)
        if self._over or _waiting:
            self.end()
        else:
            self._waits_since = time.monotonic()
            _waiting.append(self)

    def end(self) -> None:
        """End at once, and remove all files."""
        if not self._over:
            self._over = True
            kill(self._process, self._pid)
        self._forget()

    def _forget(self) -> None:
        self.run = None
        if self in _waiting:
            _waiting.remove(self)
        shutil.rmtree(self._home, ignore_errors=True)

    def _progressed(self, fraction: float) -> None:
        if self.run is not None:
            self.run.progressed(fraction)

    def _heard(self, said: Said) -> float | None:
        if said.fraction is None:
            self._lines.append(said.text)
        if self.run is not None:
            self.run.heard(said)
        return said.fraction

    def _read(self) -> None:
        super()._read()
        if self.run is not None:
            self.run.settle()

    def _finished(self, code: int = -1, how: Any = None) -> None:
        self._read()
        if self._over:
            return
        self._over = True
        if self.run is not None:
            self.run.finish(self._lines)
        self._forget()


def end_waiting() -> None:
    """End the process that waits for a run, and give its memory back."""
    for process in list(_waiting):
        process.end()


def _process_for(run: BackgroundRun) -> StudentProcess:
    """The process that waits, or a new one."""
    waiting = _waiting.pop() if _waiting else None
    if waiting is not None and not waiting.is_as_new():
        waiting.end()
        waiting = None
    process = waiting or StudentProcess()
    process.run = run
    return process
