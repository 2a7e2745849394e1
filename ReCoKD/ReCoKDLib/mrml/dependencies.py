"""Installing what a student needs inside Slicer, at first use and after asking."""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import tempfile
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import MissingDependencyError
from .host import ensure_slicer

REQUESTER = "ReCoKD"
TORCH = "torch>=2.6"
# Slicer's own, and torch as the PyTorch extension chose it: whatever else is installed, these stay.
KEPT = ("numpy", "SimpleITK", "vtk", "torch", "torchvision")

# About how much is downloaded: the wheels for Linux and Windows of August 2026, and what comes along with them.
SIZES = {
    "torch": "0.2 GB, with support for NVIDIA graphics cards 2 to 3 GB",
    "dynamic-network-architectures": "below 1 MB",
    "filelock": "below 1 MB",
    "matplotlib": "20 MB",
    "monai": "2 MB",
    "safetensors": "below 1 MB",
    "scikit-image": "15 MB",
    "scipy": "40 MB",
    "tqdm": "below 1 MB",
}
_OFFLINE = (
    "Is this computer connected to the internet? If it is, Slicer's Python console has the reason. Then try again; "
    "nothing of Slicer's own was changed."
)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def ensure_dependencies(requirements: Path) -> None:
    """Make sure that torch and the packages of a requirements file are there; in Slicer, install what is missing.

    torch comes through the PyTorch extension, the rest through ``slicer.packaging`` (Slicer 5.11 and later) or
    ``slicer.util.pip_install``. The user is asked once, with the sizes, and pip gets constraints that hold Slicer's
    own packages at their versions.

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
    torch = _require_torch_extension()
    if not slicer.util.confirmOkCancelDisplay(question(missing), windowTitle=REQUESTER):
        raise MissingDependencyError(
            "The Python packages that a student needs were not installed. Try again to be asked again."
        )
    if torch is not None:
        _install_torch(torch)
    if missing_packages(needed):
        _install_packages(slicer, requirements)
    importlib.invalidate_caches()
    if missing := missing_packages(needed):
        raise MissingDependencyError(f"These Python packages could not be installed: {', '.join(missing)}. {_OFFLINE}")


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


def question(missing: Sequence[str]) -> str:
    """What the user is asked before anything is installed: each package with about how much is downloaded."""
    lines = []
    for requirement in missing:
        name = _NAME.match(requirement)
        size = SIZES.get(name.group(), "") if name else ""
        lines.append(f"- {requirement}" + (f" ({size})" if size else ""))
    return (
        "ReCoKD needs these Python packages to run students:\n\n" + "\n".join(lines) + "\n\nThey are downloaded and "
        "installed into Slicer's own Python, once. Packages that Slicer brings stay as they are. Continue?"
    )


def _require_torch_extension() -> Any:
    """The PyTorch extension's logic, if torch is still to be installed; None if it is there."""
    if _is_satisfied(TORCH):
        return None
    try:
        import PyTorchUtils
    except ImportError as error:
        raise MissingDependencyError(
            "ReCoKD needs Slicer's PyTorch extension. Install it with the Extensions Manager, restart Slicer and "
            "try again."
        ) from error
    if (found := _version("torch")) is not None:
        # It may be loaded already, and on Windows loaded files cannot be replaced.
        raise MissingDependencyError(
            f"PyTorch {found} is installed; ReCoKD needs {TORCH}. Uninstall it in the module PyTorch Utils, restart "
            "Slicer and try again."
        )
    return PyTorchUtils.PyTorchUtilsLogic()


def _install_torch(logic: Any) -> None:
    try:
        torch = logic.installTorch(askConfirmation=False, torchVersionRequirement=TORCH.removeprefix("torch"))
    except Exception as error:
        raise _failed("PyTorch", error) from error
    if torch is None:
        raise MissingDependencyError(f"PyTorch could not be installed; without it no student runs. {_OFFLINE}")


def _install_packages(slicer: Any, requirements: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="recokd-") as folder:
        constraints = Path(folder) / "constraints.txt"
        constraints.write_text(constraints_text(), encoding="utf-8")
        try:
            import slicer.packaging as packaging
        except ImportError:  # Slicer before 5.11
            missing = missing_packages(read_requirements(requirements))
            install = partial(slicer.util.pip_install, ["--constraint", str(constraints), *missing])
        else:
            install = partial(
                packaging.pip_ensure,
                packaging.load_requirements(str(requirements)),
                constraints=str(constraints),
                requester=REQUESTER,
                prompt_install=False,
            )
        try:
            install()
        except Exception as error:  # of pip's process, or of the network
            raise _failed("The Python packages that a student needs", error) from error


def _failed(what: str, error: Exception) -> MissingDependencyError:
    return MissingDependencyError(f"{what} could not be installed ({error}). {_OFFLINE}")
