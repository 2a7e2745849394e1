"""A student's run beside Slicer's interface, in a process of its own."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import Cancelled, InputError
from ..mrml.texts import _
from ..package import ModelPackage
from ..volume import Volume
from ..worker import Said, command, read_result, write_job
from .child_process import ChildProcess, kill

if TYPE_CHECKING:
    from ..segment import SegmentationResult


class BackgroundRun(ChildProcess):
    """One run.

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
        self._on_done = on_done
        self._on_failed = on_failed
        try:
            self._folder = _job_folder(volume, package, options)
        except OSError as error:
            raise InputError(
                _("The volume cannot be handed to the background process ({error}). Make room on the disk.").format(
                    error=error.strerror
                )
            ) from error
        super().__init__(command(sys.executable, self._folder), on_progress, on_line)

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
        self._over = True
        kill(self._process, self._pid)
        self._remove_folder()

    def _remove_folder(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def _heard(self, said: Said) -> float | None:
        if said.fraction is None:
            self._lines.append(said.text)
            self._on_line(said.text)
        return said.fraction

    def _finished(self, code: int = -1, how: Any = None) -> None:
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


def _job_folder(volume: Volume, package: ModelPackage, options: Mapping[str, Any]) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="recokd-run-"))
    try:
        write_job(folder, volume, package.path, options)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder
