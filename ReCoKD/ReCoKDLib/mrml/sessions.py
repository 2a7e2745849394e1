"""The segmentations that are being corrected, and what their students said; gone with the node and with the scene."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..errors import InputError
from ..part import Slices
from ..volume import Volume
from .evidence import Question, question_of
from .host import ensure_slicer
from .record import FIRST_ROLE, read_record, seen_part, volume_nodes
from .refining import Refining
from .volumes import ijk_to_node, volume_from_nodes

# By node id, for all logics of the process: a new ReCoKDLogic in the console goes on where the panel's was.
_probabilities: dict[str, Volume] = {}
_open: dict[str, Refining] = {}
_observed: list[Any] = []


def refining(segmentation_node: Any) -> Refining:
    """The corrections of a segmentation, opened at the first call.

    Raises:
        InputError: There is no segmentation, it was removed, or no volume belongs to it.
    """
    slicer = ensure_slicer()
    if segmentation_node is None or not segmentation_node.IsA("vtkMRMLSegmentationNode"):
        raise InputError("No segmentation was chosen. Choose one, or segment a volume first.")
    if not slicer.mrmlScene.IsNodePresent(segmentation_node):
        raise InputError("The segmentation was removed, so it cannot be corrected. Segment the volume again.")
    _observe(slicer)
    key = segmentation_node.GetID()
    found = _open.get(key)
    if found is None or found.node is not segmentation_node:
        found = _open[key] = Refining(segmentation_node, _probabilities.pop(key, None))
    return found


def open_question(segmentation_node: Any) -> Question | None:
    """What a student has to be asked before a segmentation can be corrected; None if nothing.

    After a scene was reopened, or the volume changed, nobody knows any more how sure the student was. :func:`refining`
    would ask it here, which takes as long as a run; who does not want to wait asks it elsewhere, and gives the answer
    to :func:`run_ended` first.

    Raises:
        InputError: The volume is not the one that was segmented, or is under a warp.
    """
    key = segmentation_node.GetID()
    session = _open.get(key)
    known = session is not None and session.node is segmentation_node and session.is_current
    nodes = volume_nodes(segmentation_node)
    if known or key in _probabilities or not nodes:
        return None
    record = read_record(segmentation_node)

    def seen() -> tuple[Volume, Slices]:
        world = volume_from_nodes(nodes)
        return world, seen_part(record, replace(world, ijk_to_ras=ijk_to_node(nodes[0])))

    return question_of(record, seen)


def run_ended(segmentation_node: Any, probabilities: Volume | None) -> None:
    """A student has just said this of a segmentation's volume: corrections begin anew."""
    _observe(ensure_slicer())
    key = segmentation_node.GetID()
    _open.pop(key, None)
    _probabilities.pop(key, None)
    if probabilities is not None:
        _probabilities[key] = probabilities


def _observe(slicer: Any) -> None:
    """Watch the scene, once."""
    import vtk

    scene = slicer.mrmlScene
    if any(watched is scene for watched in _observed):
        return

    @vtk.calldata_type(vtk.VTK_OBJECT)  # type: ignore[untyped-decorator]
    def removed(caller: Any, event: Any, node: Any) -> None:
        if node is None or not node.IsA("vtkMRMLSegmentationNode"):
            return
        _open.pop(node.GetID(), None)
        _probabilities.pop(node.GetID(), None)
        # The label map from which its clicks began is hidden: nobody else would take it away.
        first = node.GetNodeReference(FIRST_ROLE)
        if first is not None and not caller.IsClosing():
            caller.RemoveNode(first)

    def closed(caller: Any, event: Any) -> None:
        _open.clear()
        _probabilities.clear()

    scene.AddObserver(scene.NodeAboutToBeRemovedEvent, removed)
    scene.AddObserver(scene.StartCloseEvent, closed)
    _observed.append(scene)
