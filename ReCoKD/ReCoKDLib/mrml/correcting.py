"""Correcting a segmentation as panel and Segment Editor do it: clicks, strokes, steps back; points that are dragged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ..interaction.corrections import Click, Correction, Stroke
from .clicks import Mark, remove_mark


def correction(
    segment: str, points: Sequence[tuple[float, float, float]], inside: bool, radius_mm: float
) -> Correction:
    """What the mouse said: one point (RAS, mm) is a click, several are a stroke with this radius.

    Raises:
        CorrectionError: There is no point, or there are too many.
    """
    if len(points) == 1:
        return Click(points[0], segment, inside)
    return Stroke(tuple(points), radius_mm, segment, inside)


class Correcting:
    """The corrections of one segmentation at a time.

    Between the calls, points that the user drags, places or deletes in the views are carried out at once.

    Args:
        logic: ``ReCoKDLogic``.
        on_refined: Called with a ``Refined`` after each change that the views brought about.
        on_refused: Told why a point was taken away again.
    """

    def __init__(self, logic: Any, on_refined: Callable[[Any], None], on_refused: Callable[[str], None]) -> None:
        self._logic = logic
        self._on_refined = on_refined
        self._on_refused = on_refused
        self.node: Any = None

    def open(self, segmentation_node: Any) -> None:
        """Begin with a segmentation; the first time this reads all of it, and may ask the student once more.

        Raises:
            ReCoKDError: It cannot be corrected.
        """
        if segmentation_node is not self.node:
            self.close()
            self._logic.startClicks(segmentation_node, self._on_refined, self._on_refused)
            self.node = segmentation_node

    def close(self) -> None:
        """Leave the points alone."""
        self._logic.stopClicks()
        self.node = None

    def click(self, segment_id: str, points: Sequence[tuple[float, float, float]], inside: bool, radius: float) -> Any:
        """One point is a click, several are a stroke with this radius in mm; returns a ``Refined``.

        Raises:
            ReCoKDError: It cannot be carried out; nothing was changed.
        """
        said = correction(segment_id, points, inside, radius)
        with self._unwatched():
            return self._logic.refine(self.node, [said])

    def undo(self) -> Any:
        """Take the last step back.

        Raises:
            ReCoKDError: There is none.
        """
        with self._unwatched():
            return self._logic.undo(self.node)

    def redo(self) -> Any:
        """Make the step again.

        Raises:
            ReCoKDError: There is none.
        """
        with self._unwatched():
            return self._logic.redo(self.node)

    def delete(self, mark: Mark) -> Any:
        """Remove a click, and with it what it changed.

        Raises:
            ReCoKDError: The segmentation or its volume is gone.
        """
        with self._unwatched():
            remove_mark(mark)
            return self._logic.refine(self.node)

    @property
    def can_undo(self) -> bool:
        """Whether there is a step to take back."""
        return self.node is not None and self._session().can_undo

    @property
    def can_redo(self) -> bool:
        """Whether a step was taken back."""
        return self.node is not None and self._session().can_redo

    def _session(self) -> Any:
        from .sessions import refining

        return refining(self.node)

    @contextmanager
    def _unwatched(self) -> Iterator[None]:
        """What changes here among the points is no wish of the user's."""
        self._logic.stopClicks()
        try:
            yield
        finally:
            self._logic.startClicks(self.node, self._on_refined, self._on_refused)
