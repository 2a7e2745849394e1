"""The panel during a run: cancel, progress, what goes away meanwhile, two at once, what goes wrong."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from panel_user import choose, segment, segmentations, settle, start_held
from ReCoKDLib.mrml.volumes import volume_to_node
from ReCoKDLib.volume import Volume

Matrix = npt.NDArray[np.float64]
TwoBlobs = Callable[..., tuple[Volume, Volume]]


def test_cancel(host: Any, slicer: Any, two_blobs: TwoBlobs, blob_student: str, panel: Any, runs: Any) -> None:
    volume_to_node(two_blobs()[0])
    choose(panel.ui.studentComboBox, blob_student)
    settle(host, panel)
    runs.hold = True
    before = slicer.mrmlScene.GetNumberOfNodes()
    host.click(panel.ui.applyButton)
    host.run_for(0.05)
    assert panel.ui.statusLabel.text == "Segmenting..."
    host.click(panel.ui.cancelButton)
    assert panel.ui.statusLabel.text == "Cancelled. The scene is as it was."
    assert host.messages == []
    assert slicer.mrmlScene.GetNumberOfNodes() == before
    assert panel.ui.applyButton.enabled
    assert not panel.ui.cancelButton.enabled


def test_time_left(host: Any, two_blobs: TwoBlobs, blob_student: str, panel: Any, runs: Any, monkeypatch: Any) -> None:
    volume_to_node(two_blobs()[0])
    choose(panel.ui.studentComboBox, blob_student)
    settle(host, panel)
    runs.hold = True
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    panel.ui.applyButton.click()
    host.app.processEvents()
    runs.started[0].on_progress(0.25)
    now[0] = 110.0
    runs.started[0].on_progress(0.5)
    assert panel.ui.statusLabel.text == "Segmenting... 0:20 left"
    now[0] = 160.0
    runs.started[0].on_progress(0.75)
    monkeypatch.undo()
    assert panel.ui.progressBar.value == 75


def test_the_log_is_folded_away_and_there(host: Any, two_blobs: TwoBlobs, blob_student: str, panel: Any) -> None:
    volume_to_node(two_blobs()[0])
    choose(panel.ui.studentComboBox, blob_student)
    segment(host, panel)
    assert panel.ui.logCollapsibleButton.collapsed
    assert panel.ui.logEdit.plainText.startswith("blobs-x4 from ")


def test_closing_the_scene_ends_a_run(
    host: Any, slicer: Any, two_blobs: TwoBlobs, blob_student: str, panel: Any, runs: Any
) -> None:
    volume_to_node(two_blobs()[0])
    choose(panel.ui.studentComboBox, blob_student)
    start_held(host, panel, runs)
    slicer.mrmlScene.Clear(0)
    assert panel.panel.segment.run is None
    assert runs.started[0].over
    assert segmentations(slicer) == []
    assert host.messages == []
    assert not panel.ui.progressBar.isVisible()
    # And the panel works on with the next scene.
    runs.hold = False
    volume_to_node(two_blobs()[0])
    choose(panel.ui.studentComboBox, blob_student)
    segment(host, panel)
    assert len(segmentations(slicer)) == 1


def test_a_volume_removed_meanwhile(
    host: Any, slicer: Any, two_blobs: TwoBlobs, blob_student: str, panel: Any, runs: Any
) -> None:
    node = volume_to_node(two_blobs()[0])
    choose(panel.ui.studentComboBox, blob_student)
    start_held(host, panel, runs)
    slicer.mrmlScene.RemoveNode(node)
    runs.started[0].release()
    assert panel.ui.statusLabel.text == "The volume was removed meanwhile, so nothing was added."
    assert segmentations(slicer) == []


def test_a_segmentation_removed_meanwhile_is_made_anew(
    host: Any, slicer: Any, two_blobs: TwoBlobs, blob_student: str, panel: Any, runs: Any
) -> None:
    volume_to_node(two_blobs()[0])
    choose(panel.ui.studentComboBox, blob_student)
    segment(host, panel)
    (first,) = segmentations(slicer)
    start_held(host, panel, runs)
    slicer.mrmlScene.RemoveNode(first)
    runs.started[1].release()
    settle(host, panel)
    (made,) = segmentations(slicer)
    assert made is not first
    assert made.GetSegmentation().GetNumberOfSegments() == 2


def test_a_run_ends_well_in_another_module(
    host: Any, slicer: Any, two_blobs: TwoBlobs, blob_student: str, panel: Any, runs: Any
) -> None:
    volume_to_node(two_blobs()[0])
    choose(panel.ui.studentComboBox, blob_student)
    start_held(host, panel, runs)
    panel.exit()
    runs.started[0].release()
    (made,) = segmentations(slicer)
    panel.enter()
    assert panel.ui.outputSelector.currentNode() is made


def test_a_killed_process_shows_its_last_lines(
    host: Any, slicer: Any, two_blobs: TwoBlobs, blob_student: str, panel: Any, runs: Any
) -> None:
    from ReCoKDLib.worker import RunEndedError

    volume_to_node(two_blobs()[0])
    choose(panel.ui.studentComboBox, blob_student)
    start_held(host, panel, runs)
    runs.started[0].fail(RunEndedError(["Loading PyTorch.", "terminate called"]))
    assert len(host.messages) == 1
    assert "ended before it was done" in host.messages[0]
    assert host.messages[0].endswith("Loading PyTorch.\nterminate called")
    assert panel.ui.applyButton.enabled
    assert segmentations(slicer) == []


def test_an_unexpected_error_is_shown_and_raised(
    host: Any, two_blobs: TwoBlobs, blob_student: str, panel: Any, runs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume_to_node(two_blobs()[0])
    choose(panel.ui.studentComboBox, blob_student)
    start_held(host, panel, runs)
    with pytest.raises(ZeroDivisionError):
        runs.started[0].fail(ZeroDivisionError("a bug of ours"))
    assert host.messages == ["Something went wrong in ReCoKD.\n\na bug of ours"]
    assert panel.ui.applyButton.enabled


def test_two_panels_run_at_once(
    host: Any, slicer: Any, two_blobs: TwoBlobs, blob_student: str, panel: Any, runs: Any, recokd: Any
) -> None:
    volume_to_node(two_blobs()[0])
    choose(panel.ui.studentComboBox, blob_student)
    settle(host, panel)
    other = host.open(recokd)
    settle(host, other)
    runs.hold = True
    panel.ui.applyButton.click()
    other.ui.applyButton.click()
    host.run_for(0.05)
    assert len(runs.started) == 2
    for run in runs.started:
        run.release()
    host.run_for(0.1)
    assert len(segmentations(slicer)) == 2
    assert host.messages == []
    other.cleanup()


def test_no_room_for_the_background_process(
    host: Any, two_blobs: TwoBlobs, blob_student: str, panel: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ReCoKDLib.errors import InputError
    from ReCoKDLib.widgets import process

    def full(*_: Any, **__: Any) -> None:
        raise InputError("No space left on device")

    monkeypatch.setattr(process, "BackgroundRun", full)
    volume_to_node(two_blobs()[0])
    choose(panel.ui.studentComboBox, blob_student)
    settle(host, panel)
    host.click(panel.ui.applyButton)
    assert host.messages == ["No space left on device"]
    assert panel.ui.applyButton.enabled
