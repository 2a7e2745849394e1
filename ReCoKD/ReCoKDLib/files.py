"""Writing files so that nothing is lost: a temporary sibling first, renamed when it is whole."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import InputError, OutputError


def full_suffix(path: Path) -> str:
    """The suffix that decides a medical image's format: ``.nii.gz`` and ``.seg.nrrd`` count as one."""
    name = path.name.lower()
    for double in (".nii.gz", ".seg.nrrd", ".seg.nhdr", ".recokd.zip"):
        if name.endswith(double):
            return path.name[-len(double) :]
    return path.suffix


def require_new(path: Path, overwrite: bool = False) -> None:
    """Check before any work is done that ``path`` can be written.

    Raises:
        OutputError: It exists and ``overwrite`` is False, or its folder is missing or not writable.
    """
    _require_absent(path, overwrite)
    folder = path.parent
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        raise OutputError(f"{folder} cannot be made because {existing} is a file. Choose another folder.")
    # os.access lies for network shares and for Windows; only writing tells.
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(
            f"The folder {folder} cannot be written ({error.strerror}). Choose another folder, "
            "or have its permissions changed."
        ) from error


def _require_absent(path: Path, overwrite: bool) -> None:
    if path.exists() and not overwrite:
        raise OutputError(f"{path} exists already. Choose another name, or ask to overwrite it (--overwrite).")


def _write_failed(path: Path, error: OSError) -> OutputError:
    return OutputError(
        f"{path} could not be written ({error.strerror or error}). Nothing was changed. "
        "Check the free space and the permissions of the folder."
    )


@contextmanager
def atomic_file(path: Path, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary sibling of ``path`` with the same suffix; it becomes ``path`` when the block ends well.

    A kill or an error in the block leaves ``path`` as it was.

    Raises:
        OutputError: ``path`` exists and ``overwrite`` is False, or it cannot be written.
    """
    require_new(path, overwrite)
    suffix = full_suffix(path)
    handle, temporary_name = tempfile.mkstemp(prefix=f".{path.name[:40]}-", suffix=".part" + suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(temporary_name)
    # mkstemp makes private files; a result is to have the permissions of any other new file.
    umask = os.umask(0)
    os.umask(umask)
    try:
        yield temporary
        _require_absent(path, overwrite)  # others may have written meanwhile
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except OSError as error:
        raise _write_failed(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path, overwrite: bool = False) -> Iterator[Path]:
    """Like :func:`atomic_file` for a folder: it appears whole or not at all.

    Raises:
        OutputError: ``path`` exists and ``overwrite`` is False, or it cannot be written.
    """
    require_new(path, overwrite)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name[:40]}-", suffix=".part", dir=path.parent))
    umask = os.umask(0)
    os.umask(umask)
    try:
        yield temporary
        _require_absent(path, overwrite)
        temporary.chmod(0o777 & ~umask)
        if path.exists():
            # A folder cannot be replaced in one step: the old one steps aside until the new one is in place.
            aside = Path(tempfile.mkdtemp(prefix=f".{path.name[:40]}-", suffix=".old", dir=path.parent))
            path.rename(aside / path.name)
            try:
                temporary.rename(path)
            except OSError:
                (aside / path.name).rename(path)
                raise
            finally:
                shutil.rmtree(aside, ignore_errors=True)
        else:
            temporary.rename(path)
    except OSError as error:
        raise _write_failed(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def make_once(path: Path, fill: Callable[[Path], None]) -> None:
    """A folder that several processes may make alike, at the same time: that of the first one stays.

    Args:
        path: The folder; what is done where it exists already is thrown away.
        fill: Given an empty folder.

    Raises:
        OutputError: It cannot be written.
    """
    try:
        with atomic_folder(path) as temporary:
            fill(temporary)
    except OutputError:
        if not path.is_dir():
            raise


def write_text(path: Path, text: str, overwrite: bool = False) -> None:
    """Write ``text`` atomically as UTF-8 with ``\\n`` line ends."""
    with atomic_file(path, overwrite) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: Any, overwrite: bool = False) -> None:
    """Write ``value`` atomically as readable JSON."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n", overwrite)


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        InputError: It is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist. Check the path.") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path} is not readable as JSON ({error}). Restore it or choose another file.") from error


def sha256(path: Path) -> str:
    """The file's SHA-256 as lower-case hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
