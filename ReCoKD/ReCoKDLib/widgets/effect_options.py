"""The options of the Segment Editor's effect: student, structure, volumes, run, strokes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import qt

from ..mrml.texts import _
from ..students import StudentEntry
from .channels import ChannelSelectors
from .progress import RunProgress

HINT = _("Ctrl+click inside, Ctrl+Shift+click outside.")
_CONTROLS = ("studentComboBox", "structureComboBox", "strokeCheckBox", "radiusSpinBox")


class EffectOptions:
    """The widgets, which know no editor; what they say of the student is told by its entry.

    Args:
        further: As ``chosen`` of :class:`.channels.ChannelSelectors`.
        choose: As ``choose`` of it.
        changed: Called when the user chose another student, structure or stroke.
    """

    def __init__(
        self, further: Callable[[int], Any], choose: Callable[[int, Any], None], changed: Callable[[], None]
    ) -> None:
        self._entries: tuple[StudentEntry, ...] = ()
        self._channels: tuple[str, ...] = ()
        self.frame = qt.QWidget()
        form = qt.QFormLayout(self.frame)
        form.setContentsMargins(0, 0, 0, 0)
        self.studentComboBox = qt.QComboBox()
        self.studentComboBox.toolTip = _("The small network that segments.")
        form.addRow(_("Student:"), self.studentComboBox)
        self.structureComboBox = qt.QComboBox()
        self.structureComboBox.toolTip = _("Which of the student's structures the selected segment is to be.")
        form.addRow(_("Structure:"), self.structureComboBox)
        self.firstLabel = qt.QLabel()
        self.firstLabel.wordWrap = True
        form.addRow(self.firstLabel)
        self.further = ChannelSelectors(form, 3, further, choose)
        self.runButton = qt.QPushButton(_("Segment"))
        self.runButton.objectName = "ReCoKDRun"
        self.runButton.toolTip = _("Fill the selected segment with what the student finds.")
        self.cancelButton = qt.QPushButton(_("Cancel"))
        self.cancelButton.objectName = "ReCoKDCancel"
        self.cancelButton.toolTip = _("Stop; the segment stays as it is.")
        form.addRow(_row(self.runButton, self.cancelButton))
        self.progressBar = qt.QProgressBar()
        self.progressBar.toolTip = _("How much of the volume the student has seen.")
        form.addRow(self.progressBar)
        self.strokeCheckBox = qt.QCheckBox(_("Draw strokes"))
        self.strokeCheckBox.toolTip = _(
            "Draw inside the segment with the mouse button held down; with Ctrl+Shift outside of it."
        )
        self.radiusSpinBox = qt.QDoubleSpinBox()
        self.radiusSpinBox.toolTip = _("Radius of the stroke.")
        self.radiusSpinBox.suffix = _(" mm")
        self.radiusSpinBox.decimals = 1
        self.radiusSpinBox.setRange(0.5, 20.0)
        self.radiusSpinBox.singleStep = 0.5
        form.addRow(_row(self.strokeCheckBox, self.radiusSpinBox))
        self.statusLabel = qt.QLabel(HINT)
        self.statusLabel.wordWrap = True
        form.addRow(self.statusLabel)
        self.progress = RunProgress(self.progressBar, self.say)
        self.say(HINT)
        self.show_run(False)
        self.studentComboBox.connect("currentIndexChanged(int)", lambda index: changed())
        self.structureComboBox.connect("currentIndexChanged(int)", lambda index: changed())
        self.strokeCheckBox.connect("toggled(bool)", lambda checked: changed())
        self.radiusSpinBox.connect("valueChanged(double)", lambda value: changed())

    @property
    def entry(self) -> StudentEntry | None:
        """The chosen student."""
        index = self.studentComboBox.currentIndex
        return self._entries[index] if 0 <= index < len(self._entries) else None

    @property
    def structure(self) -> str:
        """The chosen structure; empty if there is none."""
        return str(self.structureComboBox.currentText)

    @property
    def missing(self) -> list[str]:
        """Names of the channels after the first for which no volume is chosen."""
        names = self._channels[1:]
        return [name for name, node in zip(names, self.further.nodes(), strict=True) if node is None]

    def say(self, text: str) -> None:
        """Show a text below the buttons."""
        self.statusLabel.text = text

    def show_run(self, running: bool) -> None:
        """Whether a run is under way."""
        self.runButton.enabled = bool(self.structureComboBox.count) and not running
        self.cancelButton.enabled = running

    def show(
        self,
        entries: Sequence[StudentEntry],
        *,
        student: str,
        structure: str,
        segment: str,
        stroke: bool,
        radius_mm: float,
    ) -> None:
        """Show these choices; nobody is told.

        Args:
            entries: The students that can be used.
            student: Name of the chosen one; the first where it is not here.
            structure: Name of the chosen structure; where the student has none of this name, that which is called as
                the segment, or the first.
            segment: Name of the selected segment.
            stroke: Whether the mouse draws.
            radius_mm: Of the strokes.
        """
        blocked = [(widget, widget.blockSignals(True)) for widget in (getattr(self, name) for name in _CONTROLS)]
        self._entries = tuple(entries)
        _fill(self.studentComboBox, [entry.name for entry in entries], student)
        package = self.entry.package if self.entry else None
        structures = [each.name for each in package.label_set.segments] if package else []
        if structure not in structures:
            structure = next((name for name in structures if name.casefold() == segment.casefold()), "")
        _fill(self.structureComboBox, structures, structure)
        self.strokeCheckBox.checked = stroke
        self.radiusSpinBox.value = radius_mm
        self.radiusSpinBox.enabled = stroke
        for widget, was in blocked:
            widget.blockSignals(was)
        self._channels = tuple(channel.name for channel in package.card.channels) if package else ()
        self.firstLabel.visible = len(self._channels) > 1
        self.firstLabel.text = _("The source volume is the channel {name}.").format(name=next(iter(self._channels), ""))
        self.further.show(self._channels)


def _row(*widgets: Any) -> Any:
    row = qt.QHBoxLayout()
    for widget in widgets:
        row.addWidget(widget)
    return row


def _fill(combo: Any, names: Sequence[str], chosen: str) -> None:
    combo.clear()
    for name in names:
        combo.addItem(name)
    combo.setCurrentIndex(names.index(chosen) if chosen in names else 0 if names else -1)
