"""Segment: one button, a run in the background, progress, log."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import qt

from ..errors import ReCoKDError
from ..mrml.texts import _
from . import process
from .progress import RunProgress
from .section import Section
from .settings import DEVICES, ENGINES, PRECISIONS


class SegmentSection(Section):
    """Where the segments go, how they are made, and the run itself."""

    def connect(self) -> None:
        """Connect the widgets."""
        ui = self.ui
        self.run: process.BackgroundRun | None = None
        self._preview: Any = None
        self._progress = RunProgress(ui.progressBar, self.show_status)
        self._filling = False
        self.show_status("")
        self.set_icon(ui.applyButton, "segment")
        self.set_icon(ui.cancelButton, "cancel")
        self.clicked(ui.applyButton, self._apply)
        self.clicked(ui.cancelButton, self._cancel)
        self._connect_choices()
        ui.structuresList.connect("itemChanged(QListWidgetItem*)", self._structure_checked)
        ui.showIn3DCheckBox.connect("toggled(bool)", self._show_3d)

    def update(self) -> None:
        """Show structures and whether a run can begin."""
        self._fill_structures()
        entry = self.panel.entry
        problem = ""
        if self.run:
            problem = _("A run is under way")
        elif not self.panel.parameters or not all(self.panel.input.nodes()):
            problem = _("Choose the volume to segment")
        elif entry is None or entry.package is None:
            problem = _("Choose a student that can be used")
        else:
            problem = self.panel.input.problem()
        self.ui.applyButton.enabled = not problem
        self.ui.applyButton.toolTip = problem or _("Segment the volume with the student")
        self.ui.cancelButton.enabled = self.run is not None

    def scene_closing(self) -> None:
        """A run whose volume goes away is of no use, nor is what is kept of it."""
        self._abandon()
        process.end_waiting()
        self.show_status("")

    def cleanup(self) -> None:
        """The widgets may be going already."""
        if self.run:
            self.run.abandon()
            self.run = None
        self._remove_preview()
        process.end_waiting()

    def show_status(self, text: str) -> None:
        """What happens, below the progress."""
        self.say(self.ui.statusLabel, text)

    def _connect_choices(self) -> None:
        """How students compute, which is kept with the computer."""
        ui, settings = self.ui, self.panel.settings
        devices = (_("Automatic"), _("CPU"), _("NVIDIA graphics card (CUDA)"), _("Apple graphics (MPS)"))
        engines = (_("The fastest that is installed"), "PyTorch", "OpenVINO", "ONNX Runtime")
        precisions = (
            _("Full (float32)"),
            _("Half (bfloat16) where it keeps the labels"),
            _("Always half (bfloat16)"),
        )
        for box, values, names, chosen, keep in (
            (ui.deviceComboBox, DEVICES, devices, settings.device, settings.set_device),
            (ui.engineComboBox, ENGINES, engines, settings.engine, settings.set_engine),
            (ui.precisionComboBox, PRECISIONS, precisions, settings.precision, settings.set_precision),
        ):
            for name in names:
                box.addItem(name)
            box.setCurrentIndex(values.index(chosen))
            box.connect("currentIndexChanged(int)", partial(_keep_choice, keep, values))
        ui.memorySpinBox.value = settings.memory
        ui.memorySpinBox.connect("valueChanged(double)", settings.set_memory)

    # Structures

    def _names(self) -> list[str]:
        entry = self.panel.entry
        return [segment.name for segment in entry.package.label_set.segments] if entry and entry.package else []

    def _fill_structures(self) -> None:
        names = self._names()
        wanted = self.logic.structures() if self.panel.parameters else []
        shown = self.ui.structuresList
        self._filling = True
        try:
            if names != [shown.item(row).text() for row in range(shown.count)]:
                shown.clear()
                for name in names:
                    shown.addItem(name)
            for row, name in enumerate(names):
                item = shown.item(row)
                item.setFlags(item.flags() | qt.Qt.ItemIsUserCheckable)
                item.setCheckState(qt.Qt.Checked if name in wanted else qt.Qt.Unchecked)
        finally:
            self._filling = False
        self.ui.optionsCollapsibleButton.text = (
            _("Options ({count} of {all} structures)").format(count=len(set(wanted) & set(names)), all=len(names))
            if set(wanted) & set(names)
            else _("Options")
        )

    def _structure_checked(self, item: Any) -> None:
        if self._filling or not self.panel.parameters:
            return
        shown = self.ui.structuresList
        items = [shown.item(row) for row in range(shown.count)]
        self.logic.setStructures([item.text() for item in items if item.checkState() == qt.Qt.Checked])
        self.panel.update()

    def _labels(self) -> Sequence[str] | None:
        wanted = self.logic.structures()
        return [name for name in self._names() if name in wanted] or None

    # The run

    def _apply(self) -> None:
        # A package may have changed on the disk since the list was made.
        self.panel.student.refresh()
        entry = self.panel.entry
        parameters = self.panel.parameters
        self.logic.ensureDependencies()
        prepared = self.logic.segmentLater(
            self.panel.input.nodes(),
            entry.package if entry and entry.package else parameters.student,
            roiNode=parameters.roi,
            labels=self._labels(),
            mirroring=parameters.mirroring,
            **self.panel.settings.computing(),
        )
        package = prepared.package
        target = parameters.outputSegmentation
        self.run = process.BackgroundRun(
            prepared.volume,
            package,
            prepared.all_options(package),
            on_progress=self._progress.at,
            on_line=self.ui.logEdit.appendPlainText,
            on_done=lambda result: self._done(prepared.finish(result, package), target),
            on_failed=self._failed,
            on_preview=self._show_preview,
        )
        self._preview = self.logic.previewOf(prepared, package)
        self.ui.logEdit.clear()
        self._progress.begin(_("Loading the student..."), _("Segmenting..."))
        self.panel.update()
        self.run.start()

    def _cancel(self) -> None:
        if self.run:
            self.run.cancel()

    def _show_preview(self, preview: Any) -> None:
        self._progress.say(_("Segmenting; the slice views show what is found so far..."))
        with contextlib.suppress(ReCoKDError):  # the volume may be under a warp by now; the result will tell
            self._preview.show(preview)

    def _remove_preview(self) -> None:
        if self._preview is not None:
            self._preview.remove()
            self._preview = None

    def _done(self, result: Any, target: Any) -> None:
        self._ended()

        def show() -> None:
            node = self.logic.showUndoably(result, target)
            # Of the logic: the panel has none while another module is open.
            parameters = self.logic.getParameterNode()
            parameters.outputSegmentation = node
            if parameters.showIn3D:
                node.CreateClosedSurfaceRepresentation()
            self.show_status("\n".join((self.logic.summary(result), *result.warnings)))
            self.panel.doubt.forget()
            self.panel.update()

        self.panel.report(show)

    def _failed(self, error: BaseException) -> None:
        self._ended()

        def fail() -> None:
            raise error

        self.panel.report(fail)

    def _ended(self) -> None:
        self.run = None
        self._remove_preview()
        self._progress.end()
        self.panel.update()

    def _abandon(self) -> None:
        if self.run:
            self.run.abandon()
            self._ended()

    def _show_3d(self, shown: bool) -> None:
        node = self.panel.segmentation
        if node is not None and node.GetSegmentation().GetNumberOfSegments():
            self.logic.showIn3D(node, shown)


def _keep_choice(keep: Callable[[str], bool], values: Sequence[str], index: int) -> None:
    keep(values[index])
