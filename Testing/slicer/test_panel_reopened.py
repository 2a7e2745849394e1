"""Corrections of a reopened scene: the student looks again in the background, and what the user did waits for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from panel_user import choose, segment, segmentations
from ReCoKDLib.errors import OutputError
from ReCoKDLib.mrml.volumes import volume_to_node
from ReCoKDLib.volume import Volume
from ReCoKDLib.worker import RunEndedError

TwoBlobs = Callable[..., tuple[Volume, Volume]]
VOXEL = (9, 10, 12)


class Reopened:
    """A panel on a scene that was segmented, saved, closed and opened again; the next run waits."""

    def __init__(self, host: Any, slicer: Any, panel: Any, image: Volume, student: str, scene: Path, runs: Any) -> None:
        self.host, self.slicer, self.panel, self.ui, self.runs = host, slicer, panel, panel.ui, runs
        self.image = image
        volume_to_node(image, name="head")
        choose(panel.ui.studentComboBox, student)
        segment(host, panel)
        assert slicer.mrmlScene.WriteToMRB(str(scene))
        slicer.mrmlScene.Clear(0)
        assert slicer.mrmlScene.ReadFromMRB(str(scene))
        panel.exit()
        panel.enter()
        host.run_for(0.2)
        (self.node,) = segmentations(slicer)
        self.before = self.mask()
        runs.hold = True
        assert len(runs.started) == 1

    @property
    def asking(self) -> Any:
        return self.panel.panel.asking

    def mask(self) -> npt.NDArray[np.bool_]:
        segment_id = self.node.GetSegmentation().GetNthSegmentID(0)
        volume = self.ui.inputSelector.currentNode()
        found: npt.NDArray[np.bool_] = (
            self.slicer.util.arrayFromSegmentBinaryLabelmap(self.node, segment_id, volume) > 0
        )
        return found

    def click(self, voxel: tuple[int, int, int] = VOXEL, key: str = "I") -> None:
        """By key, with the mouse over a voxel of a slice view."""
        crosshair = self.slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
        if crosshair is None:
            crosshair = self.slicer.mrmlScene.AddNewNodeByClass("vtkMRMLCrosshairNode", "default")
        k, j, i = voxel
        crosshair.SetCursorPositionRAS((self.image.ijk_to_ras @ np.array([i, j, k, 1.0]))[:3].tolist())
        self.host.press(self.host.main_window, key)
        self.host.run_for(0.05)


@pytest.fixture
def reopened(
    host: Any, slicer: Any, two_blobs: TwoBlobs, blob_student: str, panel: Any, tmp_path: Path, runs: Any
) -> Reopened:
    return Reopened(host, slicer, panel, two_blobs()[0], blob_student, tmp_path / "scene.mrb", runs)


def test_clicks_wait_for_the_student_and_are_carried_out(reopened: Reopened, host: Any, picture_of: Any) -> None:
    """Two, made while it runs; words and progress stand below what the user pressed."""
    reopened.click()
    assert len(reopened.runs.started) == 2
    assert reopened.asking.strip.isVisible()
    text = reopened.asking.label.text
    assert text == "The student looks at the volume once more. Then your correction is carried out."
    assert reopened.asking.bar.value == 25
    rows = reopened.ui.correctCollapsibleButton.layout()
    assert rows.indexOf(reopened.asking.strip) == rows.indexOf(reopened.ui.clickLabel) + 1
    host.reveal(reopened.asking.strip)
    picture_of("panel-6-asking")
    reopened.click((6, 6, 7), "O")
    assert len(reopened.runs.started) == 2
    assert np.array_equal(reopened.mask(), reopened.before)
    reopened.runs.started[1].release()
    assert reopened.mask()[VOXEL]
    assert not reopened.mask()[6, 6, 7]
    assert reopened.ui.clickList.count == 2
    assert not reopened.asking.strip.isVisible()
    assert host.messages == []
    reopened.click((2, 2, 2))
    assert reopened.mask()[2, 2, 2]
    assert len(reopened.runs.started) == 2  # it is asked once
    for _ in range(3):
        host.click(reopened.ui.undoButton)
    assert np.array_equal(reopened.mask(), reopened.before)


def test_what_was_asked_again_decides_as_before(
    reopened: Reopened, slicer: Any, recokd: Any, two_blobs: TwoBlobs, blob_student: str
) -> None:
    """The click changes the same voxels as one right after the run."""
    reopened.click((6, 6, 7), "O")
    reopened.runs.started[1].release()
    logic = recokd.ReCoKDLogic()
    image, _ = two_blobs()
    fresh = logic.segment(volume_to_node(image), blob_student)
    r, a, s = (image.ijk_to_ras @ np.array([7, 6, 6, 1.0]))[:3]
    logic.click(fresh, "Anterior", (r, a, s), inside=False)
    segment_id = fresh.GetSegmentation().GetNthSegmentID(0)
    mask = slicer.util.arrayFromSegmentBinaryLabelmap(fresh, segment_id, reopened.ui.inputSelector.currentNode()) > 0
    assert np.array_equal(reopened.mask(), mask)


def test_cancel_answers_and_the_next_click_asks_again(reopened: Reopened, host: Any) -> None:
    reopened.click()
    host.click(reopened.asking.cancel_button)
    assert reopened.runs.started[1].over
    assert not reopened.asking.strip.isVisible()
    assert reopened.ui.clickLabel.text == "Cancelled. The scene is as it was."
    assert reopened.ui.clickList.count == 0
    assert np.array_equal(reopened.mask(), reopened.before)
    assert host.messages == []
    reopened.runs.hold = False
    reopened.click()
    host.run_until(lambda: reopened.asking.run is None)
    assert reopened.mask()[VOXEL]


def test_place_mode_begins_when_it_is_ready(reopened: Reopened, host: Any, slicer: Any) -> None:
    interaction = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLInteractionNode")
    host.click(reopened.ui.insideButton)
    assert interaction is None or interaction.GetCurrentInteractionMode() != interaction.Place
    reopened.runs.started[1].release()
    interaction = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLInteractionNode")
    assert interaction.GetCurrentInteractionMode() == interaction.Place
    host.click(reopened.ui.insideButton)
    assert interaction.GetCurrentInteractionMode() == interaction.ViewTransform


def test_a_cancelled_place_mode_is_off(reopened: Reopened, host: Any) -> None:
    host.click(reopened.ui.insideButton)
    host.click(reopened.asking.cancel_button)
    assert not reopened.ui.insideButton.checked


def test_doubt_and_hand_over_wait_as_well(reopened: Reopened, host: Any, tmp_path: Path) -> None:
    host.click(reopened.ui.confidenceCheckBox)
    host.run_for(0.05)
    rows = reopened.ui.doubtCollapsibleButton.layout()
    assert rows.indexOf(reopened.asking.strip) >= 0
    host.click(reopened.asking.cancel_button)
    assert not reopened.ui.confidenceCheckBox.checked
    host.click(reopened.ui.nextDoubtButton)
    host.run_for(0.05)
    reopened.runs.started[-1].release()
    assert reopened.ui.doubtLabel.text.startswith("1 of ")
    folder = tmp_path / "Dataset900_Blobs"
    folder.mkdir()
    reopened.ui.exportFolderEdit.text = str(folder)
    host.click(reopened.ui.exportButton)
    assert reopened.ui.exportLabel.text.startswith("Added as ")
    assert host.messages == []


def test_a_killed_process_says_so_and_nothing_is_done(reopened: Reopened, host: Any) -> None:
    reopened.click()
    reopened.runs.started[1].fail(RunEndedError(["Loading PyTorch.", "Killed"]))
    (message,) = host.messages
    assert message.endswith("Killed")
    assert np.array_equal(reopened.mask(), reopened.before)
    assert not reopened.asking.strip.isVisible()


def test_a_question_that_cannot_be_asked_takes_its_wish_along(
    reopened: Reopened, host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fails while it begins, and is not carried out with the next one."""
    with monkeypatch.context() as disk:
        disk.setattr(reopened.runs, "start", lambda run: run.fail(OutputError("The disk is full.")))
        reopened.click()
    (message,) = host.messages
    assert message.endswith("The disk is full.")
    assert not reopened.asking.strip.isVisible()
    reopened.click((2, 2, 2))
    reopened.runs.started[-1].release()
    assert reopened.mask()[2, 2, 2]
    assert not reopened.mask()[VOXEL]


