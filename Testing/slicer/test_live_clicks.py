"""The live mode: points that are placed, moved and deleted while the segmentation follows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from geometries import matrix, rotation
from ReCoKDLib.mrml.volumes import volume_from_node, volume_to_node, vtk_matrix
from ReCoKDLib.volume import Volume

Matrix = npt.NDArray[np.float64]
TwoBlobs = Callable[..., tuple[Volume, Volume]]

BACKGROUND = (15, 3, 20)
TURNED = matrix(rotation((12.0, -7.0, 20.0)), (1.0, 1.0, 1.0), (5.0, -3.0, 11.0))


def world(volume_node: Any, kji: tuple[float, float, float]) -> tuple[float, float, float]:
    r, a, s, _ = (volume_from_node(volume_node).ijk_to_ras @ (*kji[::-1], 1.0)).tolist()
    return r, a, s


def mask(slicer: Any, node: Any, segment_id: str, volume_node: Any) -> npt.NDArray[np.bool_]:
    return np.asarray(slicer.util.arrayFromSegmentBinaryLabelmap(node, segment_id, volume_node) > 0)


class Live:
    """A segmentation whose clicks are watched, and what was told of them."""

    def __init__(self, slicer: Any, logic: Any, volume_node: Any, student: str) -> None:
        self.slicer, self.logic, self.volume_node = slicer, logic, volume_node
        self.node = logic.segment(volume_node, student)
        self.refined: list[Any] = []
        self.refused: list[str] = []
        logic.startClicks(self.node, self.refined.append, self.refused.append)

    def anterior(self) -> npt.NDArray[np.bool_]:
        return mask(self.slicer, self.node, "Anterior", self.volume_node)


@pytest.fixture
def live(slicer: Any, recokd: Any, two_blobs: TwoBlobs, blob_student: str) -> Any:
    logic = recokd.ReCoKDLogic()
    volume_node = volume_to_node(two_blobs()[0])
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "t")
    transform.SetMatrixTransformToParent(vtk_matrix(TURNED))
    volume_node.SetAndObserveTransformNodeID(transform.GetID())
    yield Live(slicer, logic, volume_node, blob_student)
    logic.stopClicks()


def test_a_placed_a_moved_and_a_deleted_point(live: Live) -> None:
    before = live.anterior()
    points = live.logic.clickNode(live.node, "Anterior")
    points.AddControlPointWorld(world(live.volume_node, BACKGROUND))
    assert live.anterior()[BACKGROUND]
    assert len(live.refined) == 1
    points.SetNthControlPointPositionWorld(0, world(live.volume_node, (14, 4, 23)))
    assert live.anterior()[14, 4, 23]
    points.RemoveNthControlPoint(0)
    assert np.array_equal(live.anterior(), before)
    live.logic.undo(live.node)
    assert live.anterior()[14, 4, 23]
    assert points.GetNumberOfControlPoints() == 1
    assert live.refused == []


def test_a_drag_changes_the_segmentation_at_its_end(live: Live) -> None:
    points = live.logic.clickNode(live.node, "Anterior")
    points.AddControlPointWorld(world(live.volume_node, BACKGROUND))
    done, before = len(live.refined), live.anterior()
    points.InvokeCustomModifiedEvent(points.PointStartInteractionEvent)
    for i in (21, 22, 23):
        points.SetNthControlPointPositionWorld(0, world(live.volume_node, (15, 3, i)))
    assert len(live.refined) == done
    points.InvokeCustomModifiedEvent(points.PointEndInteractionEvent)
    assert len(live.refined) == done + 1
    assert live.anterior()[15, 3, 23]
    live.logic.undo(live.node)
    assert np.array_equal(live.anterior(), before)


def test_a_refused_point_goes_and_a_refused_move_is_put_back(live: Live) -> None:
    points = live.logic.clickNode(live.node, "Anterior")
    points.AddControlPointWorld(900.0, 0.0, 0.0)
    assert points.GetNumberOfControlPoints() == 0
    assert "outside the volume" in live.refused[0]
    points.AddControlPointWorld(world(live.volume_node, BACKGROUND))
    after = live.anterior()
    points.SetNthControlPointPositionWorld(0, 900.0, 0.0, 0.0)
    assert np.allclose(points.GetNthControlPointPositionWorld(0), world(live.volume_node, BACKGROUND))
    assert len(live.refused) == 2
    assert np.array_equal(live.anterior(), after)


def test_deleting_the_whole_list_takes_its_clicks_back(live: Live) -> None:
    before = live.anterior()
    points = live.logic.clickNode(live.node, "Anterior")
    points.AddControlPointWorld(world(live.volume_node, BACKGROUND))
    points.AddControlPointWorld(world(live.volume_node, (2, 18, 22)))
    live.slicer.mrmlScene.RemoveNode(points)
    assert np.array_equal(live.anterior(), before)


def test_after_stopping_points_wait_for_refine(live: Live) -> None:
    points = live.logic.clickNode(live.node, "Anterior")
    live.logic.stopClicks()
    points.AddControlPointWorld(world(live.volume_node, BACKGROUND))
    assert not live.anterior()[BACKGROUND]
    live.logic.refine(live.node)
    assert live.anterior()[BACKGROUND]


@pytest.mark.parametrize("what", ["scene", "segmentation"])
def test_closing_ends_it(live: Live, what: str) -> None:
    points = live.logic.clickNode(live.node, "Anterior")
    watching = live.logic._live
    if what == "scene":
        live.slicer.mrmlScene.Clear(0)
    else:
        live.slicer.mrmlScene.RemoveNode(live.node)
    assert not watching.is_active
    points.AddControlPointWorld(1.0, 2.0, 3.0)
    assert live.refined == live.refused == []


# Real clicks

OUTPUT = Path(__file__).resolve().parents[2] / "Testing" / "output"
OBLIQUE = rotation((25.0, -15.0, 35.0))


@pytest.fixture
def views(slicer: Any) -> Any:
    """A function that gives a slice view of a volume through a place, and two of them at most."""
    from slice_views import SliceView, require_rendering

    require_rendering()

    def make(volume_node: Any, orientation: Any, through: tuple[float, float, float], name: str) -> Any:
        view = SliceView(name, orientation, volume_node)
        view.node.JumpSliceByCentering(*through)
        view.render()
        return view

    return make


def closest(volume_node: Any, place: npt.NDArray[np.float64]) -> tuple[int, int, int]:
    """The voxel (k, j, i) at a place."""
    i, j, k = np.floor((np.linalg.inv(volume_from_node(volume_node).ijk_to_ras) @ (*place, 1.0))[:3] + 0.5).astype(int)
    return int(k), int(j), int(i)


@pytest.mark.parametrize("orientation", ["Axial", OBLIQUE], ids=["axial", "oblique"])
def test_a_real_click_lands_in_its_voxel_and_changes_its_segment(
    live: Live, views: Any, orientation: Any, request: pytest.FixtureRequest
) -> None:
    from slice_views import start_placing, stop_placing

    name = request.node.callspec.id
    before = live.anterior()
    target = world(live.volume_node, BACKGROUND)
    view = views(live.volume_node, orientation, target, "Red")
    first = view.picture(OUTPUT / f"click_{name}_before.png")
    pixel = view.pixel_of(target)
    points = live.logic.clickNode(live.node, "Anterior")
    start_placing(points)
    view.click(pixel)
    stop_placing()
    second = view.picture(OUTPUT / f"click_{name}_after.png")

    position = np.array(points.GetNthControlPointPositionWorld(0))
    assert points.GetNumberOfControlPoints() == 1
    assert np.linalg.norm(position - view.place_of(pixel)) < 0.4
    voxel = closest(live.volume_node, position)
    assert voxel == BACKGROUND
    assert live.anterior()[voxel]
    assert not before[voxel]
    assert len(live.refined) == 1
    # The view shows it: more of the segment's red than before, around the click.
    around = (slice(400 - pixel[1] - 40, 400 - pixel[1] + 40), slice(pixel[0] - 40, pixel[0] + 40))
    assert redness(second[around]) > redness(first[around]) + 300

    # Drag the point away: the segmentation follows when the button is let go.
    end = view.pixel_of(world(live.volume_node, (14, 5, 23)))
    view.drag(pixel, end)
    view.picture(OUTPUT / f"click_{name}_dragged.png")
    moved = closest(live.volume_node, np.array(points.GetNthControlPointPositionWorld(0)))
    assert points.GetNumberOfControlPoints() == 1
    assert moved != voxel
    assert live.anterior()[moved]
    assert len(live.refined) == 2

    live.logic.undo(live.node)
    live.logic.undo(live.node)
    assert np.array_equal(live.anterior(), before)
    assert points.GetNumberOfControlPoints() == 0


def redness(picture: npt.NDArray[np.uint8]) -> int:
    """How many pixels are clearly red."""
    red, green = picture[..., 0].astype(int), picture[..., 1].astype(int)
    return int((red - green > 60).sum())


def test_a_real_click_beside_the_volume_is_refused(live: Live, views: Any) -> None:
    from slice_views import start_placing, stop_placing

    view = views(live.volume_node, "Axial", world(live.volume_node, BACKGROUND), "Red")
    points = live.logic.clickNode(live.node, "Anterior")
    start_placing(points)
    view.click((3, 3))
    view.click(view.pixel_of(world(live.volume_node, BACKGROUND)))
    stop_placing()
    view.render()
    assert "outside the volume" in live.refused[0]
    assert len(live.refused) == 1
    assert points.GetNumberOfControlPoints() == 1
    assert live.anterior()[BACKGROUND]
