"""Installing what a student needs inside Slicer, at first use and after asking."""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..errors import MissingDependencyError
from .host import ensure_slicer

REQUESTER = "ReCoKD"
TORCH = "torch>=2.6"
# Slicer's own, and torch as the PyTorch extension chose it: whatever else is installed, these stay.
KEPT = ("numpy", "SimpleITK", "vtk", "torch", "torchvision")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def ensure_dependencies(requirements: Path) -> None:
    """Make sure that torch and the packages of a requirements file are there; in Slicer, install what is missing.

    torch comes through the PyTorch extension, the rest through ``slicer.packaging`` (Slicer 5.11 and later) or
    ``slicer.util.pip_install``. The user is asked first, and pip gets constraints that hold Slicer's own
    packages at their versions.

    Args:
        requirements: A file with one requirement a line.

    Raises:
        MissingDependencyError: Something is missing and was not, or could not be, installed.
    """
    slicer = ensure_slicer()
    needed = read_requirements(requirements)
    missing = missing_packages([TORCH, *needed])
    if not missing:
        return
    if getattr(slicer, "app", None) is None:
        raise MissingDependencyError(
            f"These Python packages are missing: {', '.join(missing)}. "
            'Install them with ReCoKD (pip install "recokd[host]").'
        )
    _ensure_torch()
    _ensure_packages(slicer, requirements)
    importlib.invalidate_caches()
    if missing := missing_packages(needed):
        raise MissingDependencyError(
            f"These Python packages could not be installed: {', '.join(missing)}. See Slicer's Python console for "
            "the reason, check the network connection, and press Apply again."
        )


def read_requirements(path: Path) -> list[str]:
    """The requirements of a file, without comments and options."""
    lines = (line.split(" #")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith(("#", "-"))]


def missing_packages(requirements: Iterable[str]) -> list[str]:
    """Those requirements that are not installed, or only in a version that does not fit."""
    return [requirement for requirement in requirements if not _is_satisfied(requirement)]


def constraints_text(names: Sequence[str] = KEPT) -> str:
    """pip constraints that hold the installed ones of these packages at their present versions."""
    lines = []
    for name in names:
        version = _version(name)
        if version is None:
            continue
        # A local label (2.4.1+cpu) is on no index; without it the installed version still satisfies.
        lines.append(f"{name}=={version.split('+')[0]}\n")
    return "".join(lines)


def _is_satisfied(requirement: str) -> bool:
    name = _NAME.match(requirement)
    installed = _version(name.group()) if name else None
    if installed is None:
        return False
    try:
        from packaging.requirements import Requirement
    except ImportError:  # Slicer before 5.11 may lack it; pip then looks at versions when it installs
        return True
    return bool(Requirement(requirement).specifier.contains(installed, prereleases=True))


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _ensure_torch() -> None:
    if _is_satisfied(TORCH):
        return
    try:
        import PyTorchUtils
    except ImportError as error:
        raise MissingDependencyError(
            "ReCoKD needs Slicer's PyTorch extension. Install it with the Extensions Manager, restart Slicer and "
            "press Apply again."
        ) from error
    if (found := _version("torch")) is not None:
        # It may be loaded already, and on Windows loaded files cannot be replaced.
        raise MissingDependencyError(
            f"PyTorch {found} is installed; ReCoKD needs {TORCH}. Uninstall it in the module PyTorch Utils, restart "
            "Slicer and press Apply again."
        )
    torch = PyTorchUtils.PyTorchUtilsLogic().installTorch(
        askConfirmation=True, torchVersionRequirement=TORCH.removeprefix("torch")
    )
    if torch is None:
        raise MissingDependencyError("PyTorch was not installed; without it no student runs. Press Apply to try again.")


def _ensure_packages(slicer: Any, requirements: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="recokd-") as folder:
        constraints = Path(folder) / "constraints.txt"
        constraints.write_text(constraints_text(), encoding="utf-8")
        try:
            import slicer.packaging as packaging
        except ImportError:
            _install_with_util(slicer, read_requirements(requirements), constraints)
            return
        try:
            packaging.pip_ensure(
                packaging.load_requirements(str(requirements)), constraints=str(constraints), requester=REQUESTER
            )
        except RuntimeError as error:  # declined
            raise MissingDependencyError(
                "The Python packages that a student needs were not installed. Press Apply to be asked again."
            ) from error


def _install_with_util(slicer: Any, requirements: list[str], constraints: Path) -> None:
    """Slicer before 5.11."""
    missing = missing_packages(requirements)
    if not missing:
        return
    listed = "\n".join(f"- {requirement}" for requirement in missing)
    if not slicer.util.confirmOkCancelDisplay(
        f"ReCoKD needs these Python packages:\n\n{listed}\n\nThey are installed into Slicer's own Python. Continue?"
    ):
        raise MissingDependencyError(
            "The Python packages that a student needs were not installed. Press Apply to be asked again."
        )
    slicer.util.pip_install(["--constraint", str(constraints), *missing])
