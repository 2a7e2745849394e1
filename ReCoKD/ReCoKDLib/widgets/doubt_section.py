"""Doubt: where the student is not sure, as an overlay and slice by slice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..mrml.texts import _
from ..mrml.views import hide_overlay, show_overlay
from .section import Section


class DoubtSection(Section):
    """Asks once for each result, and goes through the places from the most doubtful on."""

    def connect(self) -> None:
        """Connect the widgets."""
        self._of: Any = None  # the segmentation that these belong to
        self._confidence: Any = None
        self._slices: list[Any] = []
        self._next = 0
        self.say(self.ui.doubtLabel, "")
        self.set_icon(self.ui.confidenceCheckBox, "confidence")
        self.set_icon(self.ui.nextDoubtButton, "next")
        self.clicked(self.ui.nextDoubtButton, self.show_next, wait=True)
        self.clicked(self.ui.confidenceCheckBox, self._overlay, wait=True)
        self.panel.add_key("N", self.show_next)

    def update(self) -> None:
        """Only what a student segmented has doubts."""
        node = self.panel.segmentation
        if node is not self._of:
            self.forget()
        self.ui.DoubtSection.visible = node is not None
        known = self.logic.knowsDoubt(node)
        self.ui.nextDoubtButton.enabled = self.ui.confidenceCheckBox.enabled = known

    def scene_closing(self) -> None:
        """The volumes go away."""
        self._confidence = None
        self.forget()

    def forget(self) -> None:
        """The result is another one."""
        if self._confidence is not None:
            hide_overlay(self._confidence)
        self._of, self._confidence, self._slices, self._next = self.panel.segmentation, None, [], 0
        self.ui.confidenceCheckBox.checked = False
        self.say(self.ui.doubtLabel, "")

    def show_next(self) -> None:
        """Show the next doubtful place in all slice views; after the last one, the first again."""
        if not self.ui.nextDoubtButton.enabled:
            return
        self._ask(self._show_next, self._say)

    def _show_next(self) -> None:
        if not self._slices:
            self._say(_("The student is sure everywhere."))
            return
        place = self._slices[self._next]
        self.logic.jumpTo(place)
        text = _("{number} of {count}: {segments}, {size:.2g} ml in doubt").format(
            number=self._next + 1,
            count=len(self._slices),
            segments=", ".join(place.segments) or _("background"),
            size=place.size_mm3 / 1000,
        )
        self._say(text)
        self._next = (self._next + 1) % len(self._slices)

    def _overlay(self) -> None:
        if not self.ui.confidenceCheckBox.checked:
            if self._confidence is not None:
                hide_overlay(self._confidence)
            return
        try:
            self._ask(lambda: show_overlay(self._confidence), self._uncheck)
        except Exception:
            self._uncheck("")
            raise

    def _uncheck(self, why: str) -> None:
        self.ui.confidenceCheckBox.checked = False
        self._say(why)

    def _say(self, text: str) -> None:
        self.say(self.ui.doubtLabel, text)

    def _ask(self, action: Callable[[], None], dropped: Callable[[str], None]) -> None:
        """Do something with the confidence and the slices, once they are known."""

        def know() -> None:
            if self._confidence is None:
                self._confidence, self._slices = self.logic.doubtfulSlices(self.panel.segmentation)
                self._next = 0
            action()

        then = _("Then it shows where it is not sure.")
        self.panel.asking.before(know, self.ui.doubtLabel, then, dropped)
