"""The files of a model package, in a folder or in one zip file: listed and read without trusting them.

Nothing is unpacked, links are not followed, and what could run code or lie outside is refused before it is
read.
"""

from __future__ import annotations

import os
import re
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Protocol

from .errors import PackageError

PACKAGE_SUFFIX = ".recokd.zip"
METADATA = "configs/metadata.json"
CHECKSUMS = "checksums.json"
GET_AGAIN = "Get the package again from where it came from."

_SAFE_SUFFIXES = frozenset({"", ".json", ".md", ".txt", ".safetensors"})
_PICKLE_SUFFIXES = frozenset(
    {
        *(".pt", ".pth", ".ckpt", ".bin", ".ts", ".mar", ".h5", ".hdf5"),
        *(".pkl", ".pickle", ".joblib", ".npy", ".npz", ".py", ".pyc"),
    }
)
# A pickle of protocol 2 or later; a zip file, as torch.save makes; NumPy's arrays, which may hold pickles; HDF5.
_PICKLE_MAGIC = re.compile(rb"\x80[\x02-\x05]|PK\x03\x04|\x93NUMPY|\x89HDF")
# What file managers leave in any folder; never read.
_IGNORED = frozenset({".ds_store", "thumbs.db", "desktop.ini"})
_MAX_FILES = 256
_MAX_RATIO = 100  # weights do not compress; what does so more than this is a bomb
_DO_NOT_USE = "Do not use this package."
_READ_ERRORS = (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, ValueError)


class PackageFiles(Protocol):
    """The files of a package; a context manager."""

    @property
    def names(self) -> frozenset[str]:
        """All files, as paths with forward slashes inside the package."""

    def read(self, name: str, limit: int) -> bytes:
        """The contents of one file.

        Raises:
            PackageError: It is missing, unreadable or larger than ``limit`` bytes.
        """

    def __enter__(self) -> PackageFiles: ...

    def __exit__(self, *_: object) -> None: ...


def open_package_files(path: Path) -> PackageFiles:
    """Open the folder or the zip file and refuse what no package may hold.

    Raises:
        PackageError: It is missing or not a package; or it holds a link, a path that leads out of it, a pickle
            or any file of an unknown kind, too many files, or one that would swell enormously.
    """
    if path.is_dir():
        return _Folder(path)
    if not path.exists():
        raise PackageError(f"There is no model package {path}. Check the path.")
    return _Archive(path)


def model_name(path: Path) -> str:
    """A name for the card of a model that is to be written to ``path``."""
    name = path.name
    if name.lower().endswith(PACKAGE_SUFFIX):
        name = name[: -len(PACKAGE_SUFFIX)]
    elif path.suffix.lower() == ".zip":
        name = path.stem
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")[:80] or "teacher"


def require_inside(path: Path, name: str) -> None:
    """Refuse every spelling of a path that one system or another could take out of the package.

    Raises:
        PackageError: ``name`` is absolute, has ``..``, a drive letter, a backslash or the like.
    """
    parts = name.split("/")
    if (
        any(part in ("", ".", "..") for part in parts)
        or re.search(r'[\\:*?"<>|\x00-\x1f]', name)
        or any(part != part.rstrip(". ") for part in parts)
    ):
        raise PackageError(f"{path} holds a path that may lead out of it: {name!r}. {_DO_NOT_USE}")


def _require_safe(path: Path, name: str, head: bytes) -> None:
    """Refuse pickles, by their names and by their first bytes, and all that no package needs."""
    suffix = PurePosixPath(name).suffix.lower()
    # A safetensors file begins with the length of its header (8 bytes), then the header's brace: the length
    # may by chance look like a pickle's first bytes.
    is_tensors = suffix == ".safetensors" and head[8:9] == b"{"
    if suffix in _PICKLE_SUFFIXES or (_PICKLE_MAGIC.match(head) and not is_tensors):
        raise PackageError(
            f"{path} holds {name}, which may be a pickle or other code: opening such a file can run any "
            f"program. {_DO_NOT_USE} Ask for one with safetensors only."
        )
    if suffix not in _SAFE_SUFFIXES:
        raise PackageError(f"{path} holds {name}, a kind of file that no model package needs. {GET_AGAIN}")


def _not_a_package(path: Path, names: frozenset[str]) -> PackageError:
    hint = f"Choose a folder with {METADATA}, or a {PACKAGE_SUFFIX} file."
    if "plans.json" in names:
        hint = "This looks like an nnU-Net results folder; import it first with `recokd import nnunet`."
    elif any(name.endswith(("/" + METADATA, "/" + CHECKSUMS)) for name in names):
        hint = "The package lies in a folder inside it; choose that one, after unpacking the file if it is one."
    return PackageError(f"{path} is not a model package: it has no {METADATA}. {hint}")


