"""Clicks in the scene: Markups nodes that refer to volume, segmentation and segment.

There is a list of points for each segment and for inside and outside, a curve for each stroke. They are saved with the
scene, and the user moves and deletes them with Slicer's module Markups as any others. What of them has been carried out
already is kept in the segmentation's :mod:`.record`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from .hierarchy import place_beside
from .host import ensure_slicer

SEGMENTATION_ROLE = "ReCoKD.segmentation"
VOLUME_ROLE = "ReCoKD.volume"
LIMIT_ROLE = "ReCoKD.limit"
SEGMENT = "ReCoKD.segment"
INSIDE = "ReCoKD.inside"
RADIUS = "ReCoKD.radius"
NUMBER = "ReCoKD.number"

_NUMBERED = re.compile(r"click (\d+)")


@dataclass(frozen=True)
class Mark:
    """A click or stroke as it lies in the scene.

    Attributes:
        number: Its place in time among all of the segmentation; 0 for one that was not seen before.
        segment_id: Id of the segment that it speaks of.
        inside: Whether it belongs to the segment.
        points: (n, 3) RAS in the world, mm; of a click one.
        radius_mm: Of a stroke's brush; None for a click.
        node: The Markups node that it was read from, and
        index: its control point there, as long as nobody changes the node.
    """

    number: int
    segment_id: str
    inside: bool
    points: npt.NDArray[np.float64]
    radius_mm: float | None = None
    node: Any = field(default=None, compare=False, repr=False)
    index: int = field(default=0, compare=False, repr=False)


def click_node(segmentation_node: Any, volume_node: Any, segment_id: str, inside: bool) -> Any:
    """The list of points that lie inside, or outside, a segment; made when there is none.

    Returns:
        A ``vtkMRMLMarkupsFiducialNode`` with the segment's colour: spheres for inside, crosses for outside.
    """
    for node in mark_nodes(segmentation_node):
        same = node.GetAttribute(SEGMENT) == segment_id and _is_inside(node) == inside
        if same and node.GetAttribute(RADIUS) is None:
            return node
    slicer = ensure_slicer()
    node = _new_node("vtkMRMLMarkupsFiducialNode", segmentation_node, volume_node, segment_id, inside)
    display = node.GetDisplayNode()
    display.SetGlyphType(slicer.vtkMRMLMarkupsDisplayNode.Sphere3D if inside else display.ThickCross2D)
    return node


def add_click(
    segmentation_node: Any,
    volume_node: Any,
    segment_id: str,
    inside: bool,
    position: npt.ArrayLike,
    number: int = 0,
) -> None:
    """Add a point, in RAS of the world."""
    node = click_node(segmentation_node, volume_node, segment_id, inside)
    index = node.AddControlPointWorld(*(float(value) for value in np.asarray(position)))
    if number:
        node.SetNthControlPointDescription(index, f"click {number}")


def add_stroke(
    segmentation_node: Any,
    volume_node: Any,
    segment_id: str,
    inside: bool,
    points: npt.ArrayLike,
    radius_mm: float,
    number: int = 0,
) -> Any:
    """Add a stroke as a curve of its own; points are RAS of the world. Returns the ``vtkMRMLMarkupsCurveNode``."""
    node = _new_node("vtkMRMLMarkupsCurveNode", segmentation_node, volume_node, segment_id, inside)
    node.SetCurveTypeToLinear()
    node.SetAttribute(RADIUS, repr(float(radius_mm)))
    if number:
        node.SetAttribute(NUMBER, str(number))
    for point in np.asarray(points, dtype=np.float64):
        node.AddControlPointWorld(*point.tolist())
    # The line as the brush saw it, where the view shows lines with a width in mm.
    node.GetDisplayNode().SetCurveLineSizeMode(node.GetDisplayNode().UseLineDiameter)
    node.GetDisplayNode().SetLineDiameter(max(2 * float(radius_mm), 0.1))
    return node


def mark_nodes(segmentation_node: Any) -> list[Any]:
    """All Markups nodes with clicks and strokes of a segmentation."""
    slicer = ensure_slicer()
    scene = segmentation_node.GetScene() or slicer.mrmlScene
    found = scene.GetNodesByClass("vtkMRMLMarkupsNode")
    found.UnRegister(None)
    nodes = [found.GetItemAsObject(index) for index in range(found.GetNumberOfItems())]
    return [node for node in nodes if segmentation_of(node) is segmentation_node]


def segmentation_of(markups_node: Any) -> Any:
    """The segmentation that a Markups node holds clicks of; None if it is none of ours."""
    if markups_node is None or not markups_node.GetAttribute(SEGMENT):
        return None
    return markups_node.GetNodeReference(SEGMENTATION_ROLE)


def read_marks(segmentation_node: Any) -> list[Mark]:
    """All clicks and strokes of a segmentation, those with a number first and by it.

    Points that are not placed yet (a preview under the mouse) are left out. Of several with one number, as after
    copying points, the first keeps it.
    """
    marks: list[Mark] = []
    seen = set[int]()
    for node, index, number in _each(segmentation_node):
        if number in seen:
            number = 0
        seen.add(number)
        radius = node.GetAttribute(RADIUS)
        points = _line(node) if radius is not None else _positions(node, [index])
        brush = None if radius is None else float(radius)
        marks.append(Mark(number, node.GetAttribute(SEGMENT), _is_inside(node), points, brush, node, index))
    return sorted(marks, key=lambda mark: mark.number or np.inf)


def set_number(mark: Mark, number: int) -> None:
    """Give a mark of the scene its place in time."""
    if mark.radius_mm is not None:
        mark.node.SetAttribute(NUMBER, str(number))
    else:
        mark.node.SetNthControlPointDescription(mark.index, f"click {number}")


def remove_mark(mark: Mark) -> None:
    """Take a mark out of the scene; of several of one list the last must go first."""
    if mark.radius_mm is not None:
        ensure_slicer().mrmlScene.RemoveNode(mark.node)
    else:
        mark.node.RemoveNthControlPoint(mark.index)


def write_marks(segmentation_node: Any, volume_node: Any, marks: Sequence[Mark]) -> None:
    """Make the scene's clicks these: move, remove and add points. Those without a number stay as they are."""
    slicer = ensure_slicer()
    segmentation = segmentation_node.GetSegmentation()
    wanted = {mark.number: mark for mark in marks if segmentation.GetSegment(mark.segment_id) is not None}
    # From the last one on, so that indices stay what they were.
    for node, index, number in reversed(list(_each(segmentation_node))):
        if not number or segmentation.GetSegment(node.GetAttribute(SEGMENT)) is None:
            continue
        mark = wanted.get(number)
        fits = mark is not None and (mark.segment_id, mark.inside) == (node.GetAttribute(SEGMENT), _is_inside(node))
        if not fits and node.GetAttribute(RADIUS) is not None:
            slicer.mrmlScene.RemoveNode(node)
        elif not fits:
            node.RemoveNthControlPoint(index)
        elif mark is not None:
            del wanted[number]
            _move(node, index, mark)
    for mark in wanted.values():
        if mark.radius_mm is None:
            add_click(segmentation_node, volume_node, mark.segment_id, mark.inside, mark.points[0], mark.number)
        else:
            add_stroke(
                segmentation_node, volume_node, mark.segment_id, mark.inside, mark.points, mark.radius_mm, mark.number
            )


