"""Where models are found: those that ship with ReCoKD, the user's own, and folders that the user names."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .errors import PackageError, ReCoKDError
from .package import ModelPackage
from .package_files import CHECKSUMS, METADATA, PACKAGE_SUFFIX

FOLDERS_VARIABLE = "RECOKD_STUDENTS"

# Folders that the panel's user added; Slicer's settings keep them, and this process knows them.
_registered: list[Path] = []


@dataclass(frozen=True)
class StudentEntry:
    """A model that was found.

    Attributes:
        name: Its card's name, or its file's where it cannot be opened.
        path: Folder or file.
        package: The opened package; None when it is broken.
        problem: Why it cannot be opened; empty when it can.
    """

    name: str
    path: Path
    package: ModelPackage | None
    problem: str = ""

    @property
    def picture(self) -> Path | None:
        """A picture of what the model does: a PNG of the same name beside the package; None if there is none."""
        path = self.path.with_name(f"{_stem(self.path)}.png")
        return path if path.is_file() else None

    @property
    def is_own(self) -> bool:
        """Whether it lies in the user's own folder, so that it may be removed."""
        return self.path.parent == user_folder()


def shipped_folder() -> Path:
    """The folder of the students that come with ReCoKD: installed by pip, in Slicer or in the source."""
    library = Path(__file__).resolve().parent
    inside = library / "Resources" / "Students"
    return inside if inside.is_dir() else library.parent / "Resources" / "Students"


def user_folder() -> Path:
    """The user's own folder for students, where the platform keeps data; it need not exist."""
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return base / "ReCoKD" / "Students"


def student_folders() -> tuple[Path, ...]:
    """The folders searched, in this order: ``RECOKD_STUDENTS``, registered ones, the user's, the shipped one."""
    parts = os.environ.get(FOLDERS_VARIABLE, "").split(os.pathsep)
    named = [Path(part).expanduser() for part in parts if part.strip()]
    return (*named, *_registered, user_folder(), shipped_folder())


def register_folders(folders: Iterable[Path]) -> None:
    """Search these folders too, from now on and in this process; they replace those registered before."""
    _registered[:] = [Path(folder) for folder in folders]


def list_students() -> tuple[StudentEntry, ...]:
    """Every model in the folders, broken ones with the reason; of several with one name the first only."""
    found: dict[str, StudentEntry] = {}
    for folder in student_folders():
        for path in _packages_in(folder):
            entry = _entry(path)
            known = found.get(entry.name.casefold())
            if known is None or (known.package is None and entry.package is not None):
                found[entry.name.casefold()] = entry
    return tuple(sorted(found.values(), key=lambda entry: entry.name.casefold()))


def find_student(name_or_path: str | Path) -> ModelPackage:
    """Open a model by its name, or by the path of its folder or file.

    Raises:
        PackageError: There is none (the message lists those there are), or it cannot be opened.
    """
    path = Path(name_or_path).expanduser()
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or "/" in text or os.sep in text or text.lower().endswith(".zip"):
        return ModelPackage.open(path)
    entries = list_students()
    for entry in entries:
        if entry.name.casefold() == text.strip().casefold():
            if entry.package is None:
                raise PackageError(f"The student {entry.name} cannot be used. {entry.problem}")
            return entry.package
    if path.exists():
        return ModelPackage.open(path)
    known = ", ".join(entry.name for entry in entries if entry.package is not None) or "none"
    raise PackageError(
        f"There is no student called {text!r}. Found: {known}. Give one of these names or the path of a "
        f"package ({PACKAGE_SUFFIX} file or folder); folders named in {FOLDERS_VARIABLE} are searched too."
    )


def _packages_in(folder: Path) -> Iterator[Path]:
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return  # a folder that is not there, or not ours to read, holds no students
    for path in entries:
        is_folder = path.is_dir() and ((path / METADATA).exists() or (path / CHECKSUMS).exists())
        if is_folder or (path.is_file() and path.name.lower().endswith(PACKAGE_SUFFIX)):
            yield path


def _entry(path: Path) -> StudentEntry:
    try:
        package = ModelPackage.open(path)
    except ReCoKDError as error:
        return StudentEntry(_stem(path), path, None, str(error))
    return StudentEntry(package.card.name, path, package)


def _stem(path: Path) -> str:
    return path.name[: -len(PACKAGE_SUFFIX)] if path.name.lower().endswith(PACKAGE_SUFFIX) else path.name
