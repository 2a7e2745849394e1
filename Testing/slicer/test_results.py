"""A student's run in the scene: regions of interest, locks, channels, places, and what DICOM export needs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from geometries import matrix, rotation
from ReCoKDLib.errors import InputError
from ReCoKDLib.labels import LabelSet, Segment
from ReCoKDLib.mrml.roi import bounding_voxels, box_from_node, voxels_inside
from ReCoKDLib.mrml.segmentations import labels_from_node, segmentation_to_node
from ReCoKDLib.mrml.volumes import volume_from_node, volume_to_node, vtk_matrix
from ReCoKDLib.volume import Volume

Matrix = npt.NDArray[np.float64]
TwoBlobs = Callable[..., tuple[Volume, Volume]]

TURNED = matrix(rotation((12.0, -7.0, 20.0)), (1.0, 1.0, 1.0), (5.0, -3.0, 11.0))
NAMES = ("Anterior", "Größe hinten")


@pytest.fixture
def logic(recokd: Any) -> Any:
    return recokd.ReCoKDLogic()


def transform(slicer: Any, place: Matrix) -> Any:
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "t")
    node.SetMatrixTransformToParent(vtk_matrix(place))
    return node


def region(slicer: Any, volume: Volume, kji: tuple[float, float, float], size: tuple[float, float, float]) -> Any:
    """A ROI around a voxel, turned by 30 degrees and under a transform."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "the region")
    node.SetSize(*size)
    place = np.eye(4)
    place[:3, :3] = rotation((0.0, 10.0, 30.0))
    above = matrix(rotation((5.0, 0.0, 0.0)), (1.0, 1.0, 1.0), (3.0, -2.0, 1.0))
    place[:3, 3] = (np.linalg.inv(above) @ volume.ijk_to_ras @ (*kji[::-1], 1.0))[:3]
    node.SetAndObserveObjectToNodeMatrix(vtk_matrix(place))
    node.SetAndObserveTransformNodeID(transform(slicer, above).GetID())
    return node


def in_region(node: Any, volume: Volume) -> npt.NDArray[np.bool_]:
    """Slicer's own answer which voxels' centres lie in a ROI."""
    k, j, i = np.indices(volume.shape).reshape(3, -1)
    places = (volume.ijk_to_ras @ np.stack((i, j, k, np.ones_like(i))))[:3].T
    inside = [bool(node.IsPointInROIWorld(place.tolist())) for place in places]
    return np.reshape(inside, volume.shape)


def masks(slicer: Any, node: Any, volume_node: Any) -> dict[str, npt.NDArray[np.bool_]]:
    segmentation = node.GetSegmentation()
    ids = [segmentation.GetNthSegmentID(n) for n in range(segmentation.GetNumberOfSegments())]
    return {
        segmentation.GetSegment(i).GetName(): slicer.util.arrayFromSegmentBinaryLabelmap(node, i, volume_node) > 0
        for i in ids
    }


# Regions of interest


def test_a_region_is_slicers(slicer: Any, two_blobs: TwoBlobs, any_geometry: Matrix) -> None:
    volume = two_blobs(any_geometry)[0]
    node = region(slicer, volume, (9, 10, 12), (9.0, 11.0, 14.0))
    box = box_from_node(node)
    block = bounding_voxels(box, volume)
    mine = np.zeros(volume.shape, bool)
    mine[block] = voxels_inside(box, volume, block)
    expected = in_region(node, volume)
    assert expected.any()
    assert np.array_equal(mine, expected)
    for axis, part in enumerate(block):  # and no larger than needed
        line = np.flatnonzero(expected.any(axis=tuple(a for a in range(3) if a != axis)))
        assert (part.start, part.stop) == (line[0], line[-1] + 1)