def refresh_looks(segmentation_node: Any, volume_node: Any) -> None:
    """Names and colours follow the segments', and the clicks move with the volume."""
    segmentation = segmentation_node.GetSegmentation()
    for node in mark_nodes(segmentation_node):
        if node.GetTransformNodeID() != volume_node.GetTransformNodeID():
            node.SetAndObserveTransformNodeID(volume_node.GetTransformNodeID())
        segment = segmentation.GetSegment(node.GetAttribute(SEGMENT))
        if segment is not None:
            _look_like(node, segment)


def _new_node(kind: str, segmentation_node: Any, volume_node: Any, segment_id: str, inside: bool) -> Any:
    slicer = ensure_slicer()
    node = slicer.mrmlScene.CreateNodeByClass(kind)
    node.UnRegister(None)
    # Before it is added, so that whoever observes the scene knows whose it is.
    node.SetAttribute(SEGMENT, segment_id)
    node.SetAttribute(INSIDE, "1" if inside else "0")
    node.SetNodeReferenceID(VOLUME_ROLE, volume_node.GetID())
    node.SetNodeReferenceID(SEGMENTATION_ROLE, segmentation_node.GetID())
    slicer.mrmlScene.AddNode(node)
    node.SetAndObserveTransformNodeID(volume_node.GetTransformNodeID())
    node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().SetPointLabelsVisibility(False)
    node.GetDisplayNode().SetPropertiesLabelVisibility(False)
    _look_like(node, segmentation_node.GetSegmentation().GetSegment(segment_id))
    place_beside(node, segmentation_node)
    return node


