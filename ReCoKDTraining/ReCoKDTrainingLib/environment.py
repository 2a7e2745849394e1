"""What a run was made with: versions, and the revision of the source where it is a git checkout."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import ReCoKDLib

_PACKAGES = ("torch", "monai", "numpy", "batchgeneratorsv2", "dynamic-network-architectures", "SimpleITK")


def versions() -> dict[str, str]:
    """Of ReCoKD, Python and the packages that results depend on."""
    found = {"recokd": ReCoKDLib.__version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, git revision, system and device as JSON values; no name of a person or a computer."""
    return {
        "versions": versions(),
        "git revision": git_revision(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "threads": torch.get_num_threads(),
    }


def git_revision() -> str | None:
    """The commit of this source, with ``-changed`` where files differ from it; None where it is in no git checkout."""
    source = Path(__file__).resolve()

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=source.parent, capture_output=True, text=True, timeout=20, check=True
        )
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", source.name)  # a checkout of something else may lie around it
        return git("rev-parse", "HEAD") + ("-changed" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None