def test_a_new_segmentation_of_a_region_is_empty_elsewhere(
    slicer: Any, logic: Any, two_blobs: TwoBlobs, blob_student: str, blob_labels: LabelSet
) -> None:
    image, labels = two_blobs(TURNED)
    volume_node = volume_to_node(image)
    roi = region(slicer, image, (7, 8, 9), (14.0, 11.0, 12.0))
    node = logic.segment(volume_node, blob_student, roiNode=roi)
    found = labels_from_node(node, blob_labels, image).array[0]
    inside = in_region(roi, image)
    assert (found[inside] > 0).any()
    assert not found[~inside].any()
    # The student sees intensities of the region alone, so a few voxels may be told apart otherwise.
    assert (found[inside] == labels.array[0][inside]).mean() > 0.9
    assert node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole()) is volume_node


def test_a_region_of_a_ct_is_that_of_the_whole_and_costs_what_is_new(
    slicer: Any, logic: Any, students: Path, any_geometry: Matrix, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where intensities are normalised by fixed numbers. The student, asked again, says the same of the region."""
    from packages import small_card
    from plans import TWO_LABELS, small_plan
    from ReCoKDLib.engines.base import TorchEngine
    from ReCoKDLib.mrml.sessions import open_question, refining, run_ended
    from ReCoKDLib.networks import build_network
    from ReCoKDLib.package import write_package

    plan = small_plan(features=(4, 8), schemes=("CTNormalization",), spacing=(1.2, 1.0, 1.1))
    weights = build_network(plan.architecture, 1, TWO_LABELS.number_of_heads).state_dict()
    write_package(students / "ct.recokd.zip", small_card("ct-x4", orientation="RAS"), plan, TWO_LABELS, [weights])
    tiles: list[int] = []
    plain = TorchEngine.__call__

    def counted(self: Any, given: Any) -> Any:
        tiles.append(1)
        return plain(self, given)

    monkeypatch.setattr(TorchEngine, "__call__", counted)

    def count() -> int:
        number = len(tiles)
        tiles.clear()
        return number

    image = Volume(np.random.default_rng(0).normal(100, 50, (1, 22, 34, 30)).astype(np.float32), any_geometry)
    node = volume_to_node(image)
    logic.forget()
    whole = labels_from_node(logic.segment(node, "ct-x4"), TWO_LABELS, image).array[0]
    all_tiles = count()
    roi = region(slicer, image, (10, 15, 13), (5.0, 6.0, 7.0))
    inside = in_region(roi, image)
    assert inside.any()
    kept = logic.segment(node, "ct-x4", roiNode=roi)
    assert count() == 0
    logic.forget()
    made = logic.segment(node, "ct-x4", roiNode=roi)
    first = count()
    assert 0 < first <= all_tiles
    for each in (kept, made):
        found = labels_from_node(each, TWO_LABELS, image).array[0]
        assert np.array_equal(found, np.where(inside, whole, 0))
    roi.SetSize(12.0, 13.0, 14.0)
    logic.segment(node, "ct-x4", roiNode=roi)
    grown = count()
    logic.segment(node, "ct-x4")
    assert grown + count() == all_tiles - first
    # As when the scene is reopened.
    before = refining(made).probabilities
    run_ended(made, None)
    question = open_question(made)
    assert question is not None
    assert question.options["region"] is not None
    again = refining(made).probabilities
    assert before is not None
    assert again is not None
    assert np.allclose(again[0].array.astype(float), before[0].array.astype(float), rtol=0, atol=1e-3)


def test_outside_of_the_region_an_existing_segmentation_stays(
    slicer: Any, logic: Any, two_blobs: TwoBlobs, blob_student: str
) -> None:
    image, _ = two_blobs()
    volume_node = volume_to_node(image)
    mine = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "mine")
    mine.CreateDefaultDisplayNodes()
    mine.SetReferenceImageGeometryParameterFromVolumeNode(volume_node)
    mine.GetSegmentation().AddEmptySegment("s1", "ANTERIOR")
    mine.GetSegmentation().AddEmptySegment("s2", "cyst")
    drawn = np.ones(image.shape, np.uint8)
    for segment_id in ("s1", "s2"):
        slicer.util.updateSegmentBinaryLabelmapFromArray(drawn, mine, segment_id, volume_node)
    roi = region(slicer, image, (7, 8, 9), (14.0, 11.0, 12.0))
    fresh = masks(slicer, logic.segment(volume_node, blob_student, roiNode=roi), volume_node)
    assert logic.segment(volume_node, blob_student, mine, roiNode=roi) is mine
    inside = in_region(roi, image)
    after = masks(slicer, mine, volume_node)
    assert list(after) == ["ANTERIOR", "cyst", "Größe hinten"]
    assert after["ANTERIOR"][~inside].all()
    assert np.array_equal(after["ANTERIOR"][inside], fresh["Anterior"][inside])
    assert np.array_equal(after["Größe hinten"], fresh["Größe hinten"])
    assert after["cyst"].all()
    assert mine.GetSegmentation().GetNthSegmentID(0) == "s1"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda roi: roi.SetSize(0.0, 5.0, 5.0), "is empty"),
        (lambda roi: roi.SetInsideOut(True), "inside out"),
        (lambda roi: roi.SetCenterWorld(900.0, 0.0, 0.0), "holds no voxel of the volume 'two blobs'"),
    ],
    ids=["flat", "inside out", "elsewhere"],
)
def test_unfit_regions_are_said_in_words(
    slicer: Any, logic: Any, two_blobs: TwoBlobs, blob_student: str, change: Any, said: str
) -> None:
    image, _ = two_blobs()
    roi = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "the region")
    roi.SetCenterWorld(0.0, 15.0, 20.0)
    roi.SetSize(5.0, 5.0, 5.0)
    change(roi)
    with pytest.raises(InputError, match=said):
        logic.segment(volume_to_node(image), blob_student, roiNode=roi)


def test_what_is_no_region_is_said_in_words(logic: Any, two_blobs: TwoBlobs, blob_student: str) -> None:
    node = volume_to_node(two_blobs()[0])
    with pytest.raises(InputError, match="not a ROI node"):
        logic.segment(node, blob_student, roiNode=node)


def test_a_warped_region_is_refused(slicer: Any, logic: Any, two_blobs: TwoBlobs, blob_student: str) -> None:
    image, _ = two_blobs()
    roi = region(slicer, image, (7, 8, 9), (14.0, 11.0, 12.0))
    warp = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLBSplineTransformNode", "warp")
    roi.SetAndObserveTransformNodeID(warp.GetID())
    with pytest.raises(InputError, match="not linear"):
        logic.segment(volume_to_node(image), blob_student, roiNode=roi)


# Locks


@pytest.mark.parametrize("how", ["argument", "status"])
def test_locked_segments_stay(
    slicer: Any, logic: Any, two_blobs: TwoBlobs, blob_student: str, blob_labels: LabelSet, how: str
) -> None:
    image, labels = two_blobs()
    volume_node = volume_to_node(image)
    swapped = labels.with_array(np.array([0, 2, 1], np.uint8)[labels.array])
    node = segmentation_to_node(swapped, blob_labels, volume_node)
    status = slicer.vtkSlicerSegmentationsModuleLogic
    if how == "status":
        status.SetSegmentStatus(node.GetSegmentation().GetSegment("Anterior"), status.Completed)
    logic.segment(volume_node, blob_student, node, locked=["anterior"] if how == "argument" else ())
    after = masks(slicer, node, volume_node)
    assert np.array_equal(after["Anterior"], labels.array[0] == 2)
    # The other one is found where it lies, and that is where the locked one is: nothing is written there.
    assert not after["Größe hinten"].any()


def test_an_unknown_lock_is_said_in_words(
    logic: Any, two_blobs: TwoBlobs, blob_student: str, blob_labels: LabelSet
) -> None:
    image, labels = two_blobs()
    volume_node = volume_to_node(image)
    node = segmentation_to_node(labels, blob_labels, volume_node)
    with pytest.raises(InputError, match="no segment called 'spleen'"):
        logic.segment(volume_node, blob_student, node, locked=["spleen"])


# Volumes


def test_two_channels_from_two_nodes(slicer: Any, logic: Any, two_blobs: TwoBlobs, students: Path) -> None:
    from packages import small_card
    from plans import TWO_LABELS, small_plan
    from ReCoKDLib.card import ChannelInfo
    from ReCoKDLib.networks import build_network
    from ReCoKDLib.package import write_package

    plan = small_plan(features=(4, 8), schemes=("ZScoreNormalization",) * 2)
    weights = build_network(plan.architecture, 2, TWO_LABELS.number_of_heads).state_dict()
    card = small_card("pair-x4", channels=(ChannelInfo("T1", "MR", ""), ChannelInfo("T2", "MR", "")))
    write_package(students / "pair.recokd.zip", card, plan, TWO_LABELS, [weights])
    first, second = (volume_to_node(two_blobs(TURNED, seed=seed)[0], name=f"T{seed}") for seed in (1, 2))
    with pytest.raises(InputError, match="needs 2 input channel"):
        logic.segment(first, "pair-x4")
    node = logic.segment([first, second], "pair-x4")
    assert node.GetName() == "T1 segmentation"
    names = node.GetSegmentation().GetNthSegment(0).GetName()
    centre = (volume_from_node(first).ijk_to_ras @ (12, 10, 9, 1.0))[:3]
    logic.click(node, names, centre)  # corrections find both channels again
    slicer.mrmlScene.RemoveNode(second)
    with pytest.raises(InputError, match="needs 2 input channel"):
        logic.click(node, names, centre)


def test_nested_transforms(
    slicer: Any, logic: Any, two_blobs: TwoBlobs, blob_student: str, blob_labels: LabelSet
) -> None:
    image, labels = two_blobs()
    node = volume_to_node(image)
    inner, outer = transform(slicer, TURNED), transform(slicer, np.diag([1.0, -1.0, 1.0, 1.0]))
    node.SetAndObserveTransformNodeID(inner.GetID())
    inner.SetAndObserveTransformNodeID(outer.GetID())
    made = logic.segment(node, blob_student)
    shown = Volume(image.array, np.diag([1.0, -1.0, 1.0, 1.0]) @ TURNED @ image.ijk_to_ras)
    assert np.array_equal(labels_from_node(made, blob_labels, shown).array, labels.array)
    assert made.GetTransformNodeID() == inner.GetID()


def test_a_warped_volume_is_refused(slicer: Any, logic: Any, two_blobs: TwoBlobs, blob_student: str) -> None:
    node = volume_to_node(two_blobs()[0])
    warp = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLBSplineTransformNode", "warp")
    node.SetAndObserveTransformNodeID(warp.GetID())
    with pytest.raises(InputError, match="not linear"):
        logic.segment(node, blob_student)


# What DICOM export needs


def test_result_stands_under_the_volumes_study_with_codes_and_reference(
    slicer: Any, logic: Any, two_blobs: TwoBlobs, students: Path
) -> None:
    from threshold_student import threshold_package

    uncoded = LabelSet((Segment("one", 1, (1,), (1, 0, 0)), Segment("two", 2, (2,), (0, 1, 0))))
    threshold_package(students / "uncoded.recokd.zip", *two_blobs(), uncoded, name="uncoded")
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    patient = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), "patient")
    study = hierarchy.CreateStudyItem(patient, "study")
    volume_node = volume_to_node(two_blobs()[0])
    hierarchy.CreateItem(study, volume_node)
    node = logic.segment(volume_node, "uncoded")
    logic.click(node, "one", (0.0, 15.0, 20.0))
    _, _ = logic.doubtfulSlices(node)
    logic.volumeTable(node)
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)) == study
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(logic.clickNode(node, "one"))) == study
    assert node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole()) is volume_node
    for n in range(2):
        context, category, kind, *_ = node.GetSegmentation().GetNthSegment(n).GetTerminology().split("~")
        assert context
        assert all(len([part for part in code.split("^") if part]) == 3 for code in (category, kind))
