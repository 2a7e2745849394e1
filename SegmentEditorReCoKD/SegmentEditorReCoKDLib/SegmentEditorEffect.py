"""The effect: a student fills the selected segment, clicks and strokes correct it, under the editor's own rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import qt
import slicer
import vtk
from SegmentEditorEffects import AbstractScriptedSegmentEditorEffect
from slicer.i18n import tr as _

# ReCoKDLib comes with the first use: this file is loaded when Slicer starts.

_STUDENT, _STRUCTURE, _STROKE, _RADIUS = "Student", "Structure", "Stroke", "RadiusMm"

Point = tuple[float, float, float]


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
        self._pointer: Any = None

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
<li><b>Draw strokes:</b> drag over what is inside, with Ctrl + Shift over what is outside.
</ul>
Clicks work in slice views and on the segment's surface in 3D, with or without a student's run. Masking, overwrite mode
and undo are the editor's own; segments with the status Completed are not touched.""")
        )

    # Options

    def setupOptionsFrame(self) -> None:
        """Make the widgets."""
        from ReCoKDLib.widgets.effect_options import EffectOptions

        self.options = EffectOptions(
            lambda number: self.scriptedEffect.nodeReference(f"Channel{number}"),
            lambda number, node: self.scriptedEffect.setNodeReference(f"Channel{number}", node),
            self._chosen,
        )
        self.scriptedEffect.addOptionsWidget(self.options.frame)
        self.options.runButton.connect("clicked(bool)", lambda checked=False: self._report(self.onRun))
        self.options.cancelButton.connect("clicked(bool)", lambda checked=False: self.onCancel())

    def setMRMLDefaults(self) -> None:
        """Nothing is chosen at first."""
        for name, value in ((_STUDENT, ""), (_STRUCTURE, ""), (_STROKE, "0"), (_RADIUS, "1.0")):
            self.scriptedEffect.setParameterDefault(name, value)

    def activate(self) -> None:
        """Look for students, and hear the mouse."""
        from ReCoKDLib.mrml.view_clicks import Pointer
        from ReCoKDLib.students import list_students

        self._entries = tuple(entry for entry in list_students() if entry.package is not None)
        self._pointer = Pointer(
            lambda points, inside: self._report(lambda: self.correct(points, inside)),
            lambda: True if self.options.strokeCheckBox.checked else None,
        )
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
        if self.scriptedEffect.parameterSetNode() is None:
            return
        parameter = self.scriptedEffect.parameter
        self.options.show(
            self._entries,
            student=parameter(_STUDENT),
            structure=parameter(_STRUCTURE),
            segment=self._segmentName(),
            stroke=parameter(_STROKE) == "1",
            radius_mm=float(parameter(_RADIUS) or 1.0),
        )
        self.options.show_run(self._run is not None)

    def updateMRMLFromGUI(self) -> None:
        """Keep the choices in the editor's node."""
        self.scriptedEffect.setParameter(_STUDENT, self.options.studentComboBox.currentText)
        self.scriptedEffect.setParameter(_STRUCTURE, self.options.structure)
        self.scriptedEffect.setParameter(_STROKE, "1" if self.options.strokeCheckBox.checked else "0")
        self.scriptedEffect.setParameter(_RADIUS, str(self.options.radiusSpinBox.value))

    # Running

    def onRun(self) -> None:
        """Let the student find the structure, in the background."""
        from ReCoKD import ReCoKDLogic
        from ReCoKDLib.errors import InputError
        from ReCoKDLib.widgets.process import BackgroundRun

        if not self.scriptedEffect.confirmCurrentSegmentVisible():
            return
        entry = self.options.entry
        if entry is None or entry.package is None:
            raise InputError(_("Choose a student."))
        if self.options.missing:
            raise InputError(_("Choose the volume with the channel {name}.").format(name=self.options.missing[0]))
        package, structure = entry.package, self.options.structure
        node = self.scriptedEffect.parameterSetNode()
        volumeNodes = [node.GetSourceVolumeNode(), *self.options.further.nodes()]
        segmentationNode, segmentId = node.GetSegmentationNode(), node.GetSelectedSegmentID()
        logic = ReCoKDLogic()
        logic.ensureDependencies()
        prepared = logic.segmentLater(volumeNodes, package, labels=[structure])
        self._run = BackgroundRun(
            prepared.volume,
            package,
            prepared.all_options(package),
            on_progress=self.options.progress.at,
            on_line=lambda line: None,
            on_done=lambda result: self._done(result, structure, volumeNodes[0], segmentationNode, segmentId),
            on_failed=self._failed,
        )
        self.options.progress.begin(_("Loading the student..."), _("Segmenting..."))
        self.options.show_run(True)
        self._run.start()

    def onCancel(self) -> None:
        """End the run; the segment stays as it is."""
        if self._run:
            self._run.cancel()

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
            self.options.say("\n".join((text, *result.warnings)))

        self._report(show)

    def _failed(self, error: BaseException) -> None:
        self._ended()

        def fail() -> None:
            raise error

        self._report(fail)

    def _ended(self) -> None:
        self._run = None
        self.options.progress.end()
        self.updateGUIFromMRML()

    # Clicks and strokes

    def processInteractionEvents(self, callerInteractor: Any, eventId: int, viewWidget: Any) -> bool:
        """What is done with Ctrl, or drawn, is ours; anything else the view's."""
        hear = {
            vtk.vtkCommand.LeftButtonPressEvent: self._pointer.pressed,
            vtk.vtkCommand.MouseMoveEvent: self._pointer.moved,
            vtk.vtkCommand.LeftButtonReleaseEvent: self._pointer.released,
        }.get(eventId)
        view = self._view(callerInteractor, viewWidget) if hear else None
        return bool(hear is not None and view is not None and hear(view))

    def click(self, place: Point, inside: bool) -> None:
        """Correct the selected segment by a point (RAS, mm); raises as :meth:`correct`."""
        self.correct([place], inside)

    def correct(self, points: Sequence[Point], inside: bool) -> None:
        """Correct the selected segment by a point (RAS, mm), or by several as a stroke.

        Raises:
            ReCoKDError: A point lies outside the volume, or the segment is locked; nothing was changed.
        """
        from ReCoKDLib.errors import InputError
        from ReCoKDLib.mrml.effect_changes import correction_change

        node = self.scriptedEffect.parameterSetNode()
        volumeNode, segmentId = node.GetSourceVolumeNode(), node.GetSelectedSegmentID()
        if volumeNode is None or not segmentId:
            raise InputError(_("Choose a segment and a source volume in the Segment Editor."))
        if not self.scriptedEffect.confirmCurrentSegmentVisible():
            return
        change = correction_change(
            volumeNode,
            node.GetSegmentationNode(),
            segmentId,
            points,
            inside,
            float(self.options.radiusSpinBox.value),
            self.scriptedEffect.defaultModifierLabelmap(),
            self._known(volumeNode),
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
        self.options.say(_("{count} voxels corrected.").format(count=change.voxels))

    def _known(self, volumeNode: Any) -> Any:
        """The last run's result and the structure that the segment stands for; None if it says nothing of that."""
        structure = self.options.structure
        if not self._found or self._found[0] != volumeNode.GetID():
            return None
        names = [segment.name for segment in self._found[1].label_set.segments]
        return (self._found[1], structure) if structure in names else None

    def _view(self, interactor: Any, viewWidget: Any) -> Any:
        from ReCoKDLib.mrml.view_clicks import View, surface_view

        if viewWidget.className() == "qMRMLSliceWidget":
            return View(interactor, lambda x, y: tuple(self.xyToRas((x, y), viewWidget)))
        if viewWidget.className() != "qMRMLThreeDWidget":
            return None
        segmentationNode = self.scriptedEffect.parameterSetNode().GetSegmentationNode()
        return surface_view(interactor, self.scriptedEffect.renderer(viewWidget), lambda: segmentationNode)

    # What is shown

    def _chosen(self) -> None:
        self.updateMRMLFromGUI()
        self.updateGUIFromMRML()
        self.updateMRMLFromGUI()  # another student has other structures

    def _segmentName(self) -> str:
        node = self.scriptedEffect.parameterSetNode()
        segmentationNode = node.GetSegmentationNode() if node else None
        if segmentationNode is None or not node.GetSelectedSegmentID():
            return ""
        segment = segmentationNode.GetSegmentation().GetSegment(node.GetSelectedSegmentID())
        return str(segment.GetName()) if segment else ""

    def _report(self, action: Callable[[], None]) -> None:
        from ReCoKDLib.mrml.reporting import report

        report(action, self.options.say)
