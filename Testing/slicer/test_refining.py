"""Corrections on real nodes: clicks from the scene into the segmentation, undo and redo, and everything that moves."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from geometries import matrix, rotation
from ReCoKDLib.errors import Cancelled, InputError, ReCoKDError
from ReCoKDLib.interaction.corrections import Click, LockedError, OutsideVolumeError, Stroke
from ReCoKDLib.labels import LabelSet
from ReCoKDLib.mrml.segmentations import labels_from_node
from ReCoKDLib.mrml.volumes import volume_from_node, volume_to_node, vtk_matrix
from ReCoKDLib.volume import Volume

Matrix = npt.NDArray[np.float64]
TwoBlobs = Callable[..., tuple[Volume, Volume]]

CENTRE = (6, 6, 8)  # k, j, i: well inside the first blob
BACKGROUND = (15, 3, 20)  # far from both


@pytest.fixture
def logic(recokd: Any) -> Any:
    made = recokd.ReCoKDLogic()
    yield made
    made.stopClicks()


@pytest.fixture
def scene_of(slicer: Any, two_blobs: TwoBlobs, blob_student: str, logic: Any) -> Callable[..., tuple[Any, Any]]:
    """A function that gives a volume node and its segmentation node."""

    def make(geometry: Matrix | None = None, transforms: tuple[Matrix, ...] = (), **options: Any) -> tuple[Any, Any]:
        node = volume_to_node(two_blobs(geometry)[0])
        put_under(slicer, node, *transforms)
        return node, logic.segment(node, blob_student, **options)

    return make


def put_under(slicer: Any, node: Any, *transforms: Matrix) -> None:
    """Put a node under nested linear transforms, the innermost first."""
    for transform in transforms:
        above = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "t")
        above.SetMatrixTransformToParent(vtk_matrix(transform))
        node.SetAndObserveTransformNodeID(above.GetID())
        node = above


def world(volume_node: Any, kji: tuple[float, float, float]) -> tuple[float, float, float]:
    """The place of a voxel in the world."""
    r, a, s, _ = (volume_from_node(volume_node).ijk_to_ras @ (*kji[::-1], 1.0)).tolist()
    return r, a, s


def masks(slicer: Any, node: Any, volume_node: Any) -> dict[str, npt.NDArray[np.bool_]]:
    """Each segment on the volume's grid by its name, through Slicer's own export."""
    segmentation = node.GetSegmentation()
    found = {}
    for n in range(segmentation.GetNumberOfSegments()):
        segment_id = segmentation.GetNthSegmentID(n)
        found[segmentation.GetNthSegment(n).GetName()] = (
            slicer.util.arrayFromSegmentBinaryLabelmap(node, segment_id, volume_node) > 0
        )
    return found


def points(slicer: Any) -> list[tuple[str, tuple[float, ...]]]:
    """All Markups points of the scene: list and rounded place, sorted."""
    found = slicer.mrmlScene.GetNodesByClass("vtkMRMLMarkupsNode")
    found.UnRegister(None)
    rows = []
    for node in (found.GetItemAsObject(n) for n in range(found.GetNumberOfItems())):
        for n in range(node.GetNumberOfControlPoints()):
            rows.append((node.GetName(), tuple(round(v, 3) for v in node.GetNthControlPointPositionWorld(n))))
    return sorted(rows)


TURNED = matrix(rotation((12.0, -7.0, 20.0)), (1.0, 1.0, 1.0), (5.0, -3.0, 11.0))
STRETCHED = np.diag([1.2, 1.0, 0.9, 1.0])


@pytest.mark.parametrize("transforms", [(), (TURNED, STRETCHED)], ids=["plain", "nested transforms"])
def test_a_click_changes_its_voxel_and_only_near_it(
    slicer: Any, scene_of: Any, logic: Any, any_geometry: Matrix, transforms: tuple[Matrix, ...]
) -> None:
    volume_node, node = scene_of(any_geometry, transforms)
    before = masks(slicer, node, volume_node)
    done = logic.click(node, "Anterior", world(volume_node, BACKGROUND))
    after = masks(slicer, node, volume_node)
    assert after["Anterior"][BACKGROUND]
    assert not before["Anterior"][BACKGROUND]
    differs = after["Anterior"] != before["Anterior"]
    assert done.voxels == (differs | (after["Größe hinten"] != before["Größe hinten"])).sum()
    place = volume_from_node(volume_node).ijk_to_ras
    there = np.argwhere(differs)[:, ::-1] @ place[:3, :3].T + place[:3, 3]
    assert np.linalg.norm(there - world(volume_node, BACKGROUND), axis=1).max() <= 25 * 1.2


def test_the_numbers_decide(slicer: Any, scene_of: Any, logic: Any, blob_labels: LabelSet) -> None:
    """The segmentation is what `refine` gives for the clicks in their order in time, across all lists of points."""
    from ReCoKDLib.interaction.refine import refine
    from ReCoKDLib.segment import segment

    volume_node, node = scene_of(TURNED)
    volume = volume_from_node(volume_node)
    first = segment(volume, node.GetAttribute("ReCoKD.student"), probabilities=True)
    made = [
        Click(world(volume_node, BACKGROUND), "Anterior", True),
        Click(world(volume_node, (15, 4, 19)), "Größe hinten", True),
        Click(world(volume_node, BACKGROUND), "Anterior", False),
        Click(world(volume_node, CENTRE), "Anterior", False),
    ]
    for click in made:
        logic.refine(node, [click])
    expected = refine(volume, first.labels, blob_labels, made, probabilities=first.probabilities)
    assert np.array_equal(labels_from_node(node, blob_labels, volume).array, expected.labels.array)


def test_clicks_lie_in_the_scene_with_names_and_colours(slicer: Any, scene_of: Any, logic: Any) -> None:
    volume_node, node = scene_of()
    logic.click(node, "Anterior", world(volume_node, BACKGROUND))
    logic.click(node, "anterior", world(volume_node, CENTRE), inside=False)
    inside, outside = logic.clickNode(node, "Anterior"), logic.clickNode(node, "Anterior", inside=False)
    assert (inside.GetName(), outside.GetName()) == ("Anterior inside", "Anterior outside")
    assert inside.GetNumberOfControlPoints() == outside.GetNumberOfControlPoints() == 1
    assert inside.GetDisplayNode().GetGlyphType() != outside.GetDisplayNode().GetGlyphType()
    for markups in (inside, outside):
        assert np.allclose(markups.GetDisplayNode().GetSelectedColor(), (0.9, 0.2, 0.1))
        assert markups.GetNodeReference("ReCoKD.segmentation") is node
        assert markups.GetNodeReference("ReCoKD.volume") is volume_node
        assert markups.GetAttribute("ReCoKD.segment") == "Anterior"


def test_undo_and_redo_bring_voxels_and_points_back(slicer: Any, scene_of: Any, logic: Any) -> None:
    volume_node, node = scene_of()
    states = [(masks(slicer, node, volume_node), points(slicer))]

    def remember() -> None:
        states.append((masks(slicer, node, volume_node), points(slicer)))

    logic.click(node, "Anterior", world(volume_node, BACKGROUND))
    remember()
    logic.refine(node, [Stroke((world(volume_node, (4, 16, 3)), world(volume_node, (4, 16, 9))), 1.5, "Größe hinten")])
    remember()
    inside = logic.clickNode(node, "Anterior")
    inside.SetNthControlPointPositionWorld(0, *world(volume_node, (14, 4, 22)))
    logic.refine(node)
    remember()
    inside.RemoveNthControlPoint(0)
    logic.refine(node)
    remember()

    def same(state: Any) -> bool:
        now = masks(slicer, node, volume_node)
        return all(np.array_equal(now[name], state[0][name]) for name in now) and points(slicer) == state[1]

    for state in reversed(states[:-1]):
        logic.undo(node)
        assert same(state)
    with pytest.raises(InputError, match="nothing to undo"):
        logic.undo(node)
    for state in states[1:]:
        logic.redo(node)
        assert same(state)
    with pytest.raises(InputError, match="nothing to redo"):
        logic.redo(node)
    assert len(states[1][1]) == 1
    assert len(states[2][1]) == 3


def test_a_moved_click_is_as_if_made_there(slicer: Any, scene_of: Any, logic: Any) -> None:
    volume_node, node = scene_of()
    other_volume, other = scene_of()
    logic.click(node, "Anterior", world(volume_node, BACKGROUND))
    logic.click(node, "Größe hinten", world(volume_node, (14, 5, 18)))
    logic.clickNode(node, "Anterior").SetNthControlPointPositionWorld(0, *world(volume_node, (13, 3, 21)))
    logic.refine(node)
    logic.click(other, "Anterior", world(volume_node, (13, 3, 21)))
    logic.click(other, "Größe hinten", world(volume_node, (14, 5, 18)))
    expected = masks(slicer, other, other_volume)
    for name, mask in masks(slicer, node, volume_node).items():
        assert np.array_equal(mask, expected[name]), name


def test_deleting_all_clicks_gives_the_first_result(slicer: Any, scene_of: Any, logic: Any) -> None:
    volume_node, node = scene_of()
    before = masks(slicer, node, volume_node)
    for kji in (BACKGROUND, (14, 8, 4), (3, 18, 22)):
        logic.click(node, "Größe hinten", world(volume_node, kji))
    assert not np.array_equal(masks(slicer, node, volume_node)["Größe hinten"], before["Größe hinten"])
    slicer.mrmlScene.RemoveNode(logic.clickNode(node, "Größe hinten"))
    logic.refine(node)
    for name, mask in masks(slicer, node, volume_node).items():
        assert np.array_equal(mask, before[name]), name


def test_outside_points_are_refused_in_words_and_leave_nothing(slicer: Any, scene_of: Any, logic: Any) -> None:
    volume_node, node = scene_of(None, (TURNED,))
    before = masks(slicer, node, volume_node)
    with pytest.raises(OutsideVolumeError, match=r"lies outside the volume 'two blobs'") as told:
        logic.click(node, "Anterior", (500.0, 2.5, 3.0))
    assert "R 500.0, A 2.5, S 3.0" in str(told.value)  # where the user sees it
    assert points(slicer) == []
    assert np.array_equal(masks(slicer, node, volume_node)["Anterior"], before["Anterior"])


def test_an_unknown_segment_is_said_in_words(scene_of: Any, logic: Any) -> None:
    volume_node, node = scene_of()
    with pytest.raises(InputError, match=r"no segment called 'liver'.*Anterior, Größe hinten"):
        logic.click(node, "liver", world(volume_node, CENTRE))


def test_no_segmentation_is_said_in_words(logic: Any) -> None:
    for call in (logic.refine, logic.undo, logic.redo, logic.doubtfulSlices, logic.volumeTable):
        with pytest.raises(InputError, match="No segmentation was chosen"):
            call(None)


def test_locked_segments_keep_their_voxels(slicer: Any, scene_of: Any, logic: Any) -> None:
    volume_node, node = scene_of()
    before = masks(slicer, node, volume_node)
    with pytest.raises(LockedError, match="locked"):
        logic.click(node, "Größe hinten", world(volume_node, CENTRE), locked=["Anterior"])
    segments = slicer.vtkSlicerSegmentationsModuleLogic
    segments.SetSegmentStatus(node.GetSegmentation().GetSegment("Anterior"), segments.Completed)
    with pytest.raises(LockedError, match="locked"):
        logic.click(node, "Größe hinten", world(volume_node, CENTRE))
    assert points(slicer) == []
    edge = np.argwhere(before["Anterior"]).max(0)
    logic.click(node, "Größe hinten", world(volume_node, (int(edge[0]) + 2, 6, 8)))
    assert np.array_equal(masks(slicer, node, volume_node)["Anterior"], before["Anterior"])
    segments.SetSegmentStatus(node.GetSegmentation().GetSegment("Anterior"), segments.InProgress)
    logic.click(node, "Größe hinten", world(volume_node, CENTRE))
    assert not masks(slicer, node, volume_node)["Anterior"][CENTRE]


def test_a_region_of_interest_limits_clicks(slicer: Any, scene_of: Any, logic: Any) -> None:
    volume_node, node = scene_of()
    before = masks(slicer, node, volume_node)
    roi = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "box")
    roi.SetCenterWorld(*world(volume_node, BACKGROUND))
    roi.SetSizeWorld(5.0, 5.0, 5.0)
    logic.limitClicks(node, roi)
    logic.click(node, "Anterior", world(volume_node, BACKGROUND))
    changed = np.argwhere(masks(slicer, node, volume_node)["Anterior"] != before["Anterior"])
    assert len(changed)
    assert np.abs(changed - BACKGROUND).max() <= 2
    with pytest.raises(LockedError, match="outside the box"):
        logic.click(node, "Anterior", world(volume_node, (3, 18, 22)))
    logic.limitClicks(node, None)
    # The limit was that of its time: the click does not spread when it is lifted.
    logic.click(node, "Anterior", world(volume_node, (3, 18, 22)))
    there = masks(slicer, node, volume_node)["Anterior"] != before["Anterior"]
    assert np.array_equal(np.argwhere(there[10:]) + np.array((10, 0, 0)), changed)


def test_a_segmentation_on_another_grid_keeps_its_other_voxels(slicer: Any, scene_of: Any, logic: Any) -> None:
    """Coarser and turned: only voxels near the click change, and the grid stays."""
    volume_node, _ = scene_of()
    coarse = Volume(
        np.zeros((1, 12, 14, 15), np.uint8), matrix(rotation((9.0, 4.0, -6.0)), (1.9, 2.1, 1.7), (-22.0, 4.0, 11.0))
    )
    reference = volume_to_node(coarse, name="coarse", label_map=True)
    mine = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "mine")
    mine.CreateDefaultDisplayNodes()
    mine.SetReferenceImageGeometryParameterFromVolumeNode(reference)
    drawn = np.zeros(coarse.shape, np.uint8)
    drawn[2:6, 2:6, 2:8] = 1
    slicer.util.updateVolumeFromArray(reference, drawn)
    slicer.modules.segmentations.logic().ImportLabelmapToSegmentationNode(reference, mine)
    mine.GetSegmentation().GetNthSegment(0).SetName("tumour")
    mine.SetReferenceImageGeometryParameterFromVolumeNode(volume_node)

    def on_own_grid() -> npt.NDArray[np.bool_]:
        array = slicer.util.arrayFromSegmentBinaryLabelmap(mine, mine.GetSegmentation().GetNthSegmentID(0), reference)
        return np.asarray(array > 0)

    assert np.array_equal(on_own_grid(), drawn > 0)
    where = world(volume_node, (9, 10, 20))
    logic.click(mine, "tumour", where)
    after = on_own_grid()
    changed = np.argwhere(after != (drawn > 0))
    assert len(changed)
    assert after[np.argwhere(drawn)[:, 0], np.argwhere(drawn)[:, 1], np.argwhere(drawn)[:, 2]].all()
    k, j, i = np.rint((np.linalg.inv(coarse.ijk_to_ras) @ (*where, 1.0))[:3])[::-1].astype(int)
    assert after[k, j, i]
    logic.undo(mine)
    assert np.array_equal(on_own_grid(), drawn > 0)
    logic.redo(mine)
    assert np.array_equal(on_own_grid(), after)


def test_what_is_drawn_by_hand_stays(slicer: Any, scene_of: Any, logic: Any) -> None:
    volume_node, node = scene_of()
    logic.click(node, "Anterior", world(volume_node, BACKGROUND))
    mask = masks(slicer, node, volume_node)["Anterior"].astype(np.uint8)
    mask[0:2, 18:20, 20:24] = 1
    mask[BACKGROUND] = 0
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask, node, "Anterior", volume_node)
    logic.click(node, "Anterior", world(volume_node, (3, 3, 20)))
    after = masks(slicer, node, volume_node)["Anterior"]
    assert after[0:2, 18:20, 20:24].all()
    assert not after[BACKGROUND]
    # What was drawn cannot be undone here; the click after it can.
    logic.undo(node)
    assert np.array_equal(masks(slicer, node, volume_node)["Anterior"], mask > 0)
    with pytest.raises(InputError, match="nothing to undo"):
        logic.undo(node)


def test_a_click_made_before_drawing_stays_as_it_was_when_deleted(slicer: Any, scene_of: Any, logic: Any) -> None:
    volume_node, node = scene_of()
    logic.click(node, "Anterior", world(volume_node, BACKGROUND))
    mask = masks(slicer, node, volume_node)["Anterior"].astype(np.uint8)
    mask[0:2, 18:20, 20:24] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask, node, "Anterior", volume_node)
    logic.clickNode(node, "Anterior").RemoveAllControlPoints()
    logic.refine(node)
    assert np.array_equal(masks(slicer, node, volume_node)["Anterior"], mask > 0)


def test_a_renamed_segment_keeps_its_clicks(slicer: Any, scene_of: Any, logic: Any) -> None:
    volume_node, node = scene_of()
    before = masks(slicer, node, volume_node)["Anterior"]
    logic.click(node, "Anterior", world(volume_node, BACKGROUND))
    node.GetSegmentation().GetSegment("Anterior").SetName("head of the hippocampus")
    logic.click(node, "head of the hippocampus", world(volume_node, (14, 5, 18)))
    lists = logic.clickNode(node, "head of the hippocampus")
    assert lists.GetNumberOfControlPoints() == 2
    logic.refine(node)
    assert lists.GetName() == "head of the hippocampus inside"
    logic.undo(node)
    logic.undo(node)
    assert np.array_equal(masks(slicer, node, volume_node)["head of the hippocampus"], before)


def test_a_removed_segment_takes_its_clicks_out(slicer: Any, scene_of: Any, logic: Any) -> None:
    volume_node, node = scene_of()
    logic.click(node, "Anterior", world(volume_node, BACKGROUND))
    logic.click(node, "Größe hinten", world(volume_node, (14, 12, 4)))
    kept = masks(slicer, node, volume_node)["Größe hinten"]
    node.GetSegmentation().RemoveSegment("Anterior")
    done = logic.refine(node)
    assert [w for w in done.warnings if "Anterior inside" in w and "removed" in w]
    assert np.array_equal(masks(slicer, node, volume_node)["Größe hinten"], kept)
    logic.click(node, "Größe hinten", world(volume_node, CENTRE))
    assert masks(slicer, node, volume_node)["Größe hinten"][CENTRE]
    assert node.GetSegmentation().GetNumberOfSegments() == 1


def test_a_segment_of_the_users_own_can_be_clicked(slicer: Any, scene_of: Any, logic: Any) -> None:
    volume_node, node = scene_of()
    before = masks(slicer, node, volume_node)
    node.GetSegmentation().AddEmptySegment("mine", "cyst")
    logic.click(node, "cyst", world(volume_node, BACKGROUND))
    after = masks(slicer, node, volume_node)
    assert after["cyst"][BACKGROUND]
    assert not (after["cyst"] & (after["Anterior"] | after["Größe hinten"])).any()
    logic.undo(node)
    assert all(np.array_equal(masks(slicer, node, volume_node)[name], mask) for name, mask in before.items())


def test_two_segmentations_of_one_volume_do_not_meet(slicer: Any, scene_of: Any, logic: Any, blob_student: str) -> None:
    volume_node, node = scene_of()
    other = logic.segment(volume_node, blob_student)
    before = masks(slicer, other, volume_node)
    logic.click(node, "Anterior", world(volume_node, BACKGROUND))
    logic.refine(other)
    assert all(np.array_equal(masks(slicer, other, volume_node)[name], mask) for name, mask in before.items())
    logic.click(other, "Anterior", world(volume_node, CENTRE), inside=False)
    assert masks(slicer, node, volume_node)["Anterior"][CENTRE]
    logic.undo(node)
    assert not masks(slicer, other, volume_node)["Anterior"][CENTRE]


def test_a_removed_segmentation_is_said_in_words(slicer: Any, scene_of: Any, logic: Any) -> None:
    volume_node, node = scene_of()
    logic.click(node, "Anterior", world(volume_node, BACKGROUND))
    slicer.mrmlScene.RemoveNode(node)
    with pytest.raises(InputError, match="segmentation was removed"):
        logic.refine(node)
    # Its hidden beginning went with it.
    assert slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLLabelMapVolumeNode") is None


def test_a_removed_volume_is_said_in_words(slicer: Any, scene_of: Any, logic: Any) -> None:
    volume_node, node = scene_of()
    position = world(volume_node, BACKGROUND)
    logic.click(node, "Anterior", position)
    slicer.mrmlScene.RemoveNode(volume_node)
    with pytest.raises(ReCoKDError, match="No volume belongs to the segmentation"):
        logic.click(node, "Anterior", position)


def test_a_new_run_keeps_the_clicks_for_the_next_correction(
    slicer: Any, scene_of: Any, logic: Any, blob_student: str
) -> None:
    volume_node, node = scene_of()
    first = masks(slicer, node, volume_node)
    logic.click(node, "Anterior", world(volume_node, BACKGROUND))
    corrected = masks(slicer, node, volume_node)
    assert logic.segment(volume_node, blob_student, node) is node
    assert np.array_equal(masks(slicer, node, volume_node)["Anterior"], first["Anterior"])
    logic.refine(node)
    assert np.array_equal(masks(slicer, node, volume_node)["Anterior"], corrected["Anterior"])


def test_the_volume_moves_and_the_clicks_with_it(slicer: Any, scene_of: Any, logic: Any) -> None:
    volume_node, node = scene_of()
    logic.click(node, "Anterior", world(volume_node, BACKGROUND))
    put_under(slicer, volume_node, TURNED)
    node.SetAndObserveTransformNodeID(volume_node.GetTransformNodeID())
    assert logic.refine(node).voxels == 0
    assert np.allclose(points(slicer)[0][1], world(volume_node, BACKGROUND), atol=2e-3)
    logic.click(node, "Größe hinten", world(volume_node, (15, 18, 3)))
    assert masks(slicer, node, volume_node)["Größe hinten"][15, 18, 3]


def test_a_hundred_clicks_at_once(slicer: Any, scene_of: Any, logic: Any) -> None:
    volume_node, node = scene_of()
    random = np.random.default_rng(0)
    places = random.integers(0, (18, 22, 26), (100, 3))
    logic.refine(
        node, [Click(world(volume_node, tuple(p)), "Anterior", bool(n % 2)) for n, p in enumerate(places.tolist())]
    )
    anterior = masks(slicer, node, volume_node)["Anterior"]
    last = {tuple(p): bool(n % 2) for n, p in enumerate(places.tolist())}  # of contradicting ones the later wins
    assert all(anterior[p] == inside for p, inside in last.items())


def test_surfaces_follow_clicks(slicer: Any, scene_of: Any, logic: Any) -> None:
    import vtk

    volume_node, node = scene_of()
    node.CreateClosedSurfaceRepresentation()

    def size(segment_id: str) -> tuple[int, float]:
        surface = vtk.vtkPolyData()
        node.GetClosedSurfaceRepresentation(segment_id, surface)
        return surface.GetNumberOfPoints(), surface.GetLength()

    before = {i: size(i) for i in ("Anterior", "Größe hinten")}
    logic.click(node, "Anterior", world(volume_node, BACKGROUND))
    assert size("Anterior")[0] > before["Anterior"][0]
    assert size("Größe hinten") == before["Größe hinten"]
    logic.undo(node)
    assert {i: size(i) for i in before} == before


def test_surfaces_do_not_change_what_clicks_do(slicer: Any, scene_of: Any, logic: Any) -> None:
    masks = []
    for with_surfaces in (False, True):
        slicer.mrmlScene.Clear(0)
        volume_node, node = scene_of()
        if with_surfaces:
            node.CreateClosedSurfaceRepresentation()
        logic.click(node, "Anterior", world(volume_node, BACKGROUND))
        masks.append(slicer.util.arrayFromSegmentBinaryLabelmap(node, "Anterior", volume_node).copy())
    assert np.array_equal(*masks)


@pytest.mark.parametrize("what", ["volume", "scene"])
def test_running_ends_well_when_the_volume_or_the_scene_goes(
    slicer: Any, two_blobs: TwoBlobs, logic: Any, blob_student: str, what: str
) -> None:
    node = volume_to_node(two_blobs()[0])

    def leave(done: float) -> None:
        if what == "volume":
            slicer.mrmlScene.RemoveNode(node)
        else:
            slicer.mrmlScene.Clear(0)

    with pytest.raises(Cancelled, match="volume was removed"):
        logic.segment(node, blob_student, progress=leave)
    assert slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLSegmentationNode") is None


@pytest.mark.parametrize("unknown", [False, True], ids=["the student's segment", "one of the user's own"])
def test_hundreds_of_clicks_in_one_spot(slicer: Any, scene_of: Any, logic: Any, unknown: bool) -> None:
    """A later click takes no longer than the list of all is long; contradictions are decided by the last."""
    volume_node, node = scene_of()
    name = "mine" if unknown else "Anterior"
    if unknown:
        node.GetSegmentation().AddEmptySegment(name, name)
    seconds = []
    for number in range(200):
        k, j, i = BACKGROUND
        begun = time.process_time()
        logic.click(node, name, world(volume_node, (k, j + number % 2, i)), inside=number % 3 != 1)
        seconds.append(time.process_time() - begun)
    assert np.median(seconds[-20:]) < 0.1
    # Numbers 197 and 199 spoke of one voxel, inside and outside; number 198 of the other one, inside.
    found = masks(slicer, node, volume_node)[name]
    assert (found[15, 4, 20], found[15, 3, 20]) == (False, True)
    logic.undo(node)
    assert masks(slicer, node, volume_node)[name][15, 4, 20]
    assert len(points(slicer)) == 199
    assert logic.refine(node).voxels == 0


def test_a_stroke_under_a_box_and_a_lock_moved_taken_back_and_made_again(
    slicer: Any, scene_of: Any, logic: Any, any_geometry: Matrix
) -> None:
    """Also one that erases: all it covers follows, in the box alone, and every step has its way back."""
    volume_node, node = scene_of(any_geometry, (TURNED,))
    before = masks(slicer, node, volume_node)
    line = tuple(world(volume_node, (15, 4, i)) for i in (14, 22))
    roi = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "box")
    matrix = volume_from_node(volume_node).ijk_to_ras
    axes = np.eye(4)
    axes[:3, :3] = matrix[:3, :3] / np.linalg.norm(matrix[:3, :3], axis=0)
    axes[:3, 3] = world(volume_node, (15, 4, 16))
    sizes = np.linalg.norm(matrix[:3, :3], axis=0) * 5  # five voxels each way: i from 14 to 18
    roi.SetAndObserveObjectToNodeMatrix(vtk_matrix(axes))
    roi.SetSize(*sizes.tolist())
    logic.limitClicks(node, roi)
    logic.refine(node, [Stroke(line, 0.0, "Anterior")], locked=["Größe hinten"])
    drawn = masks(slicer, node, volume_node)
    changed = np.argwhere(drawn["Anterior"] != before["Anterior"])
    assert all(drawn["Anterior"][15, 4, i] for i in range(14, 19))
    assert np.abs(changed - (15, 4, 16)).max() <= 2
    assert np.array_equal(drawn["Größe hinten"], before["Größe hinten"])

    logic.limitClicks(node, None)
    logic.refine(node, [Stroke(line[:1], 1.0, "Anterior", inside=False)])
    erased = masks(slicer, node, volume_node)
    assert not erased["Anterior"][15, 4, 14]
    (stroke,) = [n for n in slicer.util.getNodesByClass("vtkMRMLMarkupsCurveNode") if n.GetName().endswith("outside")]
    stroke.SetNthControlPointPositionWorld(0, *world(volume_node, (15, 4, 18)))
    logic.refine(node)
    moved = masks(slicer, node, volume_node)
    assert moved["Anterior"][15, 4, 14]
    assert not moved["Anterior"][15, 4, 18]
    slicer.mrmlScene.RemoveNode(stroke)
    logic.refine(node)
    for state in (drawn, moved, erased, drawn, before):
        now = masks(slicer, node, volume_node)
        assert all(np.array_equal(now[name], state[name]) for name in now)
        if state is not before:
            logic.undo(node)
    for state in (drawn, erased, moved, drawn):
        logic.redo(node)
        now = masks(slicer, node, volume_node)
        assert all(np.array_equal(now[name], state[name]) for name in now)


@pytest.mark.parametrize("kind", ["vtkMRMLVectorVolumeNode", "vtkMRMLScalarVolumeNode"])
def test_a_vector_or_4d_volume_is_refused_in_words_by_every_door(
    slicer: Any, logic: Any, blob_student: str, kind: str
) -> None:
    import vtk

    image = vtk.vtkImageData()
    image.SetDimensions(6, 5, 4)
    image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 3)
    colours = slicer.mrmlScene.AddNewNodeByClass(kind, "colours")
    colours.SetAndObserveImageData(image)
    with pytest.raises(InputError, match="'colours' has several values in each voxel"):
        logic.segment(colours, blob_student)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "by hand")
    node.GetSegmentation().AddEmptySegment("mine", "mine")
    node.SetReferenceImageGeometryParameterFromVolumeNode(colours)
    with pytest.raises(InputError, match="'colours' has several values in each voxel"):
        logic.click(node, "mine", (1.0, 1.0, 1.0))
    assert points(slicer) == []
