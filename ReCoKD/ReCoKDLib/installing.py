"""Taking a model into the user's own folder, and removing it from there."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from .errors import OutputError, PackageError
from .files import atomic_file, atomic_folder
from .package import ModelPackage
from .package_files import PACKAGE_SUFFIX
from .students import StudentEntry, user_folder


class AlreadyInstalledError(OutputError):
    """Another model of this name is in the user's folder; ``overwrite`` would replace it."""


def install_student(path: Path, overwrite: bool = False) -> StudentEntry:
    """Verify a model package and copy it whole into the user's folder; a picture beside it comes along.

    Every checksum is verified. Whether the weights fit the plan is seen when the model is run, since it takes torch.

    Args:
        path: Folder or file.
        overwrite: Replace another model of the same name.

    Returns:
        The installed model; one that is there already is left as it is.

    Raises:
        PackageError: It is no package that may be used; the message has the reason.
        PlanError: Its plan cannot be used.
        AlreadyInstalledError: Another one of its name is there, and ``overwrite`` is False.
        OutputError: The folder cannot be written.
    """
    package = ModelPackage.open(path)
    package.verify_files()
    suffix = "" if path.is_dir() else PACKAGE_SUFFIX
    target = user_folder() / f"{package.card.name}{suffix}"
    other = user_folder() / f"{package.card.name}{'' if suffix else PACKAGE_SUFFIX}"
    entry = StudentEntry(package.card.name, target, package)
    present = [place for place in (target, other) if place.exists()]
    if any(_is(place, package) for place in present):
        return StudentEntry(package.card.name, present[0], package)
    if present and not overwrite:
        raise AlreadyInstalledError(
            f"Another model called {package.card.name} is in your folder {user_folder()}. Replace it, or keep it."
        )
    if path.is_dir():
        with atomic_folder(target, overwrite) as temporary:
            shutil.copytree(path, temporary, dirs_exist_ok=True)
    else:
        with atomic_file(target, overwrite) as temporary:
            shutil.copyfile(path, temporary)
    if other.exists():
        _delete(other)
    picture = StudentEntry(package.card.name, path, package).picture
    if picture is not None:
        with atomic_file(target.with_name(f"{package.card.name}.png"), overwrite=True) as temporary:
            shutil.copyfile(picture, temporary)
    return StudentEntry(entry.name, target, ModelPackage.open(target))


def remove_student(entry: StudentEntry) -> None:
    """Delete a model from the user's folder.

    Raises:
        OutputError: It lies elsewhere (it came with ReCoKD, or lies in a folder that the user added), or cannot be
            deleted.
    """
    if not entry.is_own:
        raise OutputError(
            f"{entry.name} lies in {entry.path.parent}, not in your own folder, so it is not removed. Models that come "
            "with ReCoKD stay; of a folder that you added, remove the folder from the list."
        )
    picture = entry.picture
    try:
        _delete(entry.path)
        if picture is not None:
            picture.unlink()
    except OSError as error:
        raise OutputError(
            f"{entry.path} could not be removed ({error.strerror}). Check the permissions of the folder."
        ) from error


def _is(place: Path, package: ModelPackage) -> bool:
    try:
        return ModelPackage.open(place).checksum == package.checksum
    except PackageError:
        return False


def _delete(path: Path) -> None:
    """Out of sight in one step, then deleted: a folder that is half deleted would look like a damaged model."""
    if path.is_file():
        path.unlink()
        return
    aside = Path(tempfile.mkdtemp(prefix=".removed-", dir=path.parent))
    path.replace(aside / path.name)
    shutil.rmtree(aside, ignore_errors=True)
