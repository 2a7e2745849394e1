"""The panel after a run: doubtful slices, clicks by mouse and keys, steps back, Segment Editor, hand-over."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from panel_user import choose, segment, segmentations
from ReCoKDLib.mrml.volumes import volume_to_node
from ReCoKDLib.volume import Volume

TwoBlobs = Callable[..., tuple[Volume, Volume]]
Array = npt.NDArray[Any]


class Segmented:
    """A panel whose volume was segmented."""

    def __init__(self, host: Any, slicer: Any, panel: Any, image: Volume, labels: Volume, student: str) -> None:
        self.host, self.slicer, self.panel, self.ui = host, slicer, panel, panel.ui
        self.image, self.labels = image, labels
        self.volume = volume_to_node(image, name="head")
        choose(panel.ui.studentComboBox, student)
        segment(host, panel)
        (self.node,) = segmentations(slicer)

    def mask(self, index: int = 0) -> Array:
        segment_id = self.node.GetSegmentation().GetNthSegmentID(index)
        found: Array = self.slicer.util.arrayFromSegmentBinaryLabelmap(self.node, segment_id, self.volume)
        return found > 0

    def place(self, k: int, j: int, i: int) -> list[float]:
        found: list[float] = (self.image.ijk_to_ras @ np.array([i, j, k, 1.0]))[:3].tolist()
        return found

    def point_at(self, k: int, j: int, i: int) -> None:
        """Hold the mouse over a voxel of a slice view."""
        crosshair = self.slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
        if crosshair is None:
            crosshair = self.slicer.mrmlScene.AddNewNodeByClass("vtkMRMLCrosshairNode", "default")
        crosshair.SetCursorPositionRAS(self.place(k, j, i))

    def key(self, key: str, modifiers: str = "") -> None:
        self.host.main_window.activateWindow()
        self.host.press(self.host.main_window, key, modifiers)
        self.host.run_for(0.02)

    def clicks(self) -> list[str]:
        shown = self.ui.clickList
        return [shown.item(row).text() for row in range(shown.count)]


@pytest.fixture
def segmented(host: Any, slicer: Any, two_blobs: TwoBlobs, blob_student: str, panel: Any) -> Segmented:
    return Segmented(host, slicer, panel, *two_blobs(), blob_student)


# Doubt


def test_the_next_doubtful_slice(segmented: Segmented, host: Any, slicer: Any) -> None:
    views = [slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSliceNode", name) for name in ("Red", "Green")]
    host.click(segmented.ui.nextDoubtButton)
    assert host.messages == []
    found = segmented.panel.panel.doubt._slices
    assert found
    assert segmented.ui.doubtLabel.text.startswith(f"1 of {len(found)}: ")
    for view in views:
        centre = [view.GetSliceToRAS().GetElement(row, 3) for row in range(3)]
        assert np.allclose(centre, found[0].position_ras, atol=1e-3)
    for _ in found:
        segmented.key("N")
    assert segmented.ui.doubtLabel.text.startswith(f"1 of {len(found)}: ")


def test_the_confidence_is_laid_over_the_volume(segmented: Segmented, host: Any, slicer: Any) -> None:
    composite = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSliceCompositeNode", "Red")
    host.click(segmented.ui.confidenceCheckBox)
    assert host.messages == []
    over = slicer.mrmlScene.GetNodeByID(composite.GetForegroundVolumeID())
    assert over.GetName() == "head segmentation confidence"
    assert composite.GetForegroundOpacity() == 0.5
    host.click(segmented.ui.confidenceCheckBox)
    assert composite.GetForegroundVolumeID() is None


def test_there_is_no_doubt_about_a_drawing(segmented: Segmented, slicer: Any) -> None:
    drawn = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "drawn")
    segmented.ui.outputSelector.setCurrentNode(drawn)
    assert not segmented.ui.nextDoubtButton.enabled
    segmented.key("N")
    assert segmented.ui.doubtLabel.text == ""


# Clicks


def test_three_keys_and_their_steps(segmented: Segmented, host: Any, picture_of: Any) -> None:
    """I and O at the mouse, Alt+Z and Alt+Shift+Z back and forth; each state is exactly what it was."""
    states = [segmented.mask()]
    for key, voxel in (("I", (9, 10, 12)), ("O", (6, 6, 7)), ("I", (2, 2, 2))):
        segmented.point_at(*voxel)
        segmented.key(key)
        assert segmented.mask()[voxel] == (key == "I")
        states.append(segmented.mask())
    assert host.messages == []
    assert segmented.ui.clickLabel.text.endswith(" voxels changed.")
    assert [text.split("(")[0].strip() for text in segmented.clicks()] == [
        "1  Anterior inside",
        "2  Anterior outside",
        "3  Anterior inside",
    ]
    picture_of("panel-5-clicks")
    for state in reversed(states[:-1]):
        host.click(segmented.ui.undoButton)
        assert np.array_equal(segmented.mask(), state)
    assert not segmented.ui.undoButton.enabled
    assert segmented.clicks() == []
    for state in states[1:]:
        segmented.key("Z", "Alt Shift")
        assert np.array_equal(segmented.mask(), state)
    segmented.key("Z", "Alt")
    assert np.array_equal(segmented.mask(), states[2])
    assert host.messages == []


def test_the_other_segment(segmented: Segmented, host: Any) -> None:
    before = segmented.mask(0)
    choose(segmented.ui.segmentComboBox, "Größe hinten")
    segmented.point_at(2, 2, 2)
    segmented.key("I")
    assert segmented.mask(1)[2, 2, 2]
    assert np.array_equal(segmented.mask(0), before)


def test_points_placed_in_the_views_are_carried_out(segmented: Segmented, host: Any, slicer: Any) -> None:
    """Slicer's own place mode is armed with the right list; a point that lands there, is dragged and is deleted."""
    host.click(segmented.ui.outsideButton)
    assert segmented.ui.outsideButton.checked
    selection = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLSelectionNode")
    points = slicer.mrmlScene.GetNodeByID(selection.GetActivePlaceNodeID())
    assert points.GetName() == "Anterior outside"
    interaction = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLInteractionNode")
    assert interaction.GetCurrentInteractionMode() == interaction.Place
    before = segmented.mask()
    points.AddControlPointWorld(segmented.place(6, 6, 7))
    assert not segmented.mask()[6, 6, 7]
    host.run_for(0.05)
    assert len(segmented.clicks()) == 1
    points.SetNthControlPointPositionWorld(0, *segmented.place(4, 6, 7))
    assert segmented.mask()[6, 6, 7] or not segmented.mask()[4, 6, 7]
    assert not segmented.mask()[4, 6, 7]
    points.RemoveNthControlPoint(0)
    assert np.array_equal(segmented.mask(), before)
    host.click(segmented.ui.insideButton)
    assert not segmented.ui.outsideButton.checked
    host.click(segmented.ui.insideButton)
    assert interaction.GetCurrentInteractionMode() == interaction.ViewTransform


