"""Scenes with clicks that one process saves and another one goes on with."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from geometries import matrix, rotation
from ReCoKDLib.interaction.corrections import Stroke
from ReCoKDLib.mrml.volumes import volume_from_node, volume_to_node, vtk_matrix
from ReCoKDLib.volume import Volume

TwoBlobs = Callable[..., tuple[Volume, Volume]]
Labels = npt.NDArray[Any]

TURNED = matrix(rotation((12.0, -7.0, -20.0)), (1.0, 1.0, 1.0), (5.0, -3.0, 11.0))

# Another process: reads the scene, goes on, and writes what it sees at each step.
GO_ON = """
import sys
from pathlib import Path
import numpy as np
from slicer_host import Host
host = Host()
module = host.load(Path(sys.argv[1]))
scene = host.slicer.mrmlScene
assert scene.ReadFromMRB(sys.argv[2], True)
sys.path.insert(0, sys.argv[4])
from test_saved_scenes import go_on
np.savez(sys.argv[3], *go_on(host.slicer, module.ReCoKDLogic()))
"""


def by_name(slicer: Any, name: str) -> Any:
    return slicer.mrmlScene.GetFirstNodeByName(name)


def turned(volume_node: Any) -> Volume:
    """Slicer flips an axis when it reads a left-handed volume, so indices are told in one orientation."""
    return volume_from_node(volume_node).reoriented("RAI")


def place(volume_node: Any, kji: tuple[int, int, int]) -> tuple[float, float, float]:
    r, a, s, _ = (turned(volume_node).ijk_to_ras @ (*kji[::-1], 1.0)).tolist()
    return r, a, s


def labels_of(slicer: Any) -> Labels:
    """The voxels of both segments on the volume's grid, by Slicer's own export."""
    node, volume_node = by_name(slicer, "the segmentation"), by_name(slicer, "the volume")
    ids = [node.GetSegmentation().GetNthSegmentID(n) for n in range(2)]
    masks = [slicer.util.arrayFromSegmentBinaryLabelmap(node, i, volume_node) > 0 for i in ids]
    return volume_from_node(volume_node).with_array(np.stack(masks)).reoriented("RAI").array


def go_on(slicer: Any, logic: Any) -> list[Labels]:
    """Move, delete and add clicks in a scene that has some; what the segmentation is at each step."""
    node, volume_node = by_name(slicer, "the segmentation"), by_name(slicer, "the volume")
    seen = [labels_of(slicer)]
    inside = by_name(slicer, "Anterior inside")
    inside.SetNthControlPointPositionWorld(0, *place(volume_node, (13, 4, 21)))
    logic.refine(node)
    seen.append(labels_of(slicer))
    logic.click(node, "Größe hinten", place(volume_node, (14, 12, 4)))
    seen.append(labels_of(slicer))
    inside.RemoveNthControlPoint(0)
    logic.refine(node)
    seen.append(labels_of(slicer))
    logic.undo(node)
    logic.undo(node)
    seen.append(labels_of(slicer))
    logic.click(node, "Anterior", place(volume_node, (6, 6, 8)), inside=False)
    seen.append(labels_of(slicer))
    return seen


@pytest.fixture
def with_clicks(
    slicer: Any, recokd: Any, two_blobs: TwoBlobs, blob_student: str, oblique_left_handed_matrix: Any
) -> Any:
    """A scene with a transformed volume, its segmentation, two clicks and a stroke; gives the logic."""
    volume_node = volume_to_node(two_blobs(oblique_left_handed_matrix)[0], name="the volume")
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "t")
    transform.SetMatrixTransformToParent(vtk_matrix(TURNED))
    volume_node.SetAndObserveTransformNodeID(transform.GetID())
    logic = recokd.ReCoKDLogic()
    node = logic.segment(volume_node, blob_student)
    node.SetName("the segmentation")
    logic.click(node, "Anterior", place(volume_node, (15, 3, 20)))
    logic.click(node, "Größe hinten", place(volume_node, (15, 4, 19)))
    ends = (place(volume_node, (4, 16, 3)), place(volume_node, (4, 16, 9)))
    logic.refine(node, [Stroke(ends, 1.5, "Größe hinten")])
    return logic


def saved(slicer: Any, folder: Path) -> Path:
    path = folder / "scene, größer.mrb"
    assert slicer.mrmlScene.WriteToMRB(str(path))
    return path


def test_another_process_goes_on_where_this_one_was(
    slicer: Any, with_clicks: Any, tmp_path: Path, repository: Path
) -> None:
    path = saved(slicer, tmp_path)
    expected = go_on(slicer, with_clicks)
    assert all(not np.array_equal(a, b) for a, b in pairwise(expected))
    folders = (repository / "ReCoKD", repository / "Testing" / "helpers")
    run = subprocess.run(
        [
            *(sys.executable, "-c", GO_ON, str(repository / "ReCoKD" / "ReCoKD.py"), str(path)),
            *(str(tmp_path / "seen.npz"), str(Path(__file__).parent)),
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders)), "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert run.returncode == 0, run.stderr
    with np.load(tmp_path / "seen.npz") as file:
        seen = [file[name] for name in file.files]
    assert len(seen) == len(expected)
    for step, (there, here) in enumerate(zip(seen, expected, strict=True)):
        assert np.array_equal(there, here), step


def reopen(slicer: Any, path: Path) -> None:
    slicer.mrmlScene.Clear(0)
    assert slicer.mrmlScene.ReadFromMRB(str(path), True)


def test_a_reopened_scene_has_its_clicks_and_nothing_twice(slicer: Any, with_clicks: Any, tmp_path: Path) -> None:
    path = saved(slicer, tmp_path)
    before = labels_of(slicer)
    reopen(slicer, path)
    assert np.array_equal(labels_of(slicer), before)
    node = by_name(slicer, "the segmentation")
    assert with_clicks.refine(node).voxels == 0
    assert np.array_equal(labels_of(slicer), before)
    assert with_clicks.clickNode(node, "Anterior").GetNumberOfControlPoints() == 1
    assert with_clicks.clickNode(node, "Anterior") is by_name(slicer, "Anterior inside")


def test_without_the_student_corrections_go_on_from_the_labels(
    slicer: Any, with_clicks: Any, tmp_path: Path, students: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = saved(slicer, tmp_path)
    before = labels_of(slicer)
    (students / "blobs.recokd.zip").unlink()
    reopen(slicer, path)
    node, volume_node = by_name(slicer, "the segmentation"), by_name(slicer, "the volume")
    with caplog.at_level(logging.WARNING):
        with_clicks.click(node, "Anterior", place(volume_node, (3, 18, 22)))
    assert "corrections go on from the labels alone" in caplog.text
    after = labels_of(slicer)
    assert after[0, 3, 18, 22]
    far = np.s_[:, 15:, :, :12]
    assert np.array_equal(after[far], before[far])


def test_what_was_drawn_before_saving_stays(slicer: Any, with_clicks: Any, tmp_path: Path) -> None:
    node, volume_node = by_name(slicer, "the segmentation"), by_name(slicer, "the volume")
    mask = labels_of(slicer)
    mask[0, 0:2, 18:20, 20:24] = True
    volume = volume_from_node(volume_node)
    mine = volume.with_reoriented_array(mask.astype(np.uint8), "RAI").array[0]
    slicer.util.updateSegmentBinaryLabelmapFromArray(mine, node, "Anterior", volume_node)
    path = saved(slicer, tmp_path)
    before = labels_of(slicer)
    reopen(slicer, path)
    node, volume_node = by_name(slicer, "the segmentation"), by_name(slicer, "the volume")
    with_clicks.click(node, "Anterior", place(volume_node, (6, 6, 8)), inside=False)
    assert labels_of(slicer)[0, 0:2, 18:20, 20:24].all()
    with_clicks.undo(node)
    assert np.array_equal(labels_of(slicer), before)


def test_a_region_and_locks_survive(
    slicer: Any,
    recokd: Any,
    two_blobs: TwoBlobs,
    blob_student: str,
    tmp_path: Path,
    oblique_left_handed_matrix: Any,
) -> None:
    """Each click keeps the limits of its time, also when it is carried out again after reopening."""
    volume_node = volume_to_node(two_blobs(oblique_left_handed_matrix)[0], name="the volume")
    roi = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "box")
    roi.SetCenterWorld(*place(volume_node, (7, 7, 9)))
    roi.SetSizeWorld(16.0, 14.0, 12.0)
    logic = recokd.ReCoKDLogic()
    node = logic.segment(volume_node, blob_student, roiNode=roi)
    node.SetName("the segmentation")
    roi.SetSizeWorld(4.0, 5.0, 6.0)
    roi.SetCenterWorld(*place(volume_node, (15, 3, 20)))
    logic.limitClicks(node, roi)
    logic.click(node, "Größe hinten", place(volume_node, (15, 3, 20)), locked=["Anterior"])
    logic.limitClicks(node, None)
    logic.click(node, "Anterior", place(volume_node, (13, 4, 18)))
    path = saved(slicer, tmp_path)

    def move() -> Labels:
        node, volume_node = by_name(slicer, "the segmentation"), by_name(slicer, "the volume")
        by_name(slicer, "Größe hinten inside").SetNthControlPointPositionWorld(0, *place(volume_node, (14, 3, 20)))
        logic.refine(node)
        return labels_of(slicer)

    before = labels_of(slicer)
    expected = move()
    assert not np.array_equal(before, expected)
    reopen(slicer, path)
    assert np.array_equal(labels_of(slicer), before)
    assert np.array_equal(move(), expected)
