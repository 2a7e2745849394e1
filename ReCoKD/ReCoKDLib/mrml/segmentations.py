"""Label maps from and to Slicer's segmentation nodes and files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError, OutputError
from ..files import atomic_file, full_suffix
from ..image_io import label_array
from ..labels import LabelSet, Segment
from ..table import segment_mask
from ..terminology import UNKNOWN_STRUCTURE
from ..volume import Volume
from .hierarchy import place_beside
from .host import ensure_slicer
from .volumes import Matrix, world_from_node
from .voxels import oriented_image, read_labels

SEGMENTATION_SUFFIX = ".seg.nrrd"


def segmentation_to_node(
    labels: Volume, label_set: LabelSet, volume_node: Any, segmentation_node: Any = None, *, name: str = ""
) -> Any:
    """Put the segments of a label map into a segmentation node.

    Every segment of the label set is there afterwards, those without a voxel as empty segments. In an existing
    segmentation, segments of the same names are replaced and keep their ids and places; all others are left as
    they are, also where they overlap. A new segmentation gets the volume's geometry as reference, stands beside
    the volume in the subject hierarchy (DICOM export needs both), and moves with the volume's transform.

    Args:
        labels: One-channel label map in world coordinates.
        label_set: Names, colours and codes.
        volume_node: The volume that was segmented.
        segmentation_node: Where to put the segments; None for a new node.
        name: Of a new node; the volume's with "segmentation" when empty.

    Returns:
        The ``vtkMRMLSegmentationNode``.

    Raises:
        InputError: The existing segmentation is under a transform that is not linear.
    """
    node = prepare_node(volume_node, segmentation_node, name)
    fill_segmentation(node, labels, label_set)
    return node


def fill_segmentation(segmentation_node: Any, labels: Volume, label_set: LabelSet) -> None:
    """Put the segments of a label map into a segmentation node that was prepared; see :func:`segmentation_to_node`."""
    place = np.linalg.inv(world_from_node(segmentation_node)) @ labels.ijk_to_ras
    modified = segmentation_node.StartModify()
    try:
        _set_segments(ensure_slicer(), segmentation_node.GetSegmentation(), labels, label_set, place)
    finally:
        segmentation_node.EndModify(modified)


def prepare_node(volume_node: Any, segmentation_node: Any = None, name: str = "") -> Any:
    """A segmentation node to put segments into: the one given, or a new one in the volume's place.

    It holds voxels, has the volume's geometry as reference unless it has one already, and stands beside the volume in
    the subject hierarchy.

    Args:
        volume_node: The volume that was segmented.
        segmentation_node: None for a new node.
        name: Of a new node; the volume's with "segmentation" when empty.

    Raises:
        InputError: The existing segmentation is under a transform that is not linear.
    """
    slicer = ensure_slicer()
    node = segmentation_node
    if node is None:
        node = slicer.mrmlScene.AddNewNodeByClass(
            "vtkMRMLSegmentationNode", name or f"{volume_node.GetName()} segmentation"
        )
        node.SetAndObserveTransformNodeID(volume_node.GetTransformNodeID())
    world_from_node(node)  # refuses a warp before anything is changed
    node.CreateDefaultDisplayNodes()
    # Contours and surfaces as they come from RT structure sets become voxels; the file format holds one kind.
    node.SetSourceRepresentationToBinaryLabelmap()
    if node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole()) is None:
        node.SetReferenceImageGeometryParameterFromVolumeNode(volume_node)
    place_beside(node, volume_node)
    return node


def ensure_segments(segmentation_node: Any, label_set: LabelSet) -> dict[str, str]:
    """Add those segments of a label set that are missing, without voxels; returns the id of each by its name."""
    slicer = ensure_slicer()
    segmentation = segmentation_node.GetSegmentation()
    ids = {}
    for segment in label_set.segments:
        if not _ids_named(segmentation, segment.name):
            _set_segment(slicer, segmentation, segment, None, 1)
        ids[segment.name] = _ids_named(segmentation, segment.name)[0]
    return ids


def labels_from_node(segmentation_node: Any, label_set: LabelSet, reference: Volume) -> Volume:
    """The segments of a segmentation node as a label map on the reference's grid (nearest neighbour).

    Segments are found by name, whatever their case; those that the label set does not name are left out, and
    where segments overlap the later one in the label set wins.

    Raises:
        InputError: There is none, or it is under a transform that is not linear.
    """
    if segmentation_node is None:
        raise InputError("No segmentation was chosen. Choose one.")
    segmentation = segmentation_node.GetSegmentation()
    values = [(i, segment.value) for segment in label_set.segments for i in _ids_named(segmentation, segment.name)]
    return reference.with_array(label_array(read_labels(segmentation_node, values, reference))[None])


def write_segmentation(labels: Volume, label_set: LabelSet, path: Path, overwrite: bool = False) -> None:
    """Write a label map as Slicer's segmentation file, with names, colours, codes and the grid as reference.

    Slicer's own node and storage classes write it, in a scene of their own; the file appears whole or not at all.

    Args:
        labels: One-channel label map.
        label_set: Segments to write.
        path: A file ending in ``.seg.nrrd``.
        overwrite: Replace an existing file.

    Raises:
        OutputError: Another suffix, the file exists and ``overwrite`` is False, or it cannot be written.
        MissingDependencyError: Neither Slicer nor slicer-core is here.
    """
    with _new_file(labels, path, overwrite) as (slicer, segmentation):
        _set_segments(slicer, segmentation, labels, label_set, labels.ijk_to_ras)


def write_segments(segments: Sequence[tuple[Segment, Any]], reference: Volume, path: Path) -> None:
    """Write segments that may overlap as Slicer's segmentation file; see :func:`write_segmentation`.

    Args:
        segments: In their order, each with its ``vtkOrientedImageData`` in the world, where 1 is the segment; None for
            one without voxels. Several may be of one name.
        reference: The grid.
        path: A file ending in ``.seg.nrrd``.

    Raises:
        OutputError: Another suffix, the file exists, or it cannot be written.
        MissingDependencyError: Neither Slicer nor slicer-core is here.
    """
    with _new_file(reference, path) as (slicer, segmentation):
        for segment, image in segments:
            new_id = segmentation.GenerateUniqueSegmentID(segment.name)
            segmentation.AddSegment(_new_segment(slicer, segment, image, 1), new_id)
        segmentation.CollapseBinaryLabelmaps(False)  # segments that do not overlap share a layer


@contextmanager
def _new_file(reference: Volume, path: Path, overwrite: bool = False) -> Iterator[tuple[Any, Any]]:
    """The ``slicer`` package and an empty segmentation, which is written at the end."""
    if full_suffix(path).lower() != SEGMENTATION_SUFFIX:
        raise OutputError(f"{path} cannot be written as a segmentation. Give it a name that ends in .seg.nrrd.")
    slicer = ensure_slicer()
    scene = slicer.vtkMRMLScene()
    node = scene.AddNode(slicer.vtkMRMLSegmentationNode())
    storage = scene.AddNode(slicer.vtkMRMLSegmentationStorageNode())
    segmentation = node.GetSegmentation()
    segmentation.SetConversionParameter(
        slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName(),
        slicer.vtkSegmentationConverter.SerializeImageGeometry(
            oriented_image(np.zeros(reference.shape, np.uint8), reference.ijk_to_ras)
        ),
    )
    yield slicer, segmentation
    with atomic_file(path, overwrite) as temporary:
        storage.SetFileName(str(temporary))
        if not storage.WriteData(node) or temporary.stat().st_size == 0:
            raise OutputError(
                f"{path} could not be written. Nothing was changed. Check the free space and the permissions of "
                "the folder."
            )


def _set_segments(slicer: Any, segmentation: Any, labels: Volume, label_set: LabelSet, place: Matrix) -> None:
    """Add or replace the label set's segments; ``place`` is the grid in the segmentation's own coordinates."""
    surface = slicer.vtkSegmentationConverter.GetSegmentationClosedSurfaceRepresentationName()
    has_surface = segmentation.ContainsRepresentation(surface)
    # Segments that cannot overlap share one image, as after Slicer's own import: one layer in memory and file.
    shared = None if label_set.has_regions else _cropped_image(labels.array[0], place)
    for segment in label_set.segments:
        image = shared
        if label_set.has_regions:
            image = _cropped_image(segment_mask(labels.array[0], segment), place)
        _set_segment(slicer, segmentation, segment, image, 1 if label_set.has_regions else segment.value)
    if has_surface:
        # Replacing the last segment of a segmentation takes its surfaces away.
        segmentation.CreateRepresentation(surface, True)


def _new_segment(slicer: Any, segment: Segment, image: Any, value: int) -> Any:
    new = slicer.vtkSegment()
    new.SetName(segment.name)
    new.SetNameAutoGenerated(False)
    new.SetColor(*segment.color)
    new.SetColorAutoGenerated(False)
    # DICOM has no segments without a code.
    new.SetTag(slicer.vtkSegment.GetTerminologyEntryTagName(), segment.terminology or UNKNOWN_STRUCTURE)
    new.SetLabelValue(value)
    if image is not None:
        labelmap = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
        new.AddRepresentation(labelmap, image)
    return new


def _set_segment(slicer: Any, segmentation: Any, segment: Segment, image: Any, value: int) -> None:
    new = _new_segment(slicer, segment, image, value)
    old = _ids_named(segmentation, segment.name)
    segment_id = old[0] if old else segmentation.GenerateUniqueSegmentID(segment.name)
    before = ""
    if old:
        position = segmentation.GetSegmentIndex(segment_id) + 1
        if position < segmentation.GetNumberOfSegments():
            before = segmentation.GetNthSegmentID(position)
        segmentation.RemoveSegment(segment_id)
    segmentation.AddSegment(new, segment_id, before)


def _ids_named(segmentation: Any, name: str) -> list[str]:
    ids = [segmentation.GetNthSegmentID(index) for index in range(segmentation.GetNumberOfSegments())]
    return [i for i in ids if (segmentation.GetSegment(i).GetName() or "").casefold() == name.casefold()]


def _cropped_image(array: npt.NDArray[Any], place: Matrix) -> Any:
    """The part of a label map that is not zero, at its place in the grid; None when all of it is zero."""
    found = [np.flatnonzero(array.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    if not all(len(where) for where in found):
        return None
    first = [int(where[0]) for where in found]
    box = tuple(slice(int(where[0]), int(where[-1]) + 1) for where in found)
    return oriented_image(array[box], place, first)
