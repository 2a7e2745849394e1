"""The effect: a student fills the selected segment, and clicks correct it, under the editor's own rules."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
import slicer
import vtk
from SegmentEditorEffects import AbstractScriptedSegmentEditorEffect
from slicer.i18n import tr as _

# ReCoKDLib comes with the first use: this file is loaded when Slicer starts.

_STUDENT, _STRUCTURE = "Student", "Structure"


class SegmentEditorEffect(AbstractScriptedSegmentEditorEffect):  # type: ignore[misc]
    """What the Segment Editor calls; it changes nothing but through the editor's own functions."""

    def __init__(self, scriptedEffect: Any) -> None:
        scriptedEffect.name = "ReCoKD"  # not translated: modules find effects by their names
        scriptedEffect.title = "ReCoKD"
        scriptedEffect.perSegment = True
        scriptedEffect.requireSegments = True
        AbstractScriptedSegmentEditorEffect.__init__(self, scriptedEffect)
        self._run: Any = None
        self._found: Any = None  # the last result, which clicks go by: (volume node id, result)
        self._entries: tuple[Any, ...] = ()

    def clone(self) -> Any:
        """Another one, for another editor."""
        import qSlicerSegmentationsEditorEffectsPythonQt as effects

        cloned = effects.qSlicerSegmentEditorScriptedEffect(None)
        cloned.setPythonSource(Path(__file__).as_posix())
        return cloned

    def icon(self) -> Any:
        """Of the effect's button."""
        return qt.QIcon(str(Path(__file__).with_suffix(".svg")))

    def helpText(self) -> str:
        """In the editor's help box."""
        return str(
            "<html>"
            + _("""A student fills the selected segment; clicks correct it. Research use only, not a medical device.<br>
<ul style="margin: 0">
<li><b>Segment:</b> the student finds one of its structures and puts it into the selected segment.
<li><b>Ctrl + click:</b> this place is inside the selected segment.
<li><b>Ctrl + Shift + click:</b> this place is outside.
</ul>
Clicks work in slice views and on the segment's surface in 3D, with or without a student's run. Masking, overwrite mode
and undo are the editor's own; segments with the status Completed are not touched.""")
        )

    # Options

    def setupOptionsFrame(self) -> None:
        """Make the widgets."""
        self.studentComboBox = qt.QComboBox()
        self.studentComboBox.setToolTip(_("The small network that segments."))
        self.scriptedEffect.addLabeledOptionsWidget(_("Student:"), self.studentComboBox)
        self.structureComboBox = qt.QComboBox()
        self.structureComboBox.setToolTip(_("Which of the student's structures the selected segment is to be."))
        self.scriptedEffect.addLabeledOptionsWidget(_("Structure:"), self.structureComboBox)
        self.runButton = qt.QPushButton(_("Segment"))
        self.runButton.objectName = "ReCoKDRun"
        self.runButton.setToolTip(_("Fill the selected segment with what the student finds."))
        self.cancelButton = qt.QPushButton(_("Cancel"))
        self.cancelButton.objectName = "ReCoKDCancel"
        self.cancelButton.setToolTip(_("Stop; the segment stays as it is."))
        buttons = qt.QHBoxLayout()
        buttons.addWidget(self.runButton)
        buttons.addWidget(self.cancelButton)
        self.scriptedEffect.addOptionsWidget(buttons)
        self.progressBar = qt.QProgressBar()
        self.progressBar.setToolTip(_("How much of the volume the student has seen."))
        self.progressBar.visible = False
        self.scriptedEffect.addOptionsWidget(self.progressBar)
        self.statusLabel = qt.QLabel(_("Ctrl+click inside, Ctrl+Shift+click outside."))
        self.statusLabel.wordWrap = True
        self.scriptedEffect.addOptionsWidget(self.statusLabel)
        self.cancelButton.enabled = False
        self.studentComboBox.connect("currentIndexChanged(int)", self._studentChosen)
        self.structureComboBox.connect("currentIndexChanged(int)", lambda index: self.updateMRMLFromGUI())
        self.runButton.connect("clicked(bool)", lambda checked=False: self._report(self.onRun))
        self.cancelButton.connect("clicked(bool)", lambda checked=False: self.onCancel())

    def setMRMLDefaults(self) -> None:
        """Nothing is chosen at first."""
        self.scriptedEffect.setParameterDefault(_STUDENT, "")
        self.scriptedEffect.setParameterDefault(_STRUCTURE, "")

    def activate(self) -> None:
        """Look for students."""
        from ReCoKDLib.students import list_students

        self._entries = tuple(entry for entry in list_students() if entry.package is not None)
        self.updateGUIFromMRML()

    def deactivate(self) -> None:
        """A run goes on only while its effect is in use."""
        if self._run:
            self._run.abandon()
            self._ended()

    def cleanup(self) -> None:
        """The editor goes away."""
        if self._run:
            self._run.abandon()
            self._run = None

    def updateGUIFromMRML(self) -> None:
        """Show what the editor's node says."""
        names = [entry.name for entry in self._entries]
        _fill(self.studentComboBox, names, self.scriptedEffect.parameter(_STUDENT) if names else "")
        structures = self._structures()
        chosen = self.scriptedEffect.parameter(_STRUCTURE) if names else ""
        if chosen not in structures:
            chosen = next((name for name in structures if name.casefold() == self._segmentName().casefold()), "")
        _fill(self.structureComboBox, structures, chosen)
        self.runButton.enabled = bool(structures) and self._run is None

    def updateMRMLFromGUI(self) -> None:
        """Keep the choices in the editor's node."""
        self.scriptedEffect.setParameter(_STUDENT, self.studentComboBox.currentText)
        self.scriptedEffect.setParameter(_STRUCTURE, self.structureComboBox.currentText)

    # Running

    def onRun(self) -> None:
        """Let the student find the structure, in the background."""
        from ReCoKD import ReCoKDLogic
        from ReCoKDLib.widgets.process import BackgroundRun

        if not self.scriptedEffect.confirmCurrentSegmentVisible():
            return
        entry = self._entries[self.studentComboBox.currentIndex]
        node = self.scriptedEffect.parameterSetNode()
        volumeNode, segmentationNode = node.GetSourceVolumeNode(), node.GetSegmentationNode()
        segmentId, structure = node.GetSelectedSegmentID(), self.structureComboBox.currentText
        logic = ReCoKDLogic()
        logic.ensureDependencies()
        prepared = logic.segmentLater(volumeNode, entry.package, labels=[structure])
        self._run = BackgroundRun(
            prepared.volume,
            entry.package,
            prepared.all_options(entry.package),
            on_progress=self._progress,
            on_line=lambda line: None,
            on_done=lambda result: self._done(result, structure, volumeNode, segmentationNode, segmentId),
            on_failed=self._failed,
        )
        self.progressBar.setRange(0, 0)
        self.progressBar.visible = True
        self.statusLabel.text = _("Loading the student...")
        self.runButton.enabled, self.cancelButton.enabled = False, True
        self._run.start()

    def onCancel(self) -> None:
        """End the run; the segment stays as it is."""
        if self._run:
            self._run.cancel()

    def _progress(self, fraction: float) -> None:
        self.progressBar.setRange(0, 100)
        self.progressBar.setValue(round(100 * fraction))
        self.statusLabel.text = _("Segmenting...")

    def _done(self, result: Any, structure: str, volumeNode: Any, segmentationNode: Any, segmentId: str) -> None:
        self._ended()

        def show() -> None:
            from ReCoKDLib.errors import Cancelled
            from ReCoKDLib.mrml.effect_changes import run_change

            present = slicer.mrmlScene.IsNodePresent
            node = self.scriptedEffect.parameterSetNode()
            same = node is not None and node.GetSegmentationNode() is segmentationNode
            if not same or not present(volumeNode) or segmentationNode.GetSegmentation().GetSegment(segmentId) is None:
                raise Cancelled(_("The segment was removed meanwhile, so nothing was changed."))
            blank = self.scriptedEffect.defaultModifierLabelmap()
            image = run_change(result, structure, segmentationNode, segmentId, blank)
            self.scriptedEffect.saveStateForUndo()
            mode = slicer.qSlicerSegmentEditorAbstractEffect.ModificationModeSet
            self.scriptedEffect.modifySegmentByLabelmap(segmentationNode, segmentId, image, mode)
            self._found = (volumeNode.GetID(), result)
            text = _("{structure} found in {seconds:.1f} s.").format(structure=structure, seconds=result.seconds)
            self.statusLabel.text = "\n".join((text, *result.warnings))

        self._report(show)

    def _failed(self, error: BaseException) -> None:
        self._ended()

        def fail() -> None:
            raise error

        self._report(fail)

    def _ended(self) -> None:
        self._run = None
        self.progressBar.visible = False
        self.cancelButton.enabled = False
        self.statusLabel.text = ""
        self.updateGUIFromMRML()

    # Clicks

    def processInteractionEvents(self, callerInteractor: Any, eventId: int, viewWidget: Any) -> bool:
        """A click with Ctrl is ours, any other the view's."""
        if eventId != vtk.vtkCommand.LeftButtonPressEvent or not callerInteractor.GetControlKey():
            return False
        x, y = callerInteractor.GetEventPosition()
        place = self._place(x, y, viewWidget)
        if place is None:
            return False
        inside = not callerInteractor.GetShiftKey()
        self._report(lambda: self.click(place, inside))
        return True

    def click(self, place: tuple[float, float, float], inside: bool) -> None:
        """Correct the selected segment by a point (RAS, mm).

        Raises:
            ReCoKDError: The point lies outside the volume, or the segment is locked; nothing was changed.
        """
        from ReCoKDLib.errors import InputError
        from ReCoKDLib.mrml.effect_changes import click_change

        node = self.scriptedEffect.parameterSetNode()
        volumeNode, segmentId = node.GetSourceVolumeNode(), node.GetSelectedSegmentID()
        if volumeNode is None or not segmentId:
            raise InputError(_("Choose a segment and a source volume in the Segment Editor."))
        if not self.scriptedEffect.confirmCurrentSegmentVisible():
            return
        structure = self.structureComboBox.currentText
        known = self._found if self._found and self._found[0] == volumeNode.GetID() and structure else None
        if known and structure not in [segment.name for segment in known[1].label_set.segments]:
            known = None
        change = click_change(
            volumeNode,
            node.GetSegmentationNode(),
            segmentId,
            place,
            inside,
            self.scriptedEffect.defaultModifierLabelmap(),
            (known[1], structure) if known else None,
        )
        if change.voxels:
            self.scriptedEffect.saveStateForUndo()
            modes = slicer.qSlicerSegmentEditorAbstractEffect
            for image, mode in (
                (change.added, modes.ModificationModeAdd),
                (change.removed, modes.ModificationModeRemove),
            ):
                if image is not None:
                    self.scriptedEffect.modifySelectedSegmentByLabelmap(image, mode)
        self.statusLabel.text = _("{count} voxels corrected.").format(count=change.voxels)

    def _place(self, x: int, y: int, viewWidget: Any) -> Any:
        if viewWidget.className() == "qMRMLSliceWidget":
            return tuple(self.xyToRas((x, y), viewWidget))
        if viewWidget.className() != "qMRMLThreeDWidget":
            return None
        from ReCoKDLib.mrml.view_clicks import surface_view

        segmentationNode = self.scriptedEffect.parameterSetNode().GetSegmentationNode()
        renderer = self.scriptedEffect.renderer(viewWidget)
        return surface_view(None, renderer, lambda: segmentationNode).to_world(x, y)

    # What is shown

    def _studentChosen(self, index: int) -> None:
        self.updateMRMLFromGUI()
        self.updateGUIFromMRML()
        self.updateMRMLFromGUI()

    def _structures(self) -> list[str]:
        index = self.studentComboBox.currentIndex
        if not 0 <= index < len(self._entries):
            return []
        return [segment.name for segment in self._entries[index].package.label_set.segments]

    def _segmentName(self) -> str:
        node = self.scriptedEffect.parameterSetNode()
        segmentationNode = node.GetSegmentationNode() if node else None
        if segmentationNode is None or not node.GetSelectedSegmentID():
            return ""
        segment = segmentationNode.GetSegmentation().GetSegment(node.GetSelectedSegmentID())
        return str(segment.GetName()) if segment else ""

    def _report(self, action: Callable[[], None]) -> None:
        """Run something; what the user can act on is shown as it is said, anything else with its details."""
        from ReCoKDLib.errors import Cancelled, ReCoKDError

        message = ""
        with slicer.util.tryWithErrorDisplay(_("Something went wrong in ReCoKD.")):
            try:
                action()
            except Cancelled as cancelled:
                self.statusLabel.text = str(cancelled)
            except ReCoKDError as error:
                message = str(error)
        if message:
            self.statusLabel.text = message
            slicer.util.errorDisplay(message, windowTitle="ReCoKD")


def _fill(combo: Any, names: list[str], chosen: str) -> None:
    """Show these entries, and the chosen one or the first; nobody is told."""
    blocked = combo.blockSignals(True)
    combo.clear()
    for name in names:
        combo.addItem(name)
    combo.setCurrentIndex(names.index(chosen) if chosen in names else 0 if names else -1)
    combo.blockSignals(blocked)
