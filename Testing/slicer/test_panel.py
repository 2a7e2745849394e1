"""The panel, used as a user does: one button, what becomes of its result, what is kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from geometries import TURNED_LEFT_HANDED
from panel_user import choose, segment, segmentations, settle
from ReCoKDLib import prediction
from ReCoKDLib.labels import LabelSet
from ReCoKDLib.memory import fitting_tile, smaller_tile
from ReCoKDLib.mrml.segmentations import labels_from_node
from ReCoKDLib.mrml.volumes import volume_to_node
from ReCoKDLib.volume import Volume

Matrix = npt.NDArray[np.float64]
TwoBlobs = Callable[..., tuple[Volume, Volume]]


def test_it_begins_short(host: Any, panel: Any, picture_of: Any) -> None:
    """What needs a result is not there before there is one."""
    assert not panel.ui.applyButton.enabled
    assert panel.ui.applyButton.toolTip == "Choose the volume to segment"
    shown = [name for name in vars(panel.ui) if name.endswith("Section") and getattr(panel.ui, name).isVisible()]
    assert sorted(shown) == ["InputSection", "SegmentSection", "StudentSection"]
    assert panel.ui.noticeLabel.text == "Research use only. Not a medical device."
    picture_of("panel-1-start")


@pytest.mark.parametrize("geometry", [np.eye(4), TURNED_LEFT_HANDED], ids=["plain", "oblique, left-handed"])
def test_one_button_makes_the_segmentation(
    host: Any,
    slicer: Any,
    two_blobs: TwoBlobs,
    blob_labels: LabelSet,
    blob_student: str,
    panel: Any,
    runs: Any,
    geometry: Matrix,
    picture_of: Any,
) -> None:
    """The main job: choose the volume, choose the student, press the button; the segments are where the blobs are."""
    image, labels = two_blobs(geometry)
    volume_to_node(two_blobs(seed=4)[0], name="another")
    node = volume_to_node(image, name="the head")
    choose(panel.ui.inputSelector, "the head")
    choose(panel.ui.studentComboBox, blob_student)
    settle(host, panel)
    runs.hold = True
    host.click(panel.ui.applyButton)
    host.run_for(0.1)
    assert panel.ui.progressBar.isVisible()
    assert panel.ui.progressBar.value == 25
    assert panel.ui.cancelButton.enabled
    assert not panel.ui.applyButton.enabled
    picture_of("panel-3-running")
    runs.started[0].release()
    settle(host, panel)

    (made,) = segmentations(slicer)
    assert made.GetName() == "the head segmentation"
    assert np.array_equal(labels_from_node(made, blob_labels, image).array, labels.array)
    assert made.GetNodeReference(made.GetReferenceImageGeometryReferenceRole()) is node
    assert made.GetAttribute("ReCoKD.student") == blob_student
    assert panel.ui.outputSelector.currentNode() is made
    surface = slicer.vtkSegmentationConverter.GetSegmentationClosedSurfaceRepresentationName()
    assert made.GetSegmentation().ContainsRepresentation(surface)
    assert host.messages == []
    assert not panel.ui.progressBar.isVisible()
    assert panel.ui.applyButton.enabled
    assert not panel.ui.cancelButton.enabled
    assert panel.ui.statusLabel.text.startswith("Anterior 0.332 ml, Größe hinten 0.286 ml (")
    assert [panel.ui.resultTable.item(row, 0).text() for row in range(2)] == ["Anterior", "Größe hinten"]
    assert [panel.ui.resultTable.item(row, 1).text() for row in range(2)] == ["0.332", "0.286"]
    picture_of("panel-4-result")


def test_3d_is_made_and_removed(host: Any, slicer: Any, two_blobs: TwoBlobs, blob_student: str, panel: Any) -> None:
    volume_to_node(two_blobs()[0])
    choose(panel.ui.studentComboBox, blob_student)
    host.click(panel.ui.showIn3DCheckBox)
    segment(host, panel)
    surface = slicer.vtkSegmentationConverter.GetSegmentationClosedSurfaceRepresentationName()
    (made,) = segmentations(slicer)
    assert not made.GetSegmentation().ContainsRepresentation(surface)
    host.click(panel.ui.showIn3DCheckBox)
    assert made.GetSegmentation().ContainsRepresentation(surface)
    host.click(panel.ui.showIn3DCheckBox)
    assert not made.GetSegmentation().ContainsRepresentation(surface)


def test_a_second_run_replaces_and_keeps_what_was_drawn_and_is_undone(
    host: Any, slicer: Any, two_blobs: TwoBlobs, blob_labels: LabelSet, blob_student: str, panel: Any
) -> None:
    image, labels = two_blobs()
    node = volume_to_node(image)
    choose(panel.ui.studentComboBox, blob_student)
    segment(host, panel)
    (made,) = segmentations(slicer)
    first = made.GetSegmentation().GetNthSegmentID(0)
    mine = made.GetSegmentation().AddEmptySegment("", "mine")
    drawn = np.zeros(image.shape, np.uint8)
    drawn[2:6, 2:6, 2:6] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(drawn, made, mine, node)
    slicer.util.updateSegmentBinaryLabelmapFromArray(drawn, made, first, node)
    segment(host, panel)
    assert segmentations(slicer) == [made]
    assert made.GetSegmentation().GetNumberOfSegments() == 3
    assert np.array_equal(labels_from_node(made, blob_labels, image).array, labels.array)
    assert np.array_equal(slicer.util.arrayFromSegmentBinaryLabelmap(made, mine, node) > 0, drawn > 0)

    host.click(panel.ui.undoRunButton)
    assert segmentations(slicer) == [made]
    assert np.array_equal(slicer.util.arrayFromSegmentBinaryLabelmap(made, first, node) > 0, drawn > 0)
    assert not panel.ui.undoRunButton.enabled
    assert panel.ui.statusLabel.text == "The last run was taken back."


def test_undoing_the_first_run_removes_its_segmentation(
    host: Any, slicer: Any, two_blobs: TwoBlobs, blob_student: str, panel: Any
) -> None:
    volume_to_node(two_blobs()[0])
    choose(panel.ui.studentComboBox, blob_student)
    segment(host, panel)
    host.click(panel.ui.undoRunButton)
    assert segmentations(slicer) == []
    assert panel.ui.outputSelector.currentNode() is None
    assert not panel.ui.ResultSection.isVisible()


def test_locked_segments_stay(host: Any, slicer: Any, two_blobs: TwoBlobs, blob_student: str, panel: Any) -> None:
    """Completed, in Slicer's list of segments."""
    image, labels = two_blobs()
    node = volume_to_node(image)
    choose(panel.ui.studentComboBox, blob_student)
    segment(host, panel)
    (made,) = segmentations(slicer)
    segmentation = made.GetSegmentation()
    first = segmentation.GetNthSegmentID(0)
    drawn = np.zeros(image.shape, np.uint8)
    drawn[:4] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(drawn, made, first, node)
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    logic.SetSegmentStatus(segmentation.GetSegment(first), logic.Completed)
    segment(host, panel)
    assert np.array_equal(slicer.util.arrayFromSegmentBinaryLabelmap(made, first, node) > 0, drawn > 0)
    assert "Anterior (locked)" in [panel.ui.segmentComboBox.itemText(0)]


