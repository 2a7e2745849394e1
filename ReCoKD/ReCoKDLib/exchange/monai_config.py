"""Reading a MONAI bundle's files without running anything of it.

A bundle's configuration is a small programming language: ``_target_`` names a class or function to be called,
``$`` stands before a Python expression. MONAI's own parser runs both. Here the raw JSON or YAML is read as plain data,
references (``@name``, ``%name``, with ``#`` or ``::`` between levels) are followed by :class:`Configuration`, and
expressions are refused by name where their value would be needed.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import InputError, MissingDependencyError, PackageError
from ..package_files import METADATA, require_inside

_MAX_TEXT = 16 << 20  # bytes of a configuration
_MAX_WEIGHTS = 8 << 30
_MAX_VALUES = 100_000  # of a resolved value: references can be nested so that a small file means a huge one
_MAX_DEPTH = 64
_YAML = (".yaml", ".yml")
_LENGTH = re.compile(r"\$len\((@[\w.#:]+)\)")  # of a list of the configuration, which can be counted without running it
# "$@name" is an expression that says no more than "@name"
_REFERENCE = re.compile(r"\$?[@%]([A-Za-z_][\w.]*(?:(?:#|::)[\w.]+)*)")
_READ_ERRORS = (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, RuntimeError, ValueError)


class BundleFiles:
    """The files of a bundle, in a folder or in a zip file (there perhaps inside one folder); nothing is unpacked.

    Attributes:
        path: Folder or file.
        names: All files as paths inside the bundle, with forward slashes.

    Raises:
        InputError: It is missing, or not a bundle.
        PackageError: The zip file is damaged or holds paths that lead out of it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._archive: zipfile.ZipFile | None = None
        self._prefix = ""
        if path.is_dir():
            # only where bundles keep what is read: a folder chosen by mistake may be a whole disk
            folders = [path, *(path / name for name in ("configs", "models", "docs"))]
            entries = [entry for folder in folders if folder.is_dir() for entry in folder.iterdir()]
            self.names = frozenset(entry.relative_to(path).as_posix() for entry in entries if entry.is_file())
        elif path.is_file():
            try:
                self._archive = zipfile.ZipFile(path)
            except _READ_ERRORS as error:
                raise InputError(
                    f"{path} is not a MONAI bundle: neither a folder nor a zip file ({error}). Give the bundle's "
                    f"folder, which holds {METADATA}."
                ) from error
            names = [entry.filename for entry in self._archive.infolist() if not entry.is_dir()]
            for name in names:
                require_inside(path, name)
            roots = sorted((n[: -len(METADATA)] for n in names if ("/" + n).endswith("/" + METADATA)), key=len)
            self._prefix = roots[0] if roots else ""
            self.names = frozenset(n[len(self._prefix) :] for n in names if n.startswith(self._prefix))
        else:
            raise InputError(f"{path} does not exist. Check the path of the bundle.")
        if METADATA not in self.names:
            self.close()
            raise InputError(
                f"{path} is not a MONAI bundle: it has no {METADATA}. Give the bundle's folder or zip file."
            )

    def mapping(self, name: str) -> dict[str, Any]:
        """A JSON or YAML file as plain data.

        Raises:
            InputError: It is missing, too large, not readable or not a mapping.
            MissingDependencyError: YAML without PyYAML.
        """
        text = self._text(name)
        try:
            value = _yaml(text) if PurePosixPath(name).suffix.lower() in _YAML else json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{name} in {self.path} is not readable ({error}). Restore it.") from error
        if not isinstance(value, dict):
            raise InputError(f"{name} in {self.path} is not what a bundle has there. Restore it.")
        return value

    def text(self, name: str) -> str:
        """A text file; empty if there is none."""
        return self._text(name) if name in self.names else ""

    @contextmanager
    def as_file(self, name: str) -> Iterator[Path]:
        """One file on the disk, for as long as the block lasts.

        Raises:
            InputError: It is missing, too large or not readable.
        """
        if self._archive is None:
            self._require(name, _MAX_WEIGHTS)
            yield self.path / name
            return
        self._require(name, _MAX_WEIGHTS)
        with tempfile.TemporaryDirectory(prefix="recokd-") as folder:
            target = Path(folder) / PurePosixPath(name).name
            try:
                with self._archive.open(self._prefix + name) as source, target.open("wb") as sink:
                    shutil.copyfileobj(source, sink)
            except _READ_ERRORS as error:
                raise InputError(f"{name} in {self.path} cannot be read ({error}). Get the bundle again.") from error
            yield target

    def _text(self, name: str) -> str:
        self._require(name, _MAX_TEXT)
        try:
            raw = self._archive.read(self._prefix + name) if self._archive else (self.path / name).read_bytes()
            return raw.decode("utf-8-sig")
        except _READ_ERRORS as error:
            raise InputError(f"{name} in {self.path} cannot be read ({error}). Get the bundle again.") from error

    def _require(self, name: str, limit: int) -> None:
        if name not in self.names:
            raise InputError(f"{self.path} lacks {name}. Get the bundle again, or name the file that it has instead.")
        size = (
            self._archive.getinfo(self._prefix + name).file_size if self._archive else (self.path / name).stat().st_size
        )
        if size > limit:
            raise InputError(f"{name} in {self.path} has {size} bytes, more than such a file should.")

    def close(self) -> None:
        """Close the zip file."""
        if self._archive is not None:
            self._archive.close()

    def __enter__(self) -> BundleFiles:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _yaml(text: str) -> Any:
    try:
        import yaml
    except ImportError as error:
        raise MissingDependencyError(
            f"Bundles with YAML configurations need the package PyYAML ({error}). Install it: pip install pyyaml."
        ) from error
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error


