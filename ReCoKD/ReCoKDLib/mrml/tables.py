"""How large the segments are, as a table in the scene."""

from __future__ import annotations

from typing import Any

from ..errors import InputError
from ..labels import Segment
from ..table import SegmentSize, segment_sizes
from ..volume import Volume
from .hierarchy import place_beside
from .host import ensure_slicer
from .volumes import numpy_matrix, world_from_node
from .voxels import image_array, labelmap_of

COLUMNS = ("Segment", "Voxels", "Volume [ml]")


def node_sizes(segmentation_node: Any) -> list[SegmentSize]:
    """The size of each segment of a node, in their order, counted on the segment's own grid in the world.

    Raises:
        InputError: There is no segmentation, or it is under a transform that is not linear.
    """
    import vtk

    slicer = ensure_slicer()
    if segmentation_node is None or not segmentation_node.IsA("vtkMRMLSegmentationNode"):
        raise InputError("No segmentation was chosen. Choose one, or segment a volume first.")
    segmentation = segmentation_node.GetSegmentation()
    segmentation.CreateRepresentation(slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName())
    world = world_from_node(segmentation_node)
    sizes = []
    for index in range(segmentation.GetNumberOfSegments()):
        node_segment = segmentation.GetNthSegment(index)
        value = int(node_segment.GetLabelValue())
        segment = Segment(node_segment.GetName() or "", value, (value,), tuple(node_segment.GetColor()))
        image = labelmap_of(segmentation, segmentation.GetNthSegmentID(index))
        if image is None or image.IsEmpty():
            sizes.append(SegmentSize(segment, 0, 0.0))
            continue
        matrix = vtk.vtkMatrix4x4()
        image.GetImageToWorldMatrix(matrix)
        voxels = Volume(image_array(image)[None], world @ numpy_matrix(matrix))
        sizes += segment_sizes(voxels, [segment])
    return sizes


def volume_table(segmentation_node: Any, table_node: Any = None) -> Any:
    """Write the sizes of a node's segments into a table node: name, voxels, millilitres.

    Args:
        segmentation_node: ``vtkMRMLSegmentationNode``.
        table_node: ``vtkMRMLTableNode`` whose contents are replaced; None for a new one.

    Returns:
        The table node.

    Raises:
        InputError: As for :func:`node_sizes`.
    """
    import vtk

    slicer = ensure_slicer()
    sizes = node_sizes(segmentation_node)
    node = table_node
    if node is None:
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", f"{segmentation_node.GetName()} volumes")
        place_beside(node, segmentation_node)
    names, voxels, millilitres = vtk.vtkStringArray(), vtk.vtkLongLongArray(), vtk.vtkDoubleArray()
    for size in sizes:
        names.InsertNextValue(size.segment.name)
        voxels.InsertNextValue(size.voxels)
        millilitres.InsertNextValue(size.millilitres)
    modified = node.StartModify()
    try:
        node.RemoveAllColumns()
        for column, name in zip((names, voxels, millilitres), COLUMNS, strict=True):
            column.SetName(name)
            node.AddColumn(column)
        node.SetColumnUnitLabel(COLUMNS[2], "ml")
        node.SetUseColumnTitleAsColumnHeader(True)
    finally:
        node.EndModify(modified)
    return node
