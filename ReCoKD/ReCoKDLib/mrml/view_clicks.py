"""Mouse clicks with a modifier, and strokes, in slice views and on segments' surfaces in 3D."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .host import ensure_slicer
from .volumes import world_from_node

Point = tuple[float, float, float]
_PRIORITY = 10.0  # before Slicer's own, which would blend or turn the view
_STEP_PIXELS = 2


@dataclass(frozen=True)
class View:
    """A view of the layout.

    Attributes:
        interactor: ``vtkRenderWindowInteractor``.
        to_world: Gives the RAS place of a pixel, or None where there is nothing.
        can_draw: Whether strokes can be drawn in it.
    """

    interactor: Any
    to_world: Callable[[int, int], Point | None]
    can_draw: bool = True


class Pointer:
    """What the mouse says in views: Ctrl+click is inside, Ctrl+Shift+click outside; a drag draws where that is wanted.

    Args:
        on_points: Called with the points (one of a click), and whether they are inside.
        stroke: Asked whether the mouse draws: None for single points, else whether what it draws without a modifier is
            inside (with one, the modifier tells).
    """

    def __init__(self, on_points: Callable[[list[Point], bool], None], stroke: Callable[[], bool | None]) -> None:
        self._on_points = on_points
        self._stroke = stroke
        self._drawn: list[Point] | None = None
        self._inside = True
        self._last = (0, 0)

    def pressed(self, view: View) -> bool:
        """The left button was pressed; returns whether that is ours, as do the others."""
        control, shift = view.interactor.GetControlKey(), view.interactor.GetShiftKey()
        drawing = self._stroke()
        if not control and (drawing is None or shift or not view.can_draw):
            return False
        x, y = view.interactor.GetEventPosition()
        place = view.to_world(x, y)
        if place is None:
            return False
        self._inside = not shift if control else bool(drawing)
        self._last = (x, y)
        self._drawn = [place]
        if drawing is None or not view.can_draw:
            # At once, not when the button is let go: a click feels slow otherwise.
            self._finish()
            self._drawn = []
        return True

    def moved(self, view: View) -> bool:
        """The mouse was moved."""
        if self._drawn is None:
            return False
        x, y = view.interactor.GetEventPosition()
        if self._drawn and max(abs(x - self._last[0]), abs(y - self._last[1])) >= _STEP_PIXELS:
            place = view.to_world(x, y)
            if place is not None:
                self._drawn.append(place)
                self._last = (x, y)
        return True

    def released(self, view: View) -> bool:
        """The left button was let go."""
        if self._drawn is None:
            return False
        if self._drawn:
            self._finish()
        self._drawn = None
        return True

    def _finish(self) -> None:
        points = self._drawn or []
        self._drawn = None
        self._on_points(points, self._inside)


class ViewClicks(Pointer):
    """Watches views.

    Args:
        views: As of :func:`layout_views`.
        on_points: As of :class:`Pointer`.
        stroke: As of :class:`Pointer`.
    """

    def __init__(
        self,
        views: Sequence[View],
        on_points: Callable[[list[Point], bool], None],
        stroke: Callable[[], bool | None],
    ) -> None:
        super().__init__(on_points, stroke)
        self._observations: list[tuple[Any, int]] = []
        for view in views:
            for event, function in (
                ("LeftButtonPressEvent", self.pressed),
                ("MouseMoveEvent", self.moved),
                ("LeftButtonReleaseEvent", self.released),
            ):
                self._observe(view, event, function)

    def stop(self) -> None:
        """Watch no more."""
        for interactor, tag in self._observations:
            interactor.RemoveObserver(tag)
        self._observations.clear()

    def _observe(self, view: View, event: str, function: Callable[[View], bool]) -> None:
        tags: list[int] = []

        def heard(caller: Any, name: str) -> None:
            if function(view):
                caller.GetCommand(tags[0]).SetAbortFlag(1)  # nobody else hears it

        tags.append(view.interactor.AddObserver(event, heard, _PRIORITY))
        self._observations.append((view.interactor, tags[0]))


def layout_views(segmentation: Callable[[], Any]) -> list[View]:
    """The slice views and 3D views of Slicer's present layout; none without the application.

    Args:
        segmentation: Gives the segmentation whose surfaces are clicked at in 3D.
    """
    application = getattr(ensure_slicer(), "app", None)
    if application is None or not hasattr(application, "layoutManager"):
        return []
    manager = application.layoutManager()
    if manager is None:  # Slicer without a main window
        return []
    views = []
    for name in manager.sliceViewNames():
        widget = manager.sliceWidget(name)
        views.append(slice_view(widget.sliceView().interactor(), widget.mrmlSliceNode()))
    for index in range(manager.threeDViewCount):
        view = manager.threeDWidget(index).threeDView()
        views.append(
            surface_view(view.interactor(), view.renderWindow().GetRenderers().GetFirstRenderer(), segmentation)
        )
    return views


def slice_view(interactor: Any, slice_node: Any) -> View:
    """A slice view."""

    def to_world(x: int, y: int) -> Point:
        r, a, s, _ = slice_node.GetXYToRAS().MultiplyPoint((x, y, 0.0, 1.0))
        return r, a, s

    return View(interactor, to_world)


def surface_view(interactor: Any, renderer: Any, segmentation: Callable[[], Any]) -> View:
    """A 3D view, in which the surfaces of visible segments are hit and nothing else."""

    def to_world(x: int, y: int) -> Point | None:
        node = segmentation()
        if node is None:
            return None
        return first_hit(node, _at(renderer, x, y, 0.0), _at(renderer, x, y, 1.0))

    return View(interactor, to_world, can_draw=False)


def first_hit(segmentation_node: Any, start: Point, end: Point) -> Point | None:
    """Where a line (RAS, mm) first meets the surface of a visible segment; None where it meets none."""
    import vtk

    slicer = ensure_slicer()
    name = slicer.vtkSegmentationConverter.GetSegmentationClosedSurfaceRepresentationName()
    segmentation, display = segmentation_node.GetSegmentation(), segmentation_node.GetDisplayNode()
    world = world_from_node(segmentation_node)
    near, far = (_moved(np.linalg.inv(world), point) for point in (start, end))
    hits = []
    for index in range(segmentation.GetNumberOfSegments()):
        surface = segmentation.GetNthSegment(index).GetRepresentation(name)
        visible = display is None or display.GetSegmentVisibility(segmentation.GetNthSegmentID(index))
        if surface is None or not surface.GetNumberOfCells() or not visible:
            continue
        tree, points = vtk.vtkOBBTree(), vtk.vtkPoints()
        tree.SetDataSet(surface)
        tree.BuildLocator()
        tree.IntersectWithLine(near, far, points, None)
        hits += [points.GetPoint(n) for n in range(points.GetNumberOfPoints())]
    if not hits:
        return None
    return _moved(world, min(hits, key=lambda hit: float(np.linalg.norm(np.subtract(hit, near)))))


def _at(renderer: Any, x: int, y: int, depth: float) -> Point:
    renderer.SetDisplayPoint(x, y, depth)
    renderer.DisplayToWorld()
    r, a, s, w = renderer.GetWorldPoint()
    return r / w, a / w, s / w


def _moved(matrix: Any, point: Sequence[float]) -> Point:
    r, a, s = (matrix @ np.array([*point, 1.0]))[:3].tolist()
    return r, a, s