class Configuration:
    """The raw contents of a configuration and the plain values that its references lead to.

    Args:
        values: As read from the file.
        name: Of the file, for messages.
    """

    def __init__(self, values: Mapping[str, Any], name: str) -> None:
        self._values = values
        self._name = name

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def part(self, raw: Any, where: str) -> Any:
        """What ``raw`` stands for when it is a reference, itself otherwise; what is inside stays raw.

        Raises:
            PackageError: It is an expression, or refers to nothing or in a circle.
        """
        for _ in range(_MAX_DEPTH):
            if not isinstance(raw, str) or not raw.startswith(("@", "%", "$")):
                return raw
            if counted := _LENGTH.fullmatch(raw):
                entries = self.part(counted[1], where)
                if isinstance(entries, list):
                    return len(entries)
            reference = _REFERENCE.fullmatch(raw)
            if reference is None:
                kind = "a Python expression" if raw.startswith("$") else "a reference that is not understood"
                raise PackageError(
                    f"{where} in {self._name} is {kind}: {raw!r}. ReCoKD runs nothing of a bundle. "
                    "Write the plain value in its place in a copy of the bundle."
                )
            raw = self._lookup(reference[1], where)
        raise PackageError(f"{where} in {self._name} refers to itself. Correct the bundle.")

    def value(self, raw: Any, where: str) -> Any:
        """``raw`` with all references followed, at any depth.

        Raises:
            PackageError: As :meth:`part`; or the value would be enormous.
        """
        return self._deep(raw, where, [_MAX_VALUES], 0)

    def _deep(self, raw: Any, where: str, left: list[int], depth: int) -> Any:
        left[0] -= 1
        if left[0] < 0 or depth > _MAX_DEPTH:
            raise PackageError(f"{where} in {self._name} refers to too much. Correct the bundle.")
        value = self.part(raw, where)
        if isinstance(value, Mapping):
            return {str(k): self._deep(v, f"{where}#{k}", left, depth + 1) for k, v in value.items()}
        if isinstance(value, list):
            return [self._deep(v, f"{where}#{i}", left, depth + 1) for i, v in enumerate(value)]
        return value

    def _lookup(self, path: str, where: str) -> Any:
        value: Any = self._values
        for key in re.split(r"#|::", path):
            value = self.part(value, path)
            if isinstance(value, Mapping) and key in value:
                value = value[key]
            elif isinstance(value, list) and key.isdigit() and int(key) < len(value):
                value = value[int(key)]
            else:
                raise PackageError(
                    f"{where} in {self._name} refers to {path!r}, which is not there. Correct the bundle."
                )
        return value
