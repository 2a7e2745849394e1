"""Corrections of a segmentation node as the console and the panel ask for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..interaction.corrections import Click, Correction, Stroke
from . import clicks
from .record import require_volumes, segment_id_of
from .refining import Refined
from .roi import box_from_node
from .sessions import refining


def click_node_of(segmentation_node: Any, segment: str, inside: bool = True) -> Any:
    """The Markups list of the points inside, or outside, a segment, given by its name or id.

    Raises:
        InputError: There is no such segment, or no volume belongs to the segmentation.
    """
    refining(segmentation_node)
    segment_id = segment_id_of(segmentation_node, segment)
    return clicks.click_node(segmentation_node, require_volumes(segmentation_node)[0], segment_id, inside)


def refine_node(segmentation_node: Any, corrections: Sequence[Correction] = (), locked: Sequence[str] = ()) -> Refined:
    """Put corrections into the scene and carry out all clicks that are there; one step of undo.

    Args:
        segmentation_node: The segmentation.
        corrections: With names or ids of segments. Instead of their own locks and boxes, the segmentation's count.
        locked: Names or ids of segments that new clicks leave alone, besides those marked as completed.

    Raises:
        ReCoKDError: A correction cannot be carried out; those given are then not in the scene.
    """
    work = refining(segmentation_node)
    ids = [segment_id_of(segmentation_node, correction.segment) for correction in corrections]
    marks = clicks.read_marks(segmentation_node)
    before = {_key(mark) for mark in marks}
    # Numbers, so that clicks of several lists keep the order in which they are given.
    number = work.next_number(marks)
    volume_node = require_volumes(segmentation_node)[0]
    for segment_id, correction in zip(ids, corrections, strict=True):
        where = (segmentation_node, volume_node, segment_id, correction.inside)
        if isinstance(correction, Stroke):
            clicks.add_stroke(*where, correction.points, correction.radius_mm, number)
        elif isinstance(correction, Click):
            clicks.add_click(*where, correction.points[0], number)
        number += 1
    try:
        return work.refine(locked)
    except Exception:
        for mark in reversed(clicks.read_marks(segmentation_node)):
            if _key(mark) not in before:
                clicks.remove_mark(mark)
        raise


def limit_clicks(segmentation_node: Any, roi_node: Any) -> None:
    """Let clicks from now on change nothing outside of a region of interest; it may be moved later.

    Args:
        segmentation_node: The segmentation.
        roi_node: ``vtkMRMLMarkupsROINode``; None for no limit.

    Raises:
        InputError: The region is empty, or no ROI.
    """
    if roi_node is not None:
        box_from_node(roi_node)
    segmentation_node.SetNodeReferenceID(clicks.LIMIT_ROLE, None if roi_node is None else roi_node.GetID())


def _key(mark: clicks.Mark) -> tuple[str, int]:
    return mark.node.GetID(), mark.index
