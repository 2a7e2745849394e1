"""What slice views show: a volume, a confidence map laid over it, the place under the mouse."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .host import ensure_slicer

_OVERLAY_OPACITY = 0.5
_SURE = 0.95  # what is surer than this is not coloured
_COLOURS = "vtkMRMLColorTableNodeRainbow"  # red is doubt


def nodes_of_class(kind: str) -> list[Any]:
    """All nodes of the scene of a class or its sub-classes."""
    found = ensure_slicer().mrmlScene.GetNodesByClass(kind)
    found.UnRegister(None)
    return [found.GetItemAsObject(index) for index in range(found.GetNumberOfItems())]


def shown_planes() -> list[tuple[tuple[float, ...], tuple[float, ...]]]:
    """The slices that the views of the layout show: of each its centre and its normal, RAS in mm."""
    planes = []
    for node in nodes_of_class("vtkMRMLSliceNode"):
        if node.IsMappedInLayout():
            place = node.GetSliceToRAS()
            centre, normal = (tuple(place.GetElement(row, column) for row in range(3)) for column in (3, 2))
            planes.append((centre, normal))
    return planes


def show_volume(volume_node: Any) -> None:
    """Show a volume in all slice views, in the middle of the field of view, where another one is shown."""
    composites = [node for node in _composites() if node.GetBackgroundVolumeID() != volume_node.GetID()]
    for composite in composites:
        composite.SetBackgroundVolumeID(volume_node.GetID())
    application = ensure_slicer().app
    if composites and hasattr(application, "layoutManager"):
        application.layoutManager().resetSliceViews()


def show_overlay(confidence_node: Any) -> None:
    """Lay a confidence map over the volume in all slice views: doubt is red, what is sure is not covered."""
    display = confidence_node.GetDisplayNode()
    display.SetAndObserveColorNodeID(_COLOURS)
    display.SetThreshold(0.0, _SURE)
    display.SetApplyThreshold(True)
    for composite in _composites():
        composite.SetForegroundVolumeID(confidence_node.GetID())
        composite.SetForegroundOpacity(_OVERLAY_OPACITY)


def hide_overlay(confidence_node: Any) -> None:
    """Take a confidence map away from the slice views."""
    for composite in _composites():
        if composite.GetForegroundVolumeID() == confidence_node.GetID():
            composite.SetForegroundVolumeID(None)
            composite.SetForegroundOpacity(0.0)


def place_under_mouse() -> tuple[float, float, float] | None:
    """RAS of the world under the mouse, in a slice view or on a surface in 3D; None where it is in no view."""
    position = [0.0, 0.0, 0.0]
    for crosshair in nodes_of_class("vtkMRMLCrosshairNode"):
        if crosshair.GetCursorPositionRAS(position):
            return position[0], position[1], position[2]
    return None


def place_points(markups_node: Any) -> None:
    """Let each click in a view add a point to a list, until :func:`stop_placing`."""
    logic = ensure_slicer().modules.markups.logic()
    logic.SetActiveList(markups_node)
    logic.StartPlaceMode(True)


def stop_placing() -> None:
    """Clicks turn, move and scroll views again."""
    for interaction in nodes_of_class("vtkMRMLInteractionNode"):
        interaction.SetPlaceModePersistence(0)
        interaction.SetCurrentInteractionMode(interaction.ViewTransform)


def region_around(volume_node: Any) -> Any:
    """A new box around a volume, turned as the volume is, with handles to drag; returns the ROI node."""
    import numpy as np
    import vtk

    from .hierarchy import place_beside
    from .volumes import ijk_to_node, vtk_matrix

    slicer = ensure_slicer()
    place, count = ijk_to_node(volume_node), np.array(volume_node.GetImageData().GetDimensions())
    spacing = np.linalg.norm(place[:3, :3], axis=0)
    box = np.eye(4)
    box[:3, :3] = place[:3, :3] / spacing
    box[:3, 3] = (place @ np.array([*(count - 1) / 2, 1.0]))[:3]
    if np.linalg.det(box[:3, :3]) < 0:
        box[:3, 2] *= -1  # the same box, but a ROI cannot be left-handed
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", f"{volume_node.GetName()} region")
    node.SetAndObserveTransformNodeID(volume_node.GetTransformNodeID())
    node.CreateDefaultDisplayNodes()
    node.SetSize(*(float(n) for n in count * spacing))
    matrix: vtk.vtkMatrix4x4 = vtk_matrix(box)
    node.SetAndObserveObjectToNodeMatrix(matrix)
    display = node.GetDisplayNode()
    display.SetHandlesInteractive(True)
    display.SetFillOpacity(0.1)
    place_beside(node, volume_node)
    return node


def _composites() -> Iterator[Any]:
    yield from nodes_of_class("vtkMRMLSliceCompositeNode")
