"""Slicer's classes without the application."""

from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from ReCoKDLib.errors import MissingDependencyError
from ReCoKDLib.mrml.host import ensure_slicer


@pytest.mark.parametrize("found", [None, types.ModuleType("slicer")], ids=["nothing", "an empty package"])
def test_says_what_to_install(found: types.ModuleType | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "slicer", found)
    with pytest.raises(MissingDependencyError, match=r'pip install "recokd\[host\]"'):
        ensure_slicer()


def test_keeps_the_scene_that_is_there(slicer: Any) -> None:
    scene = slicer.mrmlScene
    assert ensure_slicer() is slicer
    assert slicer.mrmlScene is scene
    assert slicer.modules.segmentations.logic().IsA("vtkSlicerSegmentationsModuleLogic")


def test_a_fresh_process_starts_works_and_ends_well(repository: Path) -> None:
    pytest.importorskip("slicer")
    code = """
from ReCoKDLib.mrml.host import ensure_slicer
slicer = ensure_slicer()
node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "s")
node.CreateDefaultDisplayNodes()
assert node.GetDisplayNode() and not hasattr(slicer, "app")
"""
    run = subprocess.run(
        [sys.executable, "-c", code],
        env=_environment(repository),
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr


def _environment(repository: Path) -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(repository / "ReCoKD")}
