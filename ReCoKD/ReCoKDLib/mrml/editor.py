"""Slicer's Segment Editor widget and its node, for use inside another panel."""

from __future__ import annotations

from typing import Any

from .host import ensure_slicer

_TAG = "ReCoKD"
_UNDO_STATES = 10


def make_editor() -> Any:
    """A ``qMRMLSegmentEditorWidget`` that leaves the choice of the segmentation to the panel around it."""
    slicer = ensure_slicer()
    widget = slicer.qMRMLSegmentEditorWidget()
    widget.setMaximumNumberOfUndoStates(_UNDO_STATES)
    # First the node: choices that the widget makes when it gets the scene are kept in it.
    widget.setMRMLSegmentEditorNode(editor_node())
    widget.setMRMLScene(slicer.mrmlScene)
    widget.setSegmentationNodeSelectorVisible(False)
    widget.setSourceVolumeNodeSelectorVisible(False)
    widget.setSwitchToSegmentationsButtonVisible(False)
    return widget


def editor_node() -> Any:
    """The scene's node for this editor, unlike that of Slicer's own module; made when there is none."""
    slicer = ensure_slicer()
    scene = slicer.mrmlScene
    node = scene.GetSingletonNode(_TAG, "vtkMRMLSegmentEditorNode")
    if node is None:
        node = scene.CreateNodeByClass("vtkMRMLSegmentEditorNode")
        node.UnRegister(None)
        node.SetSingletonTag(_TAG)
        node = scene.AddNode(node)
    return node
