"""The panel shows what is found so far in the slices that the views show; nothing of it stays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from geometries import TURNED_LEFT_HANDED
from panel_user import choose, segment, segmentations, settle, start_held
from ReCoKDLib import previewing
from ReCoKDLib.labels import LabelSet
from ReCoKDLib.mrml.segmentations import labels_from_node
from ReCoKDLib.mrml.views import region_around, shown_planes
from ReCoKDLib.mrml.volumes import volume_to_node
from ReCoKDLib.preview import Preview
from ReCoKDLib.volume import Volume

TwoBlobs = Callable[..., tuple[Volume, Volume]]


@pytest.fixture
def one_view(slicer: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[Volume, tuple[int, int, int]], Any]:
    """A function that makes a slice view of the plane of constant k through a voxel; previews come at once."""
    monkeypatch.setattr(previewing, "SECONDS", 0.0)

    def make(volume: Volume, kji: tuple[int, int, int]) -> Any:
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSliceNode", "Red")
        node.SetMappedInLayout(1)
        hidden = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSliceNode", "Not in the layout")
        hidden.SetMappedInLayout(0)
        directions = volume.ijk_to_ras[:3, :3] / np.linalg.norm(volume.ijk_to_ras[:3, :3], axis=0)
        normal = np.cross(directions[:, 0], directions[:, 1])
        point = (volume.ijk_to_ras @ (*reversed(kji), 1.0))[:3]
        node.SetSliceToRASByNTP(*normal, *directions[:, 0], *point, 0)
        return node

    return make


def preview_node(slicer: Any) -> Any:
    found = [node for node in segmentations(slicer) if node.GetHideFromEditors()]
    assert len(found) <= 1
    return found[0] if found else None


@pytest.mark.parametrize("geometry", [np.eye(4), TURNED_LEFT_HANDED], ids=["plain", "oblique, left-handed"])
def test_it_appears_before_the_end_and_goes_with_it(
    host: Any,
    slicer: Any,
    two_blobs: TwoBlobs,
    blob_labels: LabelSet,
    blob_student: str,
    panel: Any,
    runs: Any,
    one_view: Any,
    geometry: Any,
) -> None:
    image, labels = two_blobs(geometry)
    node = volume_to_node(image, name="the head")
    one_view(image, (9, 10, 12))
    choose(panel.ui.studentComboBox, blob_student)
    start_held(host, panel, runs)
    (run,) = runs.started
    plain = run.on_preview
    seen: list[Any] = []

    def noted(preview: Any) -> None:
        plain(preview)
        shown = preview_node(slicer)
        host.app.processEvents()
        assert panel.ui.outputSelector.currentNode() is None
        assert not shown.GetSaveWithScene()
        assert shown.GetParentTransformNode() is node.GetParentTransformNode()
        seen.append((shown.GetName(), labels_from_node(shown, blob_labels, image).array[0]))

    run.on_preview = noted
    run.release()
    settle(host, panel)
    assert host.messages == []
    name, array = seen[-1]
    assert name == "the head preview, unfinished"
    expected = np.zeros_like(labels.array[0])
    expected[9] = labels.array[0][9]
    assert expected.any()
    assert np.array_equal(array, expected)
    (made,) = segmentations(slicer)
    assert np.array_equal(labels_from_node(made, blob_labels, image).array, labels.array)
    # Undo is one step, and leaves nothing.
    host.click(panel.ui.undoRunButton)
    assert segmentations(slicer) == []
    assert not panel.ui.undoRunButton.enabled


@pytest.mark.parametrize("end", ["cancel", "fail", "close", "cleanup"])
def test_nothing_of_it_stays_when_a_run_ends_early(
    host: Any,
    slicer: Any,
    two_blobs: TwoBlobs,
    blob_labels: LabelSet,
    blob_student: str,
    panel: Any,
    runs: Any,
    one_view: Any,
    end: str,
) -> None:
    image, labels = two_blobs()
    volume_to_node(image)
    one_view(image, (9, 10, 12))
    choose(panel.ui.studentComboBox, blob_student)
    segment(host, panel)
    (made,) = segmentations(slicer)
    nodes = slicer.mrmlScene.GetNumberOfNodes()
    modified = made.GetSegmentation().GetMTime()
    start_held(host, panel, runs)
    run = runs.started[-1]
    run.on_preview(Preview(np.array([[9, 10, 12]], np.int32), np.array([2], np.int32)))
    run.on_progress(0.5)
    assert panel.ui.statusLabel.text.startswith("Segmenting; the slice views show what is found so far...")
    assert preview_node(slicer) is not None
    assert made.GetSegmentation().GetMTime() == modified
    if end == "cancel":
        host.click(panel.ui.cancelButton)
    elif end == "fail":
        with pytest.raises(ZeroDivisionError):
            run.fail(ZeroDivisionError("a bug of ours"))
    elif end == "close":
        slicer.mrmlScene.Clear(0)
        assert segmentations(slicer) == []
        return
    else:
        panel.cleanup()
    assert segmentations(slicer) == [made]
    assert slicer.mrmlScene.GetNumberOfNodes() == nodes
    assert np.array_equal(labels_from_node(made, blob_labels, image).array, labels.array)


def test_of_a_region_only_its_inside_is_shown(
    host: Any, slicer: Any, two_blobs: TwoBlobs, blob_student: str, panel: Any, runs: Any, one_view: Any
) -> None:
    image, _ = two_blobs()
    node = volume_to_node(image)
    one_view(image, (9, 10, 12))
    region = region_around(node)
    region.SetSize(6.0, 6.0, 6.0)
    choose(panel.ui.studentComboBox, blob_student)
    panel.panel.parameters.roi = region
    start_held(host, panel, runs)
    far, near = [0, 0, 0], [n // 2 for n in image.shape]
    runs.started[0].on_preview(Preview(np.array([far, near], np.int32), np.array([1, 1], np.int32)))
    shown = preview_node(slicer)
    found = slicer.util.arrayFromSegmentBinaryLabelmap(shown, shown.GetSegmentation().GetNthSegmentID(0), node)
    assert np.argwhere(found).tolist() == [near]
    runs.started[0].cancel()


def test_no_preview_of_a_volume_that_was_removed(
    host: Any, slicer: Any, two_blobs: TwoBlobs, blob_student: str, panel: Any, runs: Any, one_view: Any
) -> None:
    image, _ = two_blobs()
    node = volume_to_node(image)
    one_view(image, (9, 10, 12))
    choose(panel.ui.studentComboBox, blob_student)
    start_held(host, panel, runs)
    slicer.mrmlScene.RemoveNode(node)
    runs.started[0].release()
    assert panel.ui.statusLabel.text == "The volume was removed meanwhile, so nothing was added."
    assert segmentations(slicer) == []


def test_slices_are_those_of_the_layout(slicer: Any, two_blobs: TwoBlobs, one_view: Any) -> None:
    image, _ = two_blobs(TURNED_LEFT_HANDED)
    one_view(image, (9, 10, 12))
    ((point, normal),) = shown_planes()
    assert np.allclose(point, (image.ijk_to_ras @ (12, 10, 9, 1))[:3], atol=1e-4)
    third = image.ijk_to_ras[:3, 2] / np.linalg.norm(image.ijk_to_ras[:3, 2])
    assert np.allclose(np.abs(np.dot(normal, third)), 1, atol=1e-6)
