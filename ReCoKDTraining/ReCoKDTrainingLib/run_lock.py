"""One process (or one group that torchrun started) at a time trains in a run folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ReCoKDLib.errors import OutputError
from ReCoKDLib.files import require_new

from .agreement import from_first
from .torchrun import place

if TYPE_CHECKING:
    from filelock import BaseFileLock

LOCK = "lock"
# A killed trainer's workers hold its lock until they notice that it is gone.
_SECONDS = 30.0


@contextmanager
def locked(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Keep others from training in a run folder; the lock ends with the process, its empty file stays.

    Args:
        folder: The run folder; it is made.
        say: Told where the folder's file system knows no locks; the training goes on without.

    Raises:
        OutputError: Another process trains there, or the folder cannot be written.
    """
    from filelock import FileLock

    lock = FileLock(folder / LOCK)
    from_first(lambda: _acquire(lock, folder, say))
    try:
        yield
    finally:
        if place().first:
            lock.release()


def _acquire(lock: BaseFileLock, folder: Path, say: Callable[[str], None]) -> None:
    from filelock import Timeout

    require_new(folder / LOCK, overwrite=True)
    try:
        lock.acquire(timeout=_SECONDS)
    except Timeout as error:
        raise OutputError(
            f"Another process is training in {folder}. Wait for it, stop it, or choose another folder."
        ) from error
    except (OSError, NotImplementedError) as error:
        say(f"{folder} cannot be locked ({error}): see to it that no other process trains there.")
