"""A picture of a segmentation for people who were not there: slices, 3D view, volumes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import InputError
from ..labels import Segment
from ..picture import write_picture
from .record import require_volumes
from .volumes import volume_from_node
from .voxels import read_labels


def save_picture(segmentation_node: Any, path: Path, overwrite: bool = False) -> None:
    """Write a PNG as :func:`ReCoKDLib.picture.write_picture` does, of all segments as they are now.

    Args:
        segmentation_node: ``vtkMRMLSegmentationNode``; its colours and names are the picture's.
        path: A file ending in ``.png``.
        overwrite: Replace an existing file.

    Raises:
        InputError: There is no segment, or no volume belongs to the segmentation.
        OutputError: As for ``write_picture``.
        MissingDependencyError: As for ``write_picture``.
    """
    segmentation = segmentation_node.GetSegmentation()
    ids = [segmentation.GetNthSegmentID(index) for index in range(segmentation.GetNumberOfSegments())]
    if not ids:
        raise InputError("There is no segment to draw. Segment the volume first.")
    volume = volume_from_node(require_volumes(segmentation_node)[0])
    segments = []
    for value, segment_id in enumerate(ids, 1):
        segment = segmentation.GetSegment(segment_id)
        segments.append(Segment(segment.GetName() or segment_id, value, (value,), tuple(segment.GetColor())))
    labels = read_labels(segmentation_node, [(i, value) for value, i in enumerate(ids, 1)], volume)
    write_picture(volume, volume.with_array(labels[None]), segments, path, overwrite=overwrite)