class _Folder:
    """A package as a folder."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # Before walking: a folder chosen by mistake may be a whole disk.
        if not ((path / METADATA).exists() or (path / CHECKSUMS).exists()):
            raise _not_a_package(path, self._near_names())
        names = set()
        root = Path(os.path.realpath(path))
        for folder, folders, files in os.walk(path):
            for entry in (*folders, *files):
                whole = Path(folder, entry)
                name = whole.relative_to(path).as_posix()
                # Comparing real paths finds Windows' junctions too, which are no symbolic links.
                real = os.path.normcase(os.path.realpath(whole))
                if whole.is_symlink() or real != os.path.normcase(root / name):
                    raise PackageError(f"{name} in {path} is a link and may lead out of the package. {_DO_NOT_USE}")
                if entry in folders or entry.lower() in _IGNORED:
                    continue
                if not stat.S_ISREG(whole.lstat().st_mode):
                    raise PackageError(f"{name} in {path} is not an ordinary file. {_DO_NOT_USE}")
                with whole.open("rb") as stream:
                    _require_safe(path, name, stream.read(16))
                names.add(name)
            if len(names) > _MAX_FILES:
                raise PackageError(f"{path} holds more than {_MAX_FILES} files: too many for a model package.")
        self.names = frozenset(names)

    def _near_names(self) -> frozenset[str]:
        """The names directly in the folder, and those of a package one folder deeper."""
        try:
            entries = [entry.name for entry in self._path.iterdir()]
        except OSError:
            return frozenset()
        deeper = (f"{entry}/{METADATA}" for entry in entries if (self._path / entry / METADATA).exists())
        return frozenset((*entries, *deeper))

    def read(self, name: str, limit: int) -> bytes:
        if name not in self.names:
            raise PackageError(f"{self._path} lacks {name}. {GET_AGAIN}")
        file = self._path / name
        try:
            _require_size(self._path, name, file.stat().st_size, limit)
            return file.read_bytes()
        except OSError as error:
            raise PackageError(f"{name} in {self._path} cannot be read ({error.strerror}). {GET_AGAIN}") from error

    def __enter__(self) -> _Folder:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class _Archive:
    """A package as one zip file, read in place."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._archive = zipfile.ZipFile(path)
        except _READ_ERRORS as error:
            hint = "Choose a package, or get this one again."
            if path.suffix.lower() in (".pth", ".pt", ".ckpt"):
                hint = "For an nnU-Net checkpoint, import its results folder with `recokd import nnunet`."
            raise PackageError(
                f"{path} is not a model package: neither a folder nor a {PACKAGE_SUFFIX} file ({error}). " + hint
            ) from error
        try:
            self.names = self._checked_names()
        except BaseException:
            self._archive.close()
            raise

    def _checked_names(self) -> frozenset[str]:
        everything = self._archive.infolist()
        entries = [entry for entry in everything if not entry.is_dir()]
        names = frozenset(entry.filename for entry in entries)
        if METADATA not in names and CHECKSUMS not in names:
            raise _not_a_package(self._path, names)
        if len(entries) > _MAX_FILES:
            raise PackageError(f"{self._path} holds {len(entries)} files: too many for a model package.")
        if len({name.casefold() for name in names}) != len(entries):
            raise PackageError(f"{self._path} holds two files of the same name. {_DO_NOT_USE}")
        for entry in everything:
            # orig_filename: what `filename` makes of a backslash or a null differs between systems
            require_inside(self._path, entry.orig_filename.removesuffix("/"))
        for entry in entries:
            if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG):
                raise PackageError(
                    f"{entry.filename} in {self._path} is a link and may lead out of the package. " + _DO_NOT_USE
                )
            if entry.flag_bits & 1:
                raise PackageError(f"{self._path} is encrypted. Unpack it and choose the folder.")
            if entry.file_size > max(_MAX_RATIO * entry.compress_size, 1 << 20):
                raise PackageError(
                    f"{entry.filename} in {self._path} would swell from {entry.compress_size} to "
                    f"{entry.file_size} bytes (a zip bomb). {_DO_NOT_USE}"
                )
            _require_safe(self._path, entry.filename, self._head(entry))
        return names

    def _head(self, entry: zipfile.ZipInfo) -> bytes:
        try:
            with self._archive.open(entry) as stream:
                return stream.read(16)
        except _READ_ERRORS as error:
            raise PackageError(f"{entry.filename} in {self._path} is damaged ({error}). {GET_AGAIN}") from error

    def read(self, name: str, limit: int) -> bytes:
        if name not in self.names:
            raise PackageError(f"{self._path} lacks {name}. {GET_AGAIN}")
        _require_size(self._path, name, self._archive.getinfo(name).file_size, limit)
        try:
            return self._archive.read(name)
        except _READ_ERRORS as error:
            raise PackageError(f"{name} in {self._path} is damaged ({error}). {GET_AGAIN}") from error

    def __enter__(self) -> _Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self._archive.close()


def _require_size(path: Path, name: str, size: int, limit: int) -> None:
    if size > limit:
        raise PackageError(f"{name} in {path} has {size} bytes, more than any such file should. {GET_AGAIN}")