def test_deleting_a_click_by_key(segmented: Segmented, host: Any) -> None:
    before = segmented.mask()
    segmented.point_at(6, 6, 7)
    segmented.key("O")
    shown = segmented.ui.clickList
    host.reveal(shown)
    shown.setFocus()
    shown.setCurrentRow(0)
    host.press(shown, "Delete")
    assert host.messages == []
    assert segmented.clicks() == []
    assert np.array_equal(segmented.mask(), before)
    host.click(segmented.ui.undoButton)
    assert len(segmented.clicks()) == 1
    segmented.ui.clickList.setCurrentRow(0)
    host.click(segmented.ui.deleteButton)
    assert np.array_equal(segmented.mask(), before)


def test_a_click_outside_the_volume_is_refused_in_words(segmented: Segmented, host: Any) -> None:
    before = segmented.mask()
    segmented.point_at(500, 0, 0)
    segmented.key("I")
    (message,) = host.messages
    assert "outside" in message.lower()
    assert np.array_equal(segmented.mask(), before)
    assert segmented.clicks() == []


def test_no_mouse_over_a_view(segmented: Segmented, host: Any) -> None:
    segmented.point_at(2, 2, 2)
    segmented.slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode").SetCursorPositionInvalid()
    segmented.key("I")
    assert segmented.ui.clickLabel.text == "Move the mouse pointer over a slice view first."


def test_keys_belong_to_the_open_module(segmented: Segmented, host: Any) -> None:
    segmented.point_at(2, 2, 2)
    segmented.panel.exit()
    segmented.key("I")
    assert not segmented.mask()[2, 2, 2]
    segmented.panel.enter()
    segmented.key("I")
    assert segmented.mask()[2, 2, 2]