@pytest.mark.parametrize("how", ["scene", "module", "segmentation"])
def test_who_goes_away_does_not_wait(reopened: Reopened, host: Any, slicer: Any, how: str) -> None:
    reopened.click()
    if how == "scene":
        slicer.mrmlScene.Clear(0)
    elif how == "module":
        reopened.panel.exit()
    else:
        slicer.mrmlScene.RemoveNode(reopened.node)
    assert reopened.runs.started[1].over
    assert reopened.asking.run is None
    assert host.messages == []
    if how == "module":
        reopened.panel.enter()
        assert np.array_equal(reopened.mask(), reopened.before)


def test_a_volume_changed_meanwhile_is_said_in_words(reopened: Reopened, host: Any, slicer: Any) -> None:
    reopened.click()
    volume = reopened.ui.inputSelector.currentNode()
    slicer.util.arrayFromVolume(volume)[0, 0, 0] += 50
    slicer.util.arrayFromVolumeModified(volume)
    reopened.runs.started[1].release()
    assert host.messages == ["The volume was changed meanwhile, so nothing was done. Try it again."]
    assert np.array_equal(reopened.mask(), reopened.before)


def test_a_run_that_ends_meanwhile_answers(reopened: Reopened, host: Any) -> None:
    """The button is pressed while a click waits: the click is carried out on the newer result."""
    reopened.click()
    host.click(reopened.ui.applyButton)
    host.run_for(0.05)
    asked, ran = reopened.runs.started[1:]
    ran.release()
    asked.release()
    assert host.messages == []
    assert reopened.mask()[VOXEL]
    assert reopened.ui.clickList.count == 1


def test_without_the_student_corrections_go_on_at_once(reopened: Reopened, host: Any, students: Path) -> None:
    (students / "blobs.recokd.zip").unlink()
    reopened.click()
    assert len(reopened.runs.started) == 1
    assert reopened.mask()[VOXEL]
    assert host.messages == []
