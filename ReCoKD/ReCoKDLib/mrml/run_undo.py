"""Taking a student's run back: the segmentation becomes what it was, a new one goes away."""

from __future__ import annotations

from typing import Any

from .host import ensure_slicer
from .record import RECORD, STUDENT
from .sessions import run_ended

_ATTRIBUTES = (STUDENT, RECORD)


class RunUndo:
    """How a segmentation was before a run.

    Args:
        segmentation_node: The one that the run is to change; None where it is to make a new one.
    """

    def __init__(self, segmentation_node: Any) -> None:
        self._before: Any = None
        self._attributes: dict[str, Any] = {}
        if segmentation_node is not None:
            self._before = ensure_slicer().vtkSegmentation()
            self._before.DeepCopy(segmentation_node.GetSegmentation())
            self._attributes = {name: segmentation_node.GetAttribute(name) for name in _ATTRIBUTES}

    def take_back(self, segmentation_node: Any) -> Any:
        """Make the segmentation what it was.

        Returns:
            The node; None if the run had made it, so that it is removed.
        """
        scene = ensure_slicer().mrmlScene
        if not scene.IsNodePresent(segmentation_node):
            return None
        if self._before is None:
            scene.RemoveNode(segmentation_node)
            return None
        modified = segmentation_node.StartModify()
        try:
            segmentation_node.GetSegmentation().DeepCopy(self._before)
            for name, value in self._attributes.items():
                segmentation_node.SetAttribute(name, value)
        finally:
            segmentation_node.EndModify(modified)
        run_ended(segmentation_node, None)
        return segmentation_node