def test_mouse_in_a_slice_view(segmented: Segmented, host: Any, slicer: Any) -> None:
    """Ctrl+click, Ctrl+Shift+click and a drawn stroke through VTK's own interactor."""
    import vtk

    from ReCoKDLib.mrml.view_clicks import ViewClicks, slice_view

    slice_node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSliceNode", "Red")
    slice_node.SetDimensions(200, 200, 1)
    slice_node.SetFieldOfView(50, 50, 1)
    slice_node.JumpSliceByCentering(*segmented.place(6, 6, 7))
    slice_node.UpdateMatrices()
    window = vtk.vtkRenderWindow()
    window.SetOffScreenRendering(True)
    window.SetSize(200, 200)
    interactor = vtk.vtkGenericRenderWindowInteractor()
    interactor.SetRenderWindow(window)
    interactor.Initialize()
    heard: list[str] = []
    interactor.AddObserver("LeftButtonPressEvent", lambda *_: heard.append("somebody else"))
    correct = segmented.panel.panel.correct
    views = ViewClicks([slice_view(interactor, slice_node)], correct._clicked_in_view, correct._drawing)

    def mouse(event: str, x: int, y: int, control: int = 0, shift: int = 0) -> None:
        interactor.SetEventInformation(x, y, control, shift)
        interactor.InvokeEvent(event)

    mouse("LeftButtonPressEvent", 100, 100)
    mouse("LeftButtonReleaseEvent", 100, 100)
    assert heard == ["somebody else"]
    assert segmented.clicks() == []
    mouse("LeftButtonPressEvent", 100, 100, 1, 1)
    mouse("LeftButtonReleaseEvent", 100, 100, 1, 1)
    assert not segmented.mask()[6, 6, 7]
    mouse("LeftButtonPressEvent", 100, 100, 1)
    mouse("LeftButtonReleaseEvent", 100, 100, 1)
    assert segmented.mask()[6, 6, 7]
    assert heard == ["somebody else"]  # nobody but us heard the others

    host.click(segmented.ui.strokeButton)
    host.click(segmented.ui.outsideButton)
    mouse("LeftButtonPressEvent", 92, 100)
    for x in range(94, 110, 2):
        mouse("MouseMoveEvent", x, 100)
    mouse("LeftButtonReleaseEvent", 110, 100)
    assert host.messages == []
    assert "stroke of 1 mm" in segmented.clicks()[-1]
    assert "outside" in segmented.clicks()[-1]
    assert not segmented.mask()[6, 6, 7]
    views.stop()
    mouse("LeftButtonPressEvent", 100, 100, 1)
    assert len(segmented.clicks()) == 3


def test_mouse_on_the_surface_in_3d(segmented: Segmented, host: Any, slicer: Any) -> None:
    """Ctrl+Shift+click on the surface takes away there; beside it, and in stroke mode, the view has its mouse."""
    import vtk

    from ReCoKDLib.mrml.view_clicks import ViewClicks, surface_view

    middle = np.array(segmented.place(6, 6, 7))
    window, renderer = vtk.vtkRenderWindow(), vtk.vtkRenderer()
    window.SetOffScreenRendering(True)
    window.SetSize(200, 200)
    window.AddRenderer(renderer)
    interactor = vtk.vtkGenericRenderWindowInteractor()
    interactor.SetRenderWindow(window)
    interactor.SetInteractorStyle(None)
    camera = renderer.GetActiveCamera()
    camera.SetFocalPoint(*middle)
    camera.SetPosition(middle[0], middle[1], middle[2] + 300)
    renderer.ResetCameraClippingRange(-200, 200, -200, 200, -200, 200)
    correct = segmented.panel.panel.correct
    views = ViewClicks(
        [surface_view(interactor, renderer, lambda: segmented.node)], correct._clicked_in_view, correct._drawing
    )

    def click(x: int, y: int, control: int = 1) -> None:
        for event in ("LeftButtonPressEvent", "LeftButtonReleaseEvent"):
            interactor.SetEventInformation(x, y, control, control)
            interactor.InvokeEvent(event)

    before = segmented.mask()
    click(2, 2)
    host.click(segmented.ui.strokeButton)
    click(100, 100, 0)
    assert segmented.clicks() == []
    click(100, 100)
    assert host.messages == []
    (text,) = segmented.clicks()
    assert "Anterior outside" in text
    after = segmented.mask()
    assert after.sum() < before.sum()
    taken = np.argwhere(before & ~after)
    assert np.abs(taken.mean(axis=0)[1:] - (6, 7)).max() < 2
    views.stop()


