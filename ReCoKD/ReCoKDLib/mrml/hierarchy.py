"""The subject hierarchy: where a node stands among studies and folders."""

from __future__ import annotations

from typing import Any

from .host import ensure_slicer


def place_beside(node: Any, other: Any) -> None:
    """Give a node the same parent in the subject hierarchy (a DICOM study, a folder) as another one.

    In Slicer each node has an item already; without the application nobody adds nodes to the hierarchy, so it is done
    here.
    """
    slicer = ensure_slicer()
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    if hierarchy is None:
        return
    invalid = slicer.vtkMRMLSubjectHierarchyNode.GetInvalidItemID()
    beside = hierarchy.GetItemByDataNode(other)
    parent = hierarchy.GetSceneItemID() if beside == invalid else hierarchy.GetItemParent(beside)
    item = hierarchy.GetItemByDataNode(node)
    if item == invalid:
        hierarchy.CreateItem(parent, node)
    elif beside != invalid:
        hierarchy.SetItemParent(item, parent)
