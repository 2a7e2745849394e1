"""The Segment Editor's effect: runs and clicks through Slicer's own editor logic, with its masks, modes and undo."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from effect_user import all_second, bitten, empty, run
from geometries import oblique_left_handed
from ReCoKDLib.volume import Volume

TwoBlobs = Callable[..., tuple[Volume, Volume]]
Array = npt.NDArray[Any]


def test_it_is_listed_with_icon_and_help(host: Any, effect_module: Any) -> None:
    from slicer_host.editor import Factory

    assert host.module.parent.hidden
    scripted = Factory.effects["ReCoKD"]
    assert scripted.perSegment
    assert not scripted.self().icon().pixmap(24, 24).isNull()
    assert "not a medical device" in scripted.self().helpText()


@pytest.mark.parametrize("geometry", [None, oblique_left_handed()], ids=["plain", "oblique, left-handed"])
def test_a_run_fills_the_selected_segment_and_undo_takes_it_back(
    host: Any, case: Any, two_blobs: TwoBlobs, geometry: Any
) -> None:
    here = case(empty, geometry)
    assert here.options.structureComboBox.currentText == "Anterior"  # as the segment is called
    run(host, here)
    expected = two_blobs(geometry)[1].array[0] == 1
    assert (here.mask(0) != expected).mean() < 0.02  # the oblique one is resampled
    assert here.mask(0).any()
    assert not here.mask(1).any()
    assert here.options.statusLabel.text.startswith("Anterior found in")
    here.editor.logic.Undo()
    assert not here.mask(0).any()
    here.editor.logic.Redo()
    assert here.mask(0).any()


def test_another_structure(host: Any, case: Any, two_blobs: TwoBlobs) -> None:
    here = case(empty)
    combo = here.options.structureComboBox
    combo.setCurrentIndex(combo.findText("Größe hinten"))
    run(host, here)
    assert np.array_equal(here.mask(0), two_blobs()[1].array[0] == 2)


def test_masking_is_the_editors(host: Any, slicer: Any, case: Any) -> None:
    """Only where no segment is; then only in an intensity range."""

    def half(array: Array) -> None:
        array[...] = 0
        array[:6] = 2  # of the second segment, over part of the first blob

    here = case(half)
    here.editor.node.SetMaskMode(slicer.vtkMRMLSegmentationNode.EditAllowedOutsideAllSegments)
    run(host, here)
    assert here.mask(0).any()
    assert not here.mask(0)[:6].any()
    assert here.mask(1)[:6].all()
    here.editor.logic.Undo()
    here.editor.node.SetMaskMode(slicer.vtkMRMLSegmentationNode.EditAllowedEverywhere)
    here.editor.node.SetSourceVolumeIntensityMask(True)
    here.editor.node.SetSourceVolumeIntensityMaskRange(160, 1000)
    run(host, here)
    assert here.mask(0).any()
    assert here.image.array[0][here.mask(0)].min() >= 160


def test_overwrite_mode_is_the_editors(host: Any, slicer: Any, case: Any) -> None:
    here = case(all_second)
    here.editor.node.SetOverwriteMode(here.editor.node.OverwriteNone)
    run(host, here)
    assert here.mask(0).any()
    assert here.mask(1).all()  # they overlap
    here.editor.logic.Undo()
    here.editor.node.SetOverwriteMode(here.editor.node.OverwriteAllSegments)
    run(host, here)
    assert np.array_equal(here.mask(1), ~here.mask(0))


def test_locked_segments_are_left_alone(host: Any, case: Any) -> None:
    here = case(all_second)
    here.lock(1)
    run(host, here)
    assert here.mask(1).all()
    assert not here.mask(0).any()
    here.lock(0)
    run(host, here)
    assert host.messages == ["The segment Anterior is locked: its status is Completed. Change its status to edit it."]


@pytest.mark.parametrize("geometry", [None, oblique_left_handed()], ids=["plain", "oblique, left-handed"])
def test_a_click_inside_fills_what_was_missed(host: Any, case: Any, geometry: Any) -> None:
    here = case(bitten, geometry)
    before = here.mask(0)
    other = here.mask(1)
    assert not before[6, 6, 7]
    here.effect.click(here.place(6, 6, 7), True)
    after = here.mask(0)
    assert after[6, 6, 7]
    assert after.sum() > before.sum() + 10
    assert np.array_equal(here.mask(1), other)
    here.editor.logic.Undo()
    assert np.array_equal(here.mask(0), before)


def test_a_click_outside_removes_what_is_too_much(host: Any, case: Any) -> None:
    def blot(array: Array) -> None:
        array[12:15, 3:7, 18:22] = 1

    here = case(blot)
    here.effect.click(here.place(13, 5, 20), False)
    after = here.mask(0)
    assert not after[13, 5, 20]
    assert after[6, 6, 7]


def test_clicks_go_by_the_last_run(host: Any, case: Any, two_blobs: TwoBlobs) -> None:
    """With the student's probabilities, a click where it was right brings the whole structure back."""
    here = case(empty)
    run(host, here)
    whole = here.mask(0)
    from ReCoKDLib.mrml.voxels import oriented_image

    nothing = oriented_image(np.zeros(here.image.shape, np.uint8), here.image.ijk_to_ras)
    here.effect.scriptedEffect.modifySelectedSegmentByLabelmap(
        nothing, here.slicer.qSlicerSegmentEditorAbstractEffect.ModificationModeSet
    )
    assert not here.mask(0).any()
    here.effect.click(here.place(6, 6, 7), True)
    assert (here.mask(0) & whole).sum() > 0.9 * whole.sum()