def test_the_panel_hears_the_views_of_the_layout(segmented: Segmented, host: Any, slicer: Any) -> None:
    """While the module is open, and no longer."""
    import vtk

    slice_node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSliceNode", "Red")
    interactor = vtk.vtkGenericRenderWindowInteractor()
    interactor.SetInteractorStyle(None)
    window, renderer = vtk.vtkRenderWindow(), vtk.vtkRenderer()
    window.AddRenderer(renderer)

    class Widget:
        def sliceView(self) -> Widget:
            return self

        def threeDView(self) -> Widget:
            return self

        def interactor(self) -> Any:
            return interactor

        def mrmlSliceNode(self) -> Any:
            return slice_node

        def renderWindow(self) -> Any:
            return window

    class Manager:
        threeDViewCount = 1  # noqa: N815

        def sliceViewNames(self) -> tuple[str, ...]:
            return ("Red",)

        def sliceWidget(self, name: str) -> Widget:
            assert name == "Red"
            return Widget()

        def threeDWidget(self, index: int) -> Widget:
            return Widget()

        def resetSliceViews(self) -> None:
            pass

    segmented.panel.exit()
    host.app.layoutManager = Manager
    try:
        segmented.panel.enter()
        assert interactor.HasObserver("LeftButtonPressEvent")
        segmented.panel.exit()
        assert not interactor.HasObserver("LeftButtonPressEvent")
    finally:
        del host.app.layoutManager
    segmented.panel.enter()


def test_clicks_survive_a_change_of_module(segmented: Segmented) -> None:
    segmented.point_at(6, 6, 7)
    segmented.key("O")
    changed = segmented.mask()
    segmented.panel.exit()
    segmented.panel.enter()
    assert len(segmented.clicks()) == 1
    segmented.point_at(2, 2, 2)
    segmented.key("I")
    assert segmented.mask()[2, 2, 2]
    assert not segmented.mask()[6, 6, 7]
    assert changed.any()


def test_the_run_is_undone_after_clicks(segmented: Segmented, host: Any) -> None:
    segmented.point_at(6, 6, 7)
    segmented.key("O")
    segment(host, segmented.panel)
    host.click(segmented.ui.undoRunButton)
    assert host.messages == []
    assert not segmented.mask()[6, 6, 7]


# Segment Editor


def test_slicers_editor_is_made_when_it_is_opened(segmented: Segmented, host: Any, slicer: Any) -> None:
    correct: Any = segmented.panel.panel.correct
    assert not correct.editor.widget
    host.reveal(segmented.ui.editorCollapsibleButton)
    segmented.ui.editorCollapsibleButton.setFocus()
    host.press(segmented.ui.editorCollapsibleButton, "Space")
    editor: Any = correct.editor.widget
    assert editor.segmentationNode() is segmented.node
    assert editor.sourceVolumeNode() is segmented.volume
    assert editor.visible_parts == {"segmentation": False, "volume": False, "switch": False}
    editor.setActiveEffect("Paint")
    segmented.panel.exit()
    assert editor.activeEffect() is None
    segmented.panel.enter()
    slicer.mrmlScene.Clear(0)
    assert editor.segmentationNode() is None
    segmented.panel.enter()


def test_what_the_editor_drew_stays(segmented: Segmented, host: Any) -> None:
    """Painted between two clicks: both know of it."""
    segmented.point_at(6, 6, 7)
    segmented.key("O")
    drawn = segmented.mask().astype(np.uint8)
    drawn[15:17, 15:17, 2:5] = 1
    segment_id = segmented.node.GetSegmentation().GetNthSegmentID(0)
    segmented.slicer.util.updateSegmentBinaryLabelmapFromArray(drawn, segmented.node, segment_id, segmented.volume)
    segmented.point_at(15, 3, 22)
    segmented.key("I")
    after = segmented.mask()
    assert after[15:17, 15:17, 2:5].all()
    assert after[15, 3, 22]
    assert not after[6, 6, 7]


# Hand over


def test_the_corrected_case_becomes_training_data(
    segmented: Segmented, host: Any, tmp_path: Path, picture_of: Any
) -> None:
    segmented.point_at(6, 6, 7)
    segmented.key("O")
    assert not segmented.ui.exportButton.enabled
    folder = tmp_path / "Dataset900_Blobs"
    folder.mkdir()
    host.chosen_files.append(str(folder))
    host.click(segmented.ui.exportFolderButton)
    host.click(segmented.ui.exportButton)
    assert host.messages == []
    assert segmented.ui.exportLabel.text.startswith("Added as ")
    assert len(list((folder / "labelsTr").iterdir())) == 1
    assert (folder / "provenance.json").is_file()
    picture_of("panel-6-hand-over")
    assert segmented.panel.panel.settings.dataset == str(folder)


def test_a_folder_with_other_things_is_refused(segmented: Segmented, host: Any, tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"")
    host.reveal(segmented.ui.exportFolderEdit)
    segmented.ui.exportFolderEdit.text = str(tmp_path)
    host.click(segmented.ui.exportButton)
    (message,) = host.messages
    assert "holiday.jpg" in message
