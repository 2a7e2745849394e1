"""What of a segmentation can be chosen in a list: its segments, and the clicks made on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .clicks import Mark, read_marks
from .record import locked_ids


@dataclass(frozen=True)
class SegmentChoice:
    """A segment: id, name, colour (red, green, blue in 0..1), and whether it is locked (Completed)."""

    id: str
    name: str
    color: tuple[float, float, float]
    locked: bool


@dataclass(frozen=True)
class ClickChoice:
    """A click or stroke in words, and where it is (RAS, mm)."""

    mark: Mark
    text: str
    position: tuple[float, float, float]


def segment_choices(segmentation_node: Any) -> list[SegmentChoice]:
    """The segments of a segmentation in their order; none for no segmentation."""
    if segmentation_node is None:
        return []
    segmentation = segmentation_node.GetSegmentation()
    locked = locked_ids(segmentation_node)
    choices = []
    for index in range(segmentation.GetNumberOfSegments()):
        segment_id, segment = segmentation.GetNthSegmentID(index), segmentation.GetNthSegment(index)
        red, green, blue = segment.GetColor()
        choices.append(SegmentChoice(segment_id, segment.GetName() or "", (red, green, blue), segment_id in locked))
    return choices


def click_choices(segmentation_node: Any) -> list[ClickChoice]:
    """The clicks of a segmentation in their order; none for no segmentation."""
    if segmentation_node is None:
        return []
    choices = []
    for mark in read_marks(segmentation_node):
        r, a, s = (float(value) for value in mark.points[len(mark.points) // 2])
        segment = segmentation_node.GetSegmentation().GetSegment(mark.segment_id)
        name = segment.GetName() if segment is not None else mark.segment_id
        kind = "inside" if mark.inside else "outside"
        stroke = "" if mark.radius_mm is None else f", stroke of {mark.radius_mm:g} mm"
        choices.append(
            ClickChoice(mark, f"{mark.number}  {name} {kind}{stroke} ({r:.1f}, {a:.1f}, {s:.1f})", (r, a, s))
        )
    return choices


class SegmentsWatch:
    """Calls a function when the segments of a segmentation, or their voxels, change.

    Args:
        changed: The function.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._observations: list[tuple[Any, int]] = []
        self.node: Any = None

    def follow(self, segmentation_node: Any) -> bool:
        """Watch this segmentation instead of the former; None for none. Returns whether it is another one."""
        if segmentation_node is self.node:
            return False
        for watched, tag in self._observations:
            watched.RemoveObserver(tag)
        self._observations.clear()
        self.node = segmentation_node
        if segmentation_node is not None:
            segmentation = segmentation_node.GetSegmentation()
            for event in (
                segmentation.SegmentAdded,
                segmentation.SegmentRemoved,
                segmentation.SegmentModified,
                segmentation.SegmentsOrderModified,
                segmentation.SourceRepresentationModified,
            ):
                tag = segmentation.AddObserver(event, lambda caller, event: self._changed())
                self._observations.append((segmentation, tag))
        return True