def test_a_choice_of_structures(host: Any, slicer: Any, two_blobs: TwoBlobs, blob_student: str, panel: Any) -> None:
    """Checked with the space bar in the list."""
    volume_to_node(two_blobs()[0])
    choose(panel.ui.studentComboBox, blob_student)
    shown = panel.ui.structuresList
    host.reveal(shown)
    shown.setFocus()
    shown.setCurrentRow(1)
    host.press(shown, "Space")
    assert panel.ui.optionsCollapsibleButton.text == "Options (1 of 2 structures)"
    segment(host, panel)
    (made,) = segmentations(slicer)
    assert [made.GetSegmentation().GetNthSegment(0).GetName()] == ["Größe hinten"]
    assert made.GetSegmentation().GetNumberOfSegments() == 1


def test_choices_are_kept_in_the_scene(
    host: Any, slicer: Any, two_blobs: TwoBlobs, blob_student: str, panel: Any, recokd: Any
) -> None:
    node = volume_to_node(two_blobs()[0])
    choose(panel.ui.studentComboBox, blob_student)
    host.click(panel.ui.showIn3DCheckBox)
    host.click(panel.ui.mirroringCheckBox)
    panel.exit()
    again = recokd.ReCoKDLogic().getParameterNode()
    assert (again.student, again.showIn3D, again.mirroring) == (blob_student, False, True)
    assert again.inputVolume is node
    panel.enter()
    assert panel.ui.studentComboBox.currentText == blob_student
    assert not panel.ui.showIn3DCheckBox.checked
    assert panel.ui.mirroringCheckBox.checked


def test_the_device_is_kept_with_the_computer(
    host: Any, two_blobs: TwoBlobs, blob_student: str, panel: Any, runs: Any, recokd: Any
) -> None:
    volume_to_node(two_blobs()[0])
    choose(panel.ui.studentComboBox, blob_student)
    choose(panel.ui.deviceComboBox, "CPU")
    segment(host, panel)
    assert runs.started[0].options["device"] == "cpu"
    other = host.open(recokd)
    assert other.ui.deviceComboBox.currentText == "CPU"
    other.cleanup()


def test_a_student_that_is_gone_says_so(
    host: Any, two_blobs: TwoBlobs, blob_student: str, students: Path, panel: Any
) -> None:
    volume_to_node(two_blobs()[0])
    choose(panel.ui.studentComboBox, blob_student)
    settle(host, panel)
    (students / "blobs.recokd.zip").unlink()
    host.click(panel.ui.applyButton)
    settle(host, panel)
    assert len(host.messages) == 1
    assert "There is no student called 'blobs-x4'" in host.messages[0]


def test_a_damaged_student_says_why(host: Any, two_blobs: TwoBlobs, students: Path, panel: Any) -> None:
    (students / "torn.recokd.zip").write_bytes(b"half a file")
    volume_to_node(two_blobs()[0])
    host.click(panel.ui.refreshButton)
    choose(panel.ui.studentComboBox, "torn")
    assert panel.ui.cardLabel.text.startswith("This student cannot be used. ")
    assert not panel.ui.applyButton.enabled


