"""Selectors of nodes that a panel needs in a number that only the student tells."""

from __future__ import annotations

from typing import Any

from .host import ensure_slicer


def volume_selector() -> Any:
    """A ``qMRMLNodeComboBox`` of the scene's scalar volumes, with nothing chosen where nothing was."""
    slicer = ensure_slicer()
    selector = slicer.qMRMLNodeComboBox()
    selector.nodeTypes = ["vtkMRMLScalarVolumeNode"]
    selector.showChildNodeTypes = False
    selector.addEnabled = False
    selector.removeEnabled = False
    selector.noneEnabled = True
    selector.setMRMLScene(slicer.mrmlScene)
    return selector
