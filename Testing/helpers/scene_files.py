"""Scene files as Slicer saves them, made by slicer-core."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from geometries import Matrix
from ReCoKDLib.labels import LabelSet
from ReCoKDLib.mrml.host import ensure_slicer
from ReCoKDLib.mrml.segmentations import segmentation_to_node
from ReCoKDLib.mrml.volumes import volume_to_node, vtk_matrix
from ReCoKDLib.volume import Volume


def save_scene(path: Path, build: Callable[[Any], object]) -> Path:
    """Write the scene that ``build(slicer)`` fills; the one in memory is empty before and after."""
    slicer = ensure_slicer()
    slicer.mrmlScene.Clear(0)
    build(slicer)
    assert slicer.mrmlScene.WriteToMRB(str(path))
    slicer.mrmlScene.Clear(0)
    return path


def add_case(
    slicer: Any,
    volume: Volume,
    labels: Volume | None,
    label_set: LabelSet,
    name: str = "volume",
    transform: Matrix | None = None,
) -> tuple[Any, Any]:
    """A volume node and, unless there are no labels, its segmentation; both under the transform."""
    node = volume_to_node(volume, name=name)
    if transform is not None:
        above = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "moved")
        above.SetMatrixTransformToParent(vtk_matrix(transform))
        node.SetAndObserveTransformNodeID(above.GetID())
    if labels is None:
        return node, None
    moved = labels if transform is None else replace(labels, ijk_to_ras=transform @ labels.ijk_to_ras)
    return node, segmentation_to_node(moved, label_set, node)


def forget_reference(segmentation: Any) -> None:
    """As a segmentation is that was made without a volume, or whose volume was loaded anew."""
    segmentation.SetNodeReferenceID(segmentation.GetReferenceImageGeometryReferenceRole(), None)


def study(slicer: Any, name: str, *nodes: Any, patient: str = "") -> None:
    """Put nodes into a study of the subject hierarchy, under a patient where one is named."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    parent = hierarchy.GetSceneItemID()
    if patient:
        parent = hierarchy.CreateSubjectItem(parent, "Doe^Jane")
        hierarchy.SetItemAttribute(parent, "DICOM.PatientID", patient)
    item = hierarchy.CreateStudyItem(parent, name)
    for node in nodes:
        known = hierarchy.GetItemByDataNode(node)
        if known:
            hierarchy.SetItemParent(known, item)
        else:
            hierarchy.CreateItem(item, node)


def turned() -> Matrix:
    """A transform that turns by 20 degrees about S and moves."""
    angle = np.deg2rad(20.0)
    matrix = np.eye(4)
    matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    matrix[:3, 3] = (5.0, -9.0, 30.0)
    return matrix
