#!/usr/bin/env python-real
"""Slicer's door to training: a scripted command-line module, described by the .xml beside it."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path


def _find_library() -> None:
    """Make ReCoKDTrainingLib and ReCoKDLib importable.

    An installed extension has its scripted modules on Python's path. A module folder that was added by hand has
    not, nor has the source tree: there they lie in known places beside this file.
    """
    try:
        importlib.import_module("ReCoKDTrainingLib")
        importlib.import_module("ReCoKDLib")
    except ImportError:
        here = Path(__file__).resolve().parent
        for folder in (here.parent / "qt-scripted-modules", here, here.parent / "ReCoKD"):
            if folder.is_dir() and str(folder) not in sys.path:
                sys.path.append(str(folder))


if __name__ == "__main__":
    _find_library()
    from ReCoKDTrainingLib.cli import main

    beside = Path(__file__).resolve().with_suffix(".xml")
    sys.exit(main(description=beside if beside.is_file() else None))
