"""Slice views of Slicer without a screen: its own nodes, logic, displayable managers and mouse handling.

VTK draws into memory through EGL (Mesa), so no X server is needed. Everything between a mouse event and the node that
it changes is Slicer's; only the window that would send the event is missing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ReCoKDLib.mrml.host import ensure_slicer

_MANAGERS = (
    "vtkMRMLVolumeGlyphSliceDisplayableManager",
    "vtkMRMLModelSliceDisplayableManager",
    "vtkMRMLSegmentationsDisplayableManager2D",
    "vtkMRMLMarkupsDisplayableManager",
)


def require_rendering() -> None:
    """Skip the test where nothing can be drawn."""
    import subprocess
    import sys

    # In a process of its own: without EGL and without a display VTK ends the process.
    code = (
        "import vtk; w = vtk.vtkRenderWindow(); w.SetOffScreenRendering(1); w.SetSize(8, 8); w.Render();"
        "raise SystemExit(0 if w.SupportsOpenGL() else 1)"
    )
    try:
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=120, check=False)
        drawn = run.returncode == 0
    except subprocess.TimeoutExpired:
        drawn = False
    if not drawn:
        pytest.skip("nothing can be drawn here: needs OpenGL without a screen (Debian: libegl1 libgl1-mesa-dri)")


class SliceView:
    """One slice view.

    Args:
        name: Of its layout, such as ``"Red"``.
        orientation: ``"Axial"``, ``"Coronal"`` or ``"Sagittal"``; or a (3, 3) matrix whose columns are the directions
            to the right, upwards and towards the viewer, in RAS.
        volume_node: What it shows.
        size: Pixels.
    """

    def __init__(
        self,
        name: str,
        orientation: str | npt.NDArray[np.float64],
        volume_node: Any,
        size: tuple[int, int] = (500, 400),
    ) -> None:
        import vtk

        slicer = ensure_slicer()
        scene = slicer.mrmlScene
        _prepare_scene(slicer)
        self.logic = slicer.vtkMRMLSliceLogic()
        self.logic.SetMRMLApplicationLogic(slicer.modules.markups.logic().GetMRMLApplicationLogic())
        self.logic.SetMRMLScene(scene)
        # A view's node survives a closed scene, and Slicer's logic would make another one that is in no scene.
        known = scene.GetSingletonNode(name, "vtkMRMLSliceNode")
        if known is None:
            self.node = self.logic.AddSliceNode(name)
        else:
            self.node = known
            self.logic.SetSliceNode(known)
        self.node.SetDimensions(*size, 1)
        self.logic.GetMRMLApplicationLogic().GetSliceLogics().AddItem(self.logic)
        self.logic.GetSliceCompositeNode().SetBackgroundVolumeID(volume_node.GetID())

        self.window = vtk.vtkRenderWindow()
        self.window.SetOffScreenRendering(1)
        self.window.SetMultiSamples(0)
        self.window.SetSize(*size)
        self.renderer = vtk.vtkRenderer()
        self.window.AddRenderer(self.renderer)
        self._show_image(vtk, size)

        factory = slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance()
        factory.SetMRMLApplicationLogic(self.logic.GetMRMLApplicationLogic())
        for manager in _MANAGERS:
            if not factory.IsDisplayableManagerRegistered(manager):
                factory.RegisterDisplayableManager(manager)
        self.interactor = vtk.vtkGenericRenderWindowInteractor()
        self.interactor.SetRenderWindow(self.window)
        self.group = slicer.vtkMRMLDisplayableManagerGroup()
        self.group.Initialize(factory, self.renderer)
        self.group.SetMRMLDisplayableNode(self.node)
        self.style = slicer.vtkMRMLSliceViewInteractorStyle()
        self.style.SetSliceLogic(self.logic)
        self.style.SetDisplayableManagers(self.group)
        self.interactor.SetInteractorStyle(vtk.vtkInteractorStyleUser())
        self.style.SetInteractor(self.interactor)
        self.interactor.Initialize()

        if isinstance(orientation, str):
            self.node.SetOrientation(orientation)
        else:
            to_ras = vtk.vtkMatrix4x4()
            for row in range(3):
                for column in range(3):
                    to_ras.SetElement(row, column, float(orientation[row, column]))
            self.node.GetSliceToRAS().DeepCopy(to_ras)
            self.node.UpdateMatrices()
        self.logic.FitSliceToAll()
        self.node.UpdateMatrices()
        self.render()

    def _show_image(self, vtk: Any, size: tuple[int, int]) -> None:
        # The application's own view does this in a Qt widget.
        mapper = vtk.vtkImageMapper()
        mapper.SetColorWindow(255)
        mapper.SetColorLevel(127.5)
        mapper.SetInputConnection(self.logic.GetImageDataConnection())
        actor = vtk.vtkActor2D()
        actor.SetMapper(mapper)
        actor.GetProperty().SetDisplayLocationToBackground()
        self.renderer.AddViewProp(actor)

    def render(self) -> None:
        """Draw."""
        self.window.Render()

    def picture(self, path: Path | None = None) -> npt.NDArray[np.uint8]:
        """What the view shows, (row from the top, column, RGB); written as PNG too if a path is given."""
        import vtk
        from vtk.util.numpy_support import vtk_to_numpy

        self.render()
        grab = vtk.vtkWindowToImageFilter()
        grab.SetInput(self.window)
        grab.ReadFrontBufferOff()
        grab.Update()
        image = grab.GetOutput()
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            writer = vtk.vtkPNGWriter()
            writer.SetFileName(str(path))
            writer.SetInputData(image)
            writer.Write()
        columns, rows, _ = image.GetDimensions()
        array = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(rows, columns, -1)
        return np.ascontiguousarray(array[::-1, :, :3])

    def pixel_of(self, ras: npt.ArrayLike) -> tuple[int, int]:
        """Where the view shows a place: pixels from the left and from the bottom."""
        to_xy = np.linalg.inv(self._matrix(self.node.GetXYToRAS()))
        x, y = (to_xy @ np.append(np.asarray(ras, dtype=np.float64), 1.0))[:2]
        return round(float(x)), round(float(y))

    def place_of(self, pixel: tuple[int, int]) -> npt.NDArray[np.float64]:
        """What lies at a pixel, RAS mm."""
        place: npt.NDArray[np.float64] = (self._matrix(self.node.GetXYToRAS()) @ (*pixel, 0.0, 1.0))[:3]
        return place

    def click(self, pixel: tuple[int, int]) -> None:
        """Press and let go the left mouse button."""
        self.move(pixel)
        self._button("LeftButtonPressEvent", pixel)
        self._button("LeftButtonReleaseEvent", pixel)

    def drag(self, start: tuple[int, int], end: tuple[int, int]) -> None:
        """Drag with the left mouse button, in some steps."""
        self.move(start)
        self._button("LeftButtonPressEvent", start)
        for share in (0.3, 0.7, 1.0):
            self.move(tuple(round(a + share * (b - a)) for a, b in zip(start, end, strict=True)))
        self._button("LeftButtonReleaseEvent", end)

    def move(self, pixel: Any) -> None:
        """Move the mouse, and draw: markups are found where they were last drawn."""
        self._button("MouseMoveEvent", pixel)
        self.render()

    def _button(self, event: str, pixel: tuple[int, int]) -> None:
        self.interactor.SetEventInformation(*pixel, 0, 0, "\0", 0, None)
        self.interactor.InvokeEvent(event)

    @staticmethod
    def _matrix(matrix: Any) -> npt.NDArray[np.float64]:
        return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])


def start_placing(markups_node: Any) -> None:
    """Let each click in a view add a point to a list, as the arrow in the module Markups does."""
    slicer = ensure_slicer()
    logic = slicer.modules.markups.logic()
    logic.SetActiveList(markups_node)
    logic.StartPlaceMode(True)


def stop_placing() -> None:
    """Let clicks select and move points again."""
    interaction = ensure_slicer().modules.markups.logic().GetMRMLApplicationLogic().GetInteractionNode()
    interaction.SetCurrentInteractionMode(interaction.ViewTransform)


def _prepare_scene(slicer: Any) -> None:
    """What the application makes at its start."""
    import vtk

    scene = slicer.mrmlScene
    application = slicer.modules.markups.logic().GetMRMLApplicationLogic()
    if scene.GetFirstNodeByClass("vtkMRMLCrosshairNode") is None:
        crosshair = slicer.vtkMRMLCrosshairNode()
        crosshair.SetCrosshairName("default")
        scene.AddNode(crosshair)
    if application.GetSliceLogics() is None:
        application.SetSliceLogics(vtk.vtkCollection())
        application.SetViewLogics(vtk.vtkCollection())
    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene, True)