def test_the_table_is_saved_and_put_into_the_scene(
    host: Any, slicer: Any, two_blobs: TwoBlobs, blob_student: str, panel: Any, tmp_path: Path
) -> None:
    volume_to_node(two_blobs()[0])
    choose(panel.ui.studentComboBox, blob_student)
    segment(host, panel)
    target = tmp_path / "Größen.csv"
    host.chosen_files.append(str(target))
    host.click(panel.ui.saveTableButton)
    lines = target.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "segment,label,voxels,volume_ml"
    assert lines[1].startswith("Anterior,1,")
    host.click(panel.ui.saveTableButton)  # the dialog is left without a choice
    host.click(panel.ui.tableNodeButton)
    table = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLTableNode")
    assert table.GetNumberOfRows() == 2


def test_a_picture_is_saved(
    host: Any, slicer: Any, two_blobs: TwoBlobs, blob_student: str, panel: Any, tmp_path: Path
) -> None:
    """Of an oblique, left-handed volume; a dialog that is left without a choice writes nothing."""
    volume_to_node(two_blobs(TURNED_LEFT_HANDED)[0], name="head")
    choose(panel.ui.studentComboBox, blob_student)
    segment(host, panel)
    host.click(panel.ui.pictureButton)
    assert list(tmp_path.glob("*.png")) == []
    target = tmp_path / "Übersicht.png"
    host.chosen_files.append(str(target))
    host.click(panel.ui.pictureButton)
    assert host.messages == []
    picture = host.qt.QPixmap(str(target))
    assert picture.width() > 600
    assert picture.height() > 400
    host.chosen_files.append(str(tmp_path / "no suffix"))
    host.click(panel.ui.pictureButton)
    assert ".png" in host.messages[0]


def test_the_table_follows_the_segments(
    host: Any, slicer: Any, two_blobs: TwoBlobs, blob_student: str, panel: Any
) -> None:
    volume_to_node(two_blobs()[0])
    choose(panel.ui.studentComboBox, blob_student)
    segment(host, panel)
    (made,) = segmentations(slicer)
    made.GetSegmentation().RemoveSegment(made.GetSegmentation().GetNthSegmentID(0))
    host.run_for(0.5)
    assert panel.ui.resultTable.rowCount == 1
    assert panel.ui.segmentComboBox.count == 1


def test_how_students_compute_is_chosen_and_kept(
    host: Any, two_blobs: TwoBlobs, blob_student: str, panel: Any, runs: Any, recokd: Any
) -> None:
    volume_to_node(two_blobs()[0])
    choose(panel.ui.studentComboBox, blob_student)
    segment(host, panel)
    assert runs.started[0].options.items() >= {"engine": "auto", "precision": "f32", "memory": None}.items()
    choose(panel.ui.engineComboBox, "PyTorch")
    choose(panel.ui.precisionComboBox, "Half (bfloat16) where it keeps the labels")
    panel.ui.memorySpinBox.value = 3.5
    segment(host, panel)
    assert runs.started[1].options.items() >= {"engine": "torch", "precision": "auto", "memory": 3.5}.items()
    other = host.open(recokd)
    assert other.ui.engineComboBox.currentText == "PyTorch"
    assert other.ui.memorySpinBox.value == 3.5
    other.cleanup()


def test_smaller_tiles_are_told_in_the_panel(
    host: Any, two_blobs: TwoBlobs, blob_student: str, panel: Any, runs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = fitting_tile

    def halved(plan: Any, heads: int, shape: Any, result_bytes: int, bound: float) -> Any:
        plain(plan, heads, shape, result_bytes, bound)
        return smaller_tile(plan.patch_size, plan)

    monkeypatch.setattr(prediction, "fitting_tile", halved)
    volume_to_node(two_blobs()[0])
    choose(panel.ui.studentComboBox, blob_student)
    panel.ui.memorySpinBox.value = 900
    segment(host, panel)
    assert "900 GB of memory do not suffice, so tiles of" in panel.ui.statusLabel.text


def test_saved_settings_of_strangers_do_no_harm(host: Any, recokd: Any, students: Path, runs: Any) -> None:
    host.app.settings.setValue("ReCoKD/StudentFolders", "{not json")
    host.app.settings.setValue("ReCoKD/Device", "abacus")
    host.app.settings.setValue("ReCoKD/Engine", "steam")
    host.app.settings.setValue("ReCoKD/MemoryGB", "much")
    widget = host.open(recokd)
    assert widget.panel.settings.student_folders == []
    assert widget.ui.deviceComboBox.currentText == "Automatic"
    computing = {"device": "auto", "engine": "auto", "precision": "f32", "memory": None}
    assert widget.panel.settings.computing() == computing
    host.app.settings.setValue("ReCoKD/StudentFolders", json.dumps([1, None, "/a"]))
    assert widget.panel.settings.student_folders == [Path("/a")]
    widget.cleanup()
