"""Where a student is not sure, in the scene: a confidence volume, and slice views that jump to doubtful places."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..errors import InputError
from ..interaction.doubt import DoubtfulSlice, confidence, doubtful_slices, mirrored_probabilities
from ..volume import Volume
from .hierarchy import place_beside
from .host import ensure_slicer
from .record import read_record, volume_nodes
from .refining import Refining
from .volumes import volume_from_nodes, volume_to_node, world_from_node

CONFIDENCE_ROLE = "ReCoKD.confidence"


def doubtful_slices_of(
    refining: Refining,
    *,
    mirrored: bool = False,
    axis: int | None = None,
    threshold: float = 0.5,
    smallest_mm3: float = 10.0,
    device: str = "auto",
    cancelled: Callable[[], bool] | None = None,
) -> tuple[Any, list[DoubtfulSlice]]:
    """The confidence of the student that made a segmentation, and the slices worth a look, most doubtful first.

    Args:
        refining: The segmentation.
        mirrored: Ask the student about mirror images of the volume too: slower, and finds more.
        axis: As in :func:`ReCoKDLib.interaction.doubt.doubtful_slices`, as are the others.
        threshold: See there.
        smallest_mm3: See there.
        device: Where mirrored runs are made.
        cancelled: Asked between runs.

    Returns:
        The confidence as ``vtkMRMLScalarVolumeNode`` in the volume's place (that of an earlier call is replaced), and
        the slices; their positions are RAS of the world.

    Raises:
        InputError: There are no probabilities: no student made the segmentation, it is not here any more, or its
            answer is too large to keep.
        Cancelled: ``cancelled`` said so.
    """
    labels = refining.labels
    found = refining.probabilities
    if found is None:
        raise InputError(
            f"Nothing is known of how sure a student was of {refining.node.GetName()!r}. Segment the volume with a "
            "student, or a smaller part of it (with a region of interest)."
        )
    probabilities, label_set = found
    seen = labels.cropped(refining.part)
    runs: Volume | list[Volume] = seen.with_array(probabilities.array)
    if mirrored:
        runs = _mirrored(refining, seen, label_set, device, cancelled)
    sure = confidence(runs, label_set)
    slices = doubtful_slices(sure, seen, refining.label_set, axis=axis, threshold=threshold, smallest_mm3=smallest_mm3)
    return _show(refining.node, sure), slices


def jump_to(position_ras: Sequence[float], slice_nodes: Sequence[Any] | None = None) -> None:
    """Make slice views show a place, in their centre.

    Args:
        position_ras: World, mm; a :class:`DoubtfulSlice` has it.
        slice_nodes: ``vtkMRMLSliceNode`` of the views; None for all of the scene.
    """
    slicer = ensure_slicer()
    if slice_nodes is None:
        nodes = slicer.mrmlScene.GetNodesByClass("vtkMRMLSliceNode")
        nodes.UnRegister(None)
        slice_nodes = [nodes.GetItemAsObject(index) for index in range(nodes.GetNumberOfItems())]
    for node in slice_nodes:
        node.JumpSliceByCentering(*(float(value) for value in position_ras))


def _mirrored(
    refining: Refining, seen: Volume, label_set: Any, device: str, cancelled: Callable[[], bool] | None
) -> list[Volume]:
    from ..prediction import Predictor
    from ..students import find_student

    record = read_record(refining.node)
    package = find_student(record.student)
    part = volume_from_nodes(volume_nodes(refining.node)).cropped(refining.part)
    predictor = Predictor.from_package(package, device, mirroring=True)
    if not predictor.mirror_axes:
        raise InputError(
            f"The student {record.student} was not trained on mirror images, so they say nothing about its doubt. Look "
            "for doubtful slices without them."
        )
    if [s.name for s in label_set.segments] != [s.name for s in package.label_set.segments]:
        raise InputError(
            "Mirrored runs need all of the student's segments under their own names. Look for doubtful slices without."
        )
    return [seen.with_array(run.array) for run in mirrored_probabilities(predictor, part, cancelled)]


def _show(segmentation_node: Any, sure: Volume) -> Any:
    slicer = ensure_slicer()
    volume_node = volume_nodes(segmentation_node)[0]
    node = segmentation_node.GetNodeReference(CONFIDENCE_ROLE)
    name = f"{segmentation_node.GetName()} confidence"
    # In the volume's own coordinates, under its transform, so that it moves with it.
    own = np.linalg.inv(world_from_node(volume_node)) @ sure.ijk_to_ras
    made = volume_to_node(replace(sure, ijk_to_ras=own), name=name)
    made.SetAndObserveTransformNodeID(volume_node.GetTransformNodeID())
    display = made.GetDisplayNode()
    display.SetAutoWindowLevel(False)
    display.SetWindowLevelMinMax(0.0, 1.0)
    display.SetInterpolate(False)
    if node is not None:
        slicer.mrmlScene.RemoveNode(node)
    segmentation_node.SetNodeReferenceID(CONFIDENCE_ROLE, made.GetID())
    place_beside(made, segmentation_node)
    return made
