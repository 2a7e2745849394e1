"""What tells whether a segmentation or its volume was changed by other means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .record import Record
from .volumes import ijk_to_node
from .voxels import labelmap_of


def present_ids(segmentation_node: Any, record: Record) -> list[str]:
    """Ids of the segments that are there, in the order of their values."""
    segmentation = segmentation_node.GetSegmentation()
    there = {segmentation.GetNthSegmentID(index) for index in range(segmentation.GetNumberOfSegments())}
    known = [segment.id for segment in record.segments if segment.id in there]
    return known + sorted(there - set(known))


def segments_stamp(segmentation_node: Any, record: Record) -> list[tuple[str, int]]:
    """Changes when a segment comes or goes, or is drawn on: id and time of each."""
    segmentation = segmentation_node.GetSegmentation()
    images = [(i, labelmap_of(segmentation, i)) for i in present_ids(segmentation_node, record)]
    return [(i, 0 if image is None else image.GetMTime()) for i, image in images]


def volume_stamp(nodes: Sequence[Any]) -> Any:
    """Changes when a volume has other voxels or another place, its transforms aside."""
    return [
        (node.GetID(), node.GetImageData() and node.GetImageData().GetMTime(), ijk_to_node(node).tolist())
        for node in nodes
    ]
