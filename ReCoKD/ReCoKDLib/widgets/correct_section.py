"""Correct by clicks: points and strokes inside and outside of a segment, step by step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import qt

from ..errors import InputError
from ..mrml.choices import ClickChoice, SegmentsWatch, click_choices, segment_choices
from ..mrml.correcting import Correcting
from ..mrml.texts import _
from ..mrml.view_clicks import ViewClicks, layout_views
from ..mrml.views import place_points, place_under_mouse, stop_placing
from .editor import EditorArea
from .result_section import colour_icon
from .section import Section

Point = tuple[float, float, float]


class CorrectSection(Section):
    """Where the user says what is wrong; :class:`Correcting` carries it out."""

    def connect(self) -> None:
        """Connect the widgets."""
        ui = self.ui
        self.say(ui.clickLabel, "")
        self._filling = False
        self._views: ViewClicks | None = None
        self._clicks: list[ClickChoice] = []
        self.correcting = Correcting(self.logic, lambda done: self._refined(done), self._say)
        self.editor = EditorArea(ui.editorCollapsibleButton)
        for button, icon in (
            (ui.insideButton, "inside"),
            (ui.outsideButton, "outside"),
            (ui.strokeButton, "stroke"),
            (ui.undoButton, "undo"),
            (ui.redoButton, "redo"),
            (ui.deleteButton, "remove"),
        ):
            self.set_icon(button, icon)
        ui.segmentComboBox.connect("currentIndexChanged(int)", lambda index: self._segment_chosen())
        self.clicked(ui.insideButton, lambda: self._arm(ui.insideButton, ui.outsideButton))
        self.clicked(ui.outsideButton, lambda: self._arm(ui.outsideButton, ui.insideButton))
        self.clicked(ui.strokeButton, self._place)
        self.clicked(ui.undoButton, self._undo, wait=True)
        self.clicked(ui.redoButton, self._redo, wait=True)
        self.clicked(ui.deleteButton, self._delete, wait=True)
        ui.clickList.connect("currentRowChanged(int)", self._click_chosen)
        for keys, action in (
            ("I", lambda: self._at_mouse(True)),
            ("O", lambda: self._at_mouse(False)),
            ("Alt+Z", self._undo),
            ("Alt+Shift+Z", self._redo),
        ):
            self.panel.add_key(keys, action)
        delete = qt.QShortcut(ui.clickList)
        delete.setKey(qt.QKeySequence(qt.QKeySequence.Delete))
        delete.setContext(qt.Qt.WidgetShortcut)
        delete.connect("activated()", lambda: self.panel.report(self._delete))
        self._watch = SegmentsWatch(self._show)

    def update(self) -> None:
        """Show segments, clicks and steps of the chosen segmentation."""
        node = self.panel.segmentation
        self.ui.CorrectSection.visible = node is not None
        if self.correcting.node is not None and self.correcting.node is not node:
            self.close()
        self._watch.follow(node)
        self._show()
        self.editor.set_nodes(node, self.panel.parameters.inputVolume if self.panel.parameters else None)

    def entered(self) -> None:
        """Hear the mouse in the views."""
        self._views = ViewClicks(layout_views(lambda: self.panel.segmentation), self._clicked_in_view, self._drawing)
        self.editor.entered()

    def left(self) -> None:
        """Leave mouse and points to the other module."""
        if self._views:
            self._views.stop()
            self._views = None
        self._disarm()
        self.close()
        self.editor.left()

    def scene_closing(self) -> None:
        """All points go away."""
        self._disarm()
        self.close()
        self._watch.follow(None)
        self.editor.scene_closing()

    def cleanup(self) -> None:
        """Watch no more."""
        self.close()
        self._watch.follow(None)

    def close(self) -> None:
        """Leave the segmentation's points alone."""
        self.correcting.close()

    # What is shown

    def _show(self) -> None:
        node = self._watch.node
        choices = segment_choices(node)
        self._clicks = click_choices(node)
        combo, shown = self.ui.segmentComboBox, self.ui.clickList
        chosen = combo.currentData or (self.panel.parameters.segment if self.panel.parameters else "")
        self._filling = True
        try:
            combo.clear()
            for choice in choices:
                name = _("{name} (locked)").format(name=choice.name) if choice.locked else choice.name
                combo.addItem(colour_icon(choice.color), name, choice.id)
            ids = [choice.id for choice in choices]
            combo.setCurrentIndex(ids.index(chosen) if chosen in ids else 0 if ids else -1)
            row = shown.currentRow
            shown.clear()
            for click in self._clicks:
                shown.addItem(click.text)
            if 0 <= row < len(self._clicks):
                shown.setCurrentRow(row)
        finally:
            self._filling = False
        ui = self.ui
        for widget in (combo, ui.insideButton, ui.outsideButton, ui.strokeButton, ui.radiusSpinBox):
            widget.enabled = bool(choices)
        shown.visible = bool(self._clicks)
        ui.undoButton.enabled = self.correcting.can_undo
        ui.redoButton.enabled = self.correcting.can_redo
        ui.deleteButton.enabled = 0 <= shown.currentRow < len(self._clicks)

    def _say(self, text: str) -> None:
        self.say(self.ui.clickLabel, text)

    def _refined(self, done: Any) -> None:
        self._say("\n".join((_("{count} voxels changed.").format(count=done.voxels), *done.warnings)))
        self._show()

    def _segment_chosen(self) -> None:
        if self._filling:
            return
        if self.panel.parameters:
            self.panel.parameters.segment = self.ui.segmentComboBox.currentData or ""
        self.panel.report(self._place)

    def _click_chosen(self, row: int) -> None:
        if not self._filling and 0 <= row < len(self._clicks):
            self.logic.jumpTo(self._clicks[row].position)
            self.ui.deleteButton.enabled = True

    # Placing

    def _arm(self, pressed: Any, other: Any) -> None:
        other.checked = False
        self._place()

    def _disarm(self) -> None:
        if self.ui.insideButton.checked or self.ui.outsideButton.checked:
            self.ui.insideButton.checked = self.ui.outsideButton.checked = False
            stop_placing()

    def _armed(self) -> bool | None:
        if self.ui.insideButton.checked:
            return True
        return False if self.ui.outsideButton.checked else None

    def _drawing(self) -> bool | None:
        """Whether the mouse draws strokes, and then of what kind it is without a modifier."""
        if not self.ui.strokeButton.checked:
            return None
        return self._armed() is not False

    def _place(self) -> None:
        """Let clicks in the views place points, if that is wanted."""
        inside = self._armed()
        if inside is None or self.ui.strokeButton.checked:
            stop_placing()
            return
        try:
            segment = self._segment_id()
            self._opened(lambda: place_points(self.logic.clickNode(self.panel.segmentation, segment, inside)))
        except Exception:
            self._disarm()
            raise

    def _segment_id(self) -> str:
        found = self.ui.segmentComboBox.currentData
        if not found:
            raise InputError(_("There is no segment to correct. Segment the volume first."))
        return str(found)

    def _opened(self, action: Callable[[], None]) -> None:
        """Do something to the segmentation once it can be corrected, which may take as long as a run."""
        node = self.panel.segmentation
        if node is None:
            raise InputError(_("There is no segment to correct. Segment the volume first."))

        def carry_out() -> None:
            self.correcting.open(node)
            action()

        then = _("Then your correction is carried out.")
        self.panel.asking.before(carry_out, self.ui.clickLabel, then, self._dropped)

    def _dropped(self, why: str) -> None:
        self._disarm()
        self._say(why)

    def _clicked_in_view(self, points: Sequence[Point], inside: bool) -> None:
        self.panel.report(lambda: self._click(points, inside))

    def _at_mouse(self, inside: bool) -> None:
        place = place_under_mouse()
        if place is None:
            self._say(_("Move the mouse pointer over a slice view first."))
            return
        self._click([place], inside)

    def _click(self, points: Sequence[Point], inside: bool) -> None:
        segment, radius = self._segment_id(), self.ui.radiusSpinBox.value
        self._opened(lambda: self._refined(self.correcting.click(segment, points, inside, radius)))

    # Steps

    def _undo(self) -> None:
        if self.correcting.can_undo:
            self._refined(self.correcting.undo())

    def _redo(self) -> None:
        if self.correcting.can_redo:
            self._refined(self.correcting.redo())

    def _delete(self) -> None:
        row = self.ui.clickList.currentRow
        if 0 <= row < len(self._clicks):
            mark = self._clicks[row].mark
            self._opened(lambda: self._refined(self.correcting.delete(mark)))
