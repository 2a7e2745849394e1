"""Doubtful slices and tables in the scene, and the example that the logic's description gives."""

from __future__ import annotations

import doctest
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from geometries import matrix, rotation
from ReCoKDLib.errors import InputError
from ReCoKDLib.labels import LabelSet
from ReCoKDLib.mrml.segmentations import segmentation_to_node
from ReCoKDLib.mrml.volumes import volume_from_node, volume_to_node, vtk_matrix
from ReCoKDLib.table import segment_sizes
from ReCoKDLib.volume import Volume

TwoBlobs = Callable[..., tuple[Volume, Volume]]
Matrix = npt.NDArray[np.float64]

TURNED = matrix(rotation((12.0, -7.0, 20.0)), (1.0, 1.0, 1.0), (5.0, -3.0, 11.0))


@pytest.fixture
def logic(recokd: Any) -> Any:
    return recokd.ReCoKDLogic()


def test_confidence_lies_where_the_volume_is_shown(
    slicer: Any, logic: Any, two_blobs: TwoBlobs, blob_student: str
) -> None:
    from ReCoKDLib.interaction.doubt import confidence
    from ReCoKDLib.segment import segment

    image, _ = two_blobs()
    volume_node = volume_to_node(image)
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "t")
    transform.SetMatrixTransformToParent(vtk_matrix(TURNED))
    volume_node.SetAndObserveTransformNodeID(transform.GetID())
    node = logic.segment(volume_node, blob_student)
    made, slices = logic.doubtfulSlices(node, threshold=0.9, smallest_mm3=1.0)
    volume, found = volume_from_node(volume_node), volume_from_node(made)
    assert found.same_grid(volume)
    result = segment(volume, blob_student, probabilities=True)
    assert result.probabilities is not None
    assert np.allclose(found.array, confidence(result.probabilities, result.label_set).array)
    assert made.GetName() == "two blobs segmentation confidence"
    assert (made.GetDisplayNode().GetWindowLevelMin(), made.GetDisplayNode().GetWindowLevelMax()) == (0.0, 1.0)
    assert slices
    assert [s.score for s in slices] == sorted((s.score for s in slices), reverse=True)
    for one in slices:
        i, j, k = np.rint((np.linalg.inv(volume.ijk_to_ras) @ (*one.position_ras, 1.0))[:3]).astype(int)
        assert (k, j, i)[one.axis] == one.index
        assert found.array[0, k, j, i] < 0.9
    again, _ = logic.doubtfulSlices(node)
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 2
    assert again.GetScene() is not None


def test_slice_views_jump_to_a_doubtful_slice(slicer: Any, logic: Any, two_blobs: TwoBlobs, blob_student: str) -> None:
    node = logic.segment(volume_to_node(two_blobs(TURNED)[0]), blob_student)
    _, slices = logic.doubtfulSlices(node, threshold=0.9, smallest_mm3=1.0)
    views = []
    for name in ("Red", "Green"):
        view = slicer.vtkMRMLSliceNode()
        view.SetLayoutName(name)
        views.append(slicer.mrmlScene.AddNode(view))
    views[1].SetSliceToRASByNTP(0.5, 0.5, 0.7, 1, -1, 0, 0, 0, 0, 0)

    def distance(view: Any) -> float:
        to_ras = np.array([[view.GetSliceToRAS().GetElement(r, c) for c in range(4)] for r in range(4)])
        return float(abs(to_ras[:3, 2] @ (to_ras[:3, 3] - slices[0].position_ras)))

    logic.jumpTo(slices[0])
    assert all(distance(view) < 1e-6 for view in views)
    logic.jumpTo((0.0, 0.0, 0.0), [views[0]])
    assert distance(views[1]) < 1e-6


def test_only_the_region_that_the_student_saw_has_confidence(
    slicer: Any, logic: Any, two_blobs: TwoBlobs, blob_student: str
) -> None:
    image, _ = two_blobs(TURNED)
    roi = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "roi")
    roi.SetCenterWorld(*(image.ijk_to_ras @ (9, 8, 7, 1.0))[:3])
    roi.SetSize(10.0, 10.0, 10.0)
    volume_node = volume_to_node(image)
    made, _ = logic.doubtfulSlices(logic.segment(volume_node, blob_student, roiNode=roi))
    assert volume_from_node(made).array.size < image.array.size
    offset = np.linalg.inv(image.ijk_to_ras) @ volume_from_node(made).ijk_to_ras
    assert np.allclose(offset[:3, 3], np.rint(offset[:3, 3]), atol=1e-6)


def test_without_a_student_nothing_is_known(
    slicer: Any, logic: Any, two_blobs: TwoBlobs, blob_labels: LabelSet
) -> None:
    image, labels = two_blobs()
    node = segmentation_to_node(labels, blob_labels, volume_to_node(image))
    with pytest.raises(InputError, match="Nothing is known of how sure a student was"):
        logic.doubtfulSlices(node)


def test_the_table_has_the_numbers_of_the_csv(
    slicer: Any, logic: Any, two_blobs: TwoBlobs, blob_labels: LabelSet, any_geometry: Matrix
) -> None:
    image, labels = two_blobs(any_geometry)
    node = segmentation_to_node(labels, blob_labels, volume_to_node(image))
    node.GetSegmentation().AddEmptySegment("", "nothing")
    table = logic.volumeTable(node)
    assert [table.GetColumnName(c) for c in range(3)] == ["Segment", "Voxels", "Volume [ml]"]
    assert [table.GetTable().GetColumn(c).GetDataTypeAsString() for c in range(3)] == ["string", "long long", "double"]
    expected = [(s.segment.name, s.voxels, s.millilitres) for s in segment_sizes(labels, blob_labels.segments)]
    rows = [[table.GetTable().GetValue(r, c) for c in range(3)] for r in range(3)]
    for row, (name, voxels, millilitres) in zip(rows, [*expected, ("nothing", 0, 0.0)], strict=True):
        assert row[0].ToString() == name
        assert row[1].ToLongLong() == voxels
        assert row[2].ToDouble() == pytest.approx(millilitres)
    again = logic.volumeTable(node, table)
    assert again is table
    assert table.GetNumberOfColumns() == 3


def test_a_stretching_transform_counts_in_the_table(
    slicer: Any, logic: Any, two_blobs: TwoBlobs, blob_labels: LabelSet
) -> None:
    image, labels = two_blobs()
    volume_node = volume_to_node(image)
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "t")
    transform.SetMatrixTransformToParent(vtk_matrix(np.diag([2.0, 1.0, 1.0, 1.0])))
    volume_node.SetAndObserveTransformNodeID(transform.GetID())
    node = segmentation_to_node(volume_from_node(volume_node).with_array(labels.array), blob_labels, volume_node)
    table = logic.volumeTable(node).GetTable()
    assert table.GetValue(0, 2).ToDouble() == pytest.approx(2 * (labels.array == 1).sum() / 1000)


def test_the_example_in_the_description_runs(
    recokd: Any, slicer: Any, students: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Word for word, with the shipped student and a sample case."""

    def load_volume(path: str) -> Any:
        storage = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLVolumeArchetypeStorageNode")
        storage.SetFileName(path)
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", Path(path).stem)
        assert storage.ReadData(node)
        return node

    monkeypatch.setattr(slicer.util, "loadVolume", load_volume)  # the real one asks the application
    example = doctest.DocTestParser().get_doctest(
        recokd.ReCoKDLogic.__doc__, {"slicer": slicer}, "ReCoKDLogic", None, None
    )
    assert len(example.examples) > 8
    result = doctest.DocTestRunner(verbose=False).run(example)
    assert result.failed == 0