def _look_like(node: Any, segment: Any) -> None:
    name = f"{segment.GetName()} {'inside' if _is_inside(node) else 'outside'}"
    if node.GetName() != name:
        node.SetName(name)
    display = node.GetDisplayNode()
    if display is not None and tuple(display.GetSelectedColor()) != tuple(segment.GetColor()):
        display.SetSelectedColor(*segment.GetColor())
        display.SetColor(*segment.GetColor())


def _is_inside(node: Any) -> bool:
    return bool(node.GetAttribute(INSIDE) != "0")


def _each(segmentation_node: Any) -> Iterator[tuple[Any, int, int]]:
    """Node, index of the control point and number of each placed click; of a stroke the index is 0."""
    for node in mark_nodes(segmentation_node):
        if node.GetAttribute(RADIUS) is not None:
            if len(_placed(node)):
                yield node, 0, int(node.GetAttribute(NUMBER) or 0)
            continue
        for index in _placed(node):
            found = _NUMBERED.fullmatch(node.GetNthControlPointDescription(index) or "")
            yield node, index, int(found.group(1)) if found else 0


def _placed(node: Any) -> list[int]:
    count = node.GetNumberOfControlPoints()
    return [n for n in range(count) if node.GetNthControlPointPositionStatus(n) == node.PositionDefined]


def _positions(node: Any, indices: Sequence[int]) -> npt.NDArray[np.float64]:
    points = np.zeros((len(indices), 3))
    for row, index in enumerate(indices):
        position = [0.0, 0.0, 0.0]
        node.GetNthControlPointPositionWorld(index, position)
        points[row] = position
    return points


def _line(node: Any) -> npt.NDArray[np.float64]:
    """The points of a stroke's line as it is shown."""
    slicer = ensure_slicer()
    linear = node.GetCurveType() == slicer.vtkCurveGenerator.CURVE_TYPE_LINEAR_SPLINE
    drawn = None if linear else node.GetCurvePointsWorld()
    if drawn is None or not drawn.GetNumberOfPoints():
        return _positions(node, _placed(node))
    return np.array([drawn.GetPoint(n) for n in range(drawn.GetNumberOfPoints())])


def _move(node: Any, index: int, mark: Mark) -> None:
    if mark.radius_mm is None:
        if not np.allclose(_positions(node, [index]), mark.points, atol=1e-6, rtol=0):
            node.SetNthControlPointPositionWorld(index, *mark.points[0].tolist())
        return
    if node.GetAttribute(RADIUS) != repr(mark.radius_mm):
        node.SetAttribute(RADIUS, repr(mark.radius_mm))
    now = _line(node)
    if now.shape != mark.points.shape or not np.allclose(now, mark.points, atol=1e-6, rtol=0):
        node.RemoveAllControlPoints()
        node.SetCurveTypeToLinear()
        for point in mark.points:
            node.AddControlPointWorld(*point.tolist())
