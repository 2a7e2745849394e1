"""Whole stories, from the first click to the last, with processes that really run."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import vtk

from panel_user import choose, segmentations, settle
from processes import gone, run_on_host


@pytest.fixture
def runs() -> None:
    """Not the quick ones: what starts here is a process."""


def test_first_start_without_torch(host: Any, recokd: Any, students: Path, monkeypatch: Any, picture_of: Any) -> None:
    """All can be looked at; the button asks, once, and no is taken for an answer."""
    from ReCoKDLib.mrml import dependencies

    versions = {"numpy": "2.0.1"}
    monkeypatch.setattr(dependencies, "_version", versions.get)
    monkeypatch.setitem(sys.modules, "PyTorchUtils", None)
    panel = host.open(recokd)
    choose(panel.ui.studentComboBox, "hippocampus-x4")
    host.click(panel.ui.sampleDataButton)
    settle(host, panel)
    assert panel.ui.checkLabel.text == "The volume is like those that the student was made from."
    host.click(panel.ui.applyButton)
    (message,) = host.messages
    assert "Install it with the Extensions Manager" in message
    assert panel.ui.applyButton.enabled
    picture_of("panel-7-no-torch")
    panel.cleanup()


@pytest.fixture
def sample(host: Any, slicer: Any, panel: Any) -> Any:
    """The panel with the sample case of the shipped student."""
    choose(panel.ui.studentComboBox, "hippocampus-x4")
    host.click(panel.ui.sampleDataButton)
    settle(host, panel)
    return panel


def test_sample_segment_clicks_undo_save_reopen_go_on(
    host: Any, slicer: Any, sample: Any, tmp_path: Path, picture_of: Any
) -> None:
    host.click(sample.ui.applyButton)
    host.run_until(lambda: sample.panel.segment.run is None, 300)
    assert host.messages == []
    (node,) = segmentations(slicer)
    segment_id = node.GetSegmentation().GetNthSegmentID(0)
    volume = sample.ui.inputSelector.currentNode()

    def mask() -> Any:
        (made,) = segmentations(slicer)
        source = sample.ui.inputSelector.currentNode()
        return slicer.util.arrayFromSegmentBinaryLabelmap(made, segment_id, source) > 0

    first = mask()
    crosshair = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
    if crosshair is None:
        crosshair = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLCrosshairNode", "default")
    ijk_to_ras = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(ijk_to_ras)
    matrix = slicer.util.arrayFromVTKMatrix(ijk_to_ras)

    def click(kji: Any, key: str) -> None:
        place = (matrix @ np.array([kji[2], kji[1], kji[0], 1.0]))[:3]
        crosshair.SetCursorPositionRAS(place.tolist())
        host.press(host.main_window, key)
        host.run_for(0.05)

    inside = np.argwhere(first)
    places = [inside[len(inside) // 3], inside[2 * len(inside) // 3], inside.mean(axis=0).astype(int)]
    for place, key in zip(places, "OOI", strict=True):
        click(place, key)
    third = mask()
    assert not np.array_equal(third, first)
    host.click(sample.ui.undoButton)
    second = mask()
    assert not third[tuple(places[0])]
    host.click(sample.ui.redoButton)
    assert np.array_equal(mask(), third)
    assert host.messages == []
    picture_of("panel-5-sample-clicks")

    scene = str(tmp_path / "scene.mrb")
    assert slicer.mrmlScene.WriteToMRB(scene)
    slicer.mrmlScene.Clear(0)
    assert segmentations(slicer) == []
    assert slicer.mrmlScene.ReadFromMRB(scene)
    sample.exit()
    sample.enter()
    host.run_for(0.3)
    assert np.array_equal(mask(), third)
    assert sample.ui.clickList.count == 3
    assert sample.ui.studentComboBox.currentText == "hippocampus-x4"
    crosshair = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
    click(places[0], "I")
    # The student looks again in a process of its own, and the interface answers meanwhile.
    asking = sample.panel.asking
    assert asking.strip.isVisible()
    slowest = 0.0
    while asking.run is not None:
        begun = time.monotonic()
        host.app.processEvents()
        if asking.run is not None:
            slowest = max(slowest, time.monotonic() - begun)
    assert slowest < 1
    assert host.messages == []
    assert mask()[tuple(places[0])]
    assert sample.ui.clickList.count == 4
    host.click(sample.ui.undoButton)
    assert np.array_equal(mask(), third)
    assert second.any()


def test_cancel_in_mid_run(host: Any, slicer: Any, sample: Any) -> None:
    nodes = slicer.mrmlScene.GetNumberOfNodes()
    host.click(sample.ui.applyButton)
    host.run_until(lambda: sample.panel.segment.run is None or sample.panel.segment.run.pid is not None, 100)
    begun = time.monotonic()
    host.click(sample.ui.cancelButton)
    assert time.monotonic() - begun < 2
    assert sample.ui.statusLabel.text == "Cancelled. The scene is as it was."
    assert slicer.mrmlScene.GetNumberOfNodes() == nodes


def test_scene_closed_in_mid_run(host: Any, slicer: Any, sample: Any) -> None:
    host.click(sample.ui.applyButton)
    host.run_until(lambda: sample.panel.segment.run.pid is not None, 100)
    pid = sample.panel.segment.run.pid
    slicer.mrmlScene.Clear(0)
    assert sample.panel.segment.run is None
    assert gone(pid)
    assert host.messages == []
    assert not sample.ui.applyButton.enabled


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_process_killed_from_outside(host: Any, slicer: Any, sample: Any, picture_of: Any) -> None:
    host.click(sample.ui.applyButton)
    host.run_until(lambda: sample.panel.segment.run.pid is not None, 100)
    os.kill(sample.panel.segment.run.pid, signal.SIGKILL)
    host.run_until(lambda: sample.panel.segment.run is None, 10)
    (message,) = host.messages
    assert "ended before it was done" in message
    assert segmentations(slicer) == []
    assert sample.ui.applyButton.enabled
    picture_of("panel-7-killed")


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_quit_in_mid_run(repository: Path, tmp_path: Path) -> None:
    """Slicer closes its modules' panels when it quits; nothing is left running."""
    code = f"""
import sys
from pathlib import Path
from slicer_host import Host
host = Host()
host.use_settings(Path({str(tmp_path / "s.ini")!r}))
panel = host.open(host.load(Path({str(repository / "ReCoKD" / "ReCoKD.py")!r})))
host.click(panel.ui.sampleDataButton)
host.run_for(0.3)
host.click(panel.ui.applyButton)
host.run_until(lambda: panel.panel.segment.run.pid is not None, 100)
print(panel.panel.segment.run.pid)
panel.cleanup()
"""
    run = run_on_host(code, repository, HOME=str(tmp_path))
    assert run.returncode == 0, run.stderr
    assert gone(int(run.stdout.split()[-1]))