def test_a_click_into_a_locked_neighbour_is_refused(host: Any, case: Any) -> None:
    here = case()
    here.lock(1)
    before, other = here.mask(0), here.mask(1)
    where = [int(n) for n in np.argwhere(other)[len(np.argwhere(other)) // 2]]
    here.effect.click(here.place(*where), True)
    assert np.array_equal(here.mask(1), other)
    assert not (here.mask(0) & other).any()
    assert before.any()


def test_clicks_outside_the_volume_are_refused_in_words(host: Any, slicer: Any, case: Any) -> None:
    here = case()
    before = here.mask(0)
    here.press((9000.0, 0.0, 0.0), control=True)
    (message,) = host.messages
    assert "outside" in message.lower()
    assert np.array_equal(here.mask(0), before)
    assert not here.editor.logic.CanUndo()


def test_only_clicks_with_control_are_taken(host: Any, case: Any) -> None:
    here = case(bitten)
    assert not here.press(here.place(6, 6, 7), control=False)
    assert not here.mask(0)[6, 6, 7]
    assert here.press(here.place(6, 6, 7), control=True)
    assert here.mask(0)[6, 6, 7]
    assert here.press(here.place(6, 6, 7), control=True, shift=True)
    assert not here.mask(0)[6, 6, 7]


def test_a_click_on_the_surface_in_3d(host: Any, slicer: Any, case: Any) -> None:
    """A line of sight through the first blob hits its surface, not the volume behind it."""
    import vtk

    here = case()
    here.segmentation.CreateClosedSurfaceRepresentation()
    middle = np.array(here.place(6, 6, 7))
    window, renderer = vtk.vtkRenderWindow(), vtk.vtkRenderer()
    window.SetOffScreenRendering(True)
    window.SetSize(200, 200)
    window.AddRenderer(renderer)
    camera = renderer.GetActiveCamera()
    camera.SetFocalPoint(*middle)
    camera.SetPosition(middle[0], middle[1], middle[2] + 300)
    renderer.ResetCameraClippingRange(-200, 200, -200, 200, -200, 200)
    view = SimpleNamespace(className=lambda: "qMRMLThreeDWidget", renderer=renderer)
    hit = here.effect._view(None, view).to_world(100, 100)
    assert hit is not None
    k, j, i = (np.linalg.inv(here.image.ijk_to_ras) @ np.array([*hit, 1.0]))[2::-1]
    assert abs(j - 6) < 1.5
    assert abs(i - 7) < 1.5
    assert here.effect._view(None, view).to_world(2, 2) is None


def test_cancel_and_leaving_the_effect_leave_the_segment(host: Any, case: Any, runs: Any) -> None:
    here = case(empty)
    runs.hold = True
    host.click(here.options.runButton)
    host.run_for(0.05)
    assert here.options.progressBar.value == 25
    host.click(here.options.cancelButton)
    assert here.options.statusLabel.text == "Cancelled. The scene is as it was."
    host.click(here.options.runButton)
    host.run_for(0.05)
    here.effect.deactivate()
    assert runs.started[-1].over
    assert not here.mask(0).any()
    assert not here.editor.logic.CanUndo()


def test_a_segment_removed_meanwhile(host: Any, case: Any, runs: Any) -> None:
    here = case(empty)
    runs.hold = True
    host.click(here.options.runButton)
    host.run_for(0.05)
    here.segmentation.GetSegmentation().RemoveSegment(here.ids[0])
    runs.started[-1].release()
    assert here.options.statusLabel.text == "The segment was removed meanwhile, so nothing was changed."
