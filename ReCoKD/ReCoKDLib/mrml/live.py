"""Correcting while the user clicks: each point placed, moved or deleted is carried out at once."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from ..errors import ReCoKDError
from . import clicks
from .host import ensure_slicer
from .refining import Refined
from .sessions import refining


class LiveClicks:
    """Watches the clicks of one segmentation.

    While a point is dragged nothing happens; when it is let go, the segmentation follows. A point that cannot be
    carried out (outside the volume, in a locked segment) is taken away again, or put back where it was, and
    ``on_refused`` is told why.

    Args:
        segmentation_node: The segmentation.
        on_refined: Called after each change with a ``Refined``.
        on_refused: Called with the words; None writes them to the log.

    Raises:
        InputError: As for :func:`.sessions.refining`.
    """

    def __init__(
        self,
        segmentation_node: Any,
        on_refined: Callable[[Refined], None] | None = None,
        on_refused: Callable[[str], None] | None = None,
    ) -> None:
        self.node = segmentation_node
        self._on_refined = on_refined
        self._on_refused = on_refused
        self._busy = False
        self._dragging = False
        self._observations: list[tuple[Any, int]] = []
        self._watched: list[Any] = []
        refining(segmentation_node)  # the slow first step, before the first click
        self._begin()

    @property
    def is_active(self) -> bool:
        """Whether it still watches: not after :meth:`stop`, nor when scene or segmentation are gone."""
        return bool(self._observations)

    def stop(self) -> None:
        """Watch no more; the clicks stay."""
        observations, self._observations = self._observations, []
        self._watched.clear()
        for watched, tag in observations:
            watched.RemoveObserver(tag)

    def _begin(self) -> None:
        import vtk

        scene = ensure_slicer().mrmlScene

        @vtk.calldata_type(vtk.VTK_OBJECT)  # type: ignore[untyped-decorator]
        def added(caller: Any, event: Any, node: Any) -> None:
            self._watch(node)

        @vtk.calldata_type(vtk.VTK_OBJECT)  # type: ignore[untyped-decorator]
        def removed(caller: Any, event: Any, node: Any) -> None:
            if node is self.node:
                self.stop()
            elif any(node is watched for watched in self._watched):
                self._watched = [watched for watched in self._watched if watched is not node]
                self._follow()

        self._observe(scene, scene.NodeAddedEvent, added)
        self._observe(scene, scene.NodeRemovedEvent, removed)
        self._observe(scene, scene.StartCloseEvent, lambda caller, event: self.stop())
        for node in clicks.mark_nodes(self.node):
            self._watch(node)

    def _observe(self, watched: Any, event: int, function: Callable[..., None]) -> None:
        self._observations.append((watched, watched.AddObserver(event, function)))

    def _watch(self, node: Any) -> None:
        if node is None or not node.IsA("vtkMRMLMarkupsNode") or clicks.segmentation_of(node) is not self.node:
            return
        if any(node is watched for watched in self._watched):
            return
        self._watched.append(node)
        # Markups' own events have no names in Python, so each gets a function of its own.
        for event in (
            node.PointPositionDefinedEvent,
            node.PointPositionUndefinedEvent,
            node.PointModifiedEvent,
            node.PointRemovedEvent,
        ):
            self._observe(node, event, lambda caller, event: self._changed())
        self._observe(node, node.PointStartInteractionEvent, lambda caller, event: self._drag(True))
        self._observe(node, node.PointEndInteractionEvent, lambda caller, event: self._drag(False))

    def _drag(self, begins: bool) -> None:
        self._dragging = begins
        self._changed()

    def _changed(self) -> None:
        if not self._dragging:
            self._follow()

    def _follow(self) -> None:
        """Carry out what changed; changes that this makes among the points itself are not followed."""
        if self._busy or not self.is_active:
            return
        self._busy = True
        try:
            done = refining(self.node).refine()
        except ReCoKDError as error:
            self._refuse(str(error))
        else:
            for warning in done.warnings:
                self._say(warning)
            if done.voxels and self._on_refined is not None:
                self._on_refined(done)
        finally:
            self._busy = False

    def _refuse(self, message: str) -> None:
        try:
            refining(self.node).put_back()
        except ReCoKDError as error:
            logging.info("ReCoKD: %s", error)
        self._say(message)

    def _say(self, message: str) -> None:
        if self._on_refused is None:
            logging.warning("ReCoKD: %s", message)
        else:
            self._on_refused(message)
