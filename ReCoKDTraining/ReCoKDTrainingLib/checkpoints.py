"""Checkpoints of a run: each whole or not there, the last two and the best kept."""

from __future__ import annotations

import io
import os
import re
import shutil
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from ReCoKDLib.errors import OutputError, ReCoKDError
from ReCoKDLib.files import atomic_file

FOLDER = "checkpoints"
BEST = "best.pt"
KEPT = 2
_NAME = re.compile(r"step-(\d+)\.pt")


class Checkpoints:
    """The checkpoints in a run folder: ``checkpoints/step-00001250.pt`` and ``checkpoints/best.pt``.

    They are plain ``torch.save`` files, so each part of them has a checksum (zip's CRC-32), which is checked before
    one is used.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / FOLDER

    def paths(self) -> list[Path]:
        """Those of the training, the newest first."""
        found = [(int(match[1]), path) for path in self.folder.glob("*.pt") if (match := _NAME.fullmatch(path.name))]
        return [path for _, path in sorted(found, reverse=True)]

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Write the state after so many steps; older ones than the last two are removed.

        Raises:
            OutputError: It cannot be written; those before are as they were.
        """
        self._write(self.folder / f"step-{step:08d}.pt", state)
        for old in self.paths()[KEPT:]:
            old.unlink(missing_ok=True)

    def save_best(self, state: Mapping[str, Any]) -> None:
        """Write the best state so far in place of the one before.

        Raises:
            OutputError: It cannot be written.
        """
        self._write(self.folder / BEST, state)

    def newest(self, say: Callable[[str], None]) -> dict[str, Any] | None:
        """The newest whole state; None where there is no checkpoint.

        Damaged ones before it get another name, so that they take no place of those that are kept.

        Args:
            say: Told of each damaged one that is passed over.

        Raises:
            ReCoKDError: There are some, and none is whole.
        """
        paths = self.paths()
        for place, path in enumerate(paths):
            try:
                state = _read(path)
            except ReCoKDError as error:
                say(f"{error} The one before it is taken.")
                continue
            for damaged in paths[:place]:
                with suppress(OSError):  # another process of the run was quicker
                    damaged.replace(damaged.with_name(f"{damaged.name}.damaged"))
            return state
        if paths:
            raise ReCoKDError(
                f"None of the checkpoints in {self.folder} is readable. Restore one, or start anew in another folder."
            )
        return None

    def best(self) -> dict[str, Any]:
        """The best state.

        Raises:
            ReCoKDError: There is none, or it is damaged.
        """
        return _read(self.folder / BEST)

    @staticmethod
    def _write(path: Path, state: Mapping[str, Any]) -> None:
        # Through memory: torch's own writer reports a full disk as a nameless error.
        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        with atomic_file(path, overwrite=True) as temporary:
            try:
                with temporary.open("wb") as stream:
                    stream.write(buffer.getbuffer())
                    stream.flush()
                    os.fsync(stream.fileno())  # whole on the disk, too, before the name points to it
            except OSError as error:
                raise OutputError(
                    f"The checkpoint could not be written to {path.parent} ({error.strerror or error}). The last one "
                    "is whole: free some space and go on with --resume."
                ) from error


def _read(path: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"the checksum of {damaged} does not fit")
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return state
    except Exception as error:
        raise ReCoKDError(f"{path} is not a readable checkpoint ({error}).") from error


def is_leftover(path: Path) -> bool:
    """Whether something is half written, by its name (that of :mod:`ReCoKDLib.files`' temporary siblings)."""
    return path.name.startswith(".") and ".part" in path.name


def remove_leftovers(*folders: Path) -> None:
    """Delete temporary files and folders that a killed run left in these folders."""
    for folder in folders:
        for path in filter(is_leftover, folder.glob(".*")):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
