"""ReCoKD in 3D Slicer: choose a volume and a student, press Apply, and a segmentation appears."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import slicer
import vtk
from slicer import vtkMRMLMarkupsROINode, vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import parameterNodeWrapper
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

from ReCoKDLib.errors import Cancelled, InputError, ReCoKDError
from ReCoKDLib.samples import case_name, sample_cases, samples_for
from ReCoKDLib.students import list_students

# Nothing but numpy is loaded with this file: torch and the rest come with the first Apply.

SAMPLE_CATEGORY = "ReCoKD"


class ReCoKD(ScriptedLoadableModule):  # type: ignore[misc]
    """What Slicer's module list shows."""

    def __init__(self, parent: Any) -> None:
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = "ReCoKD"
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        self.parent.dependencies = ["Markups", "Segmentations", "Volumes"]
        self.parent.contributors = ["The ReCoKD contributors"]
        self.parent.helpText = _("""
Segments a volume with a small network (a student) that was distilled from a large one. Choose the volume and the
student and press Apply. Research use only, not a medical device. See the
<a href="https://github.com/SlicerReCoKD/SlicerReCoKD">documentation</a>.
""")
        self.parent.acknowledgementText = _("""
Built on nnU-Net's plans and preprocessing (Isensee et al., 2021), on MONAI's bundle format and on PyTorch. The
students that come with it carry their own licences and acknowledgements.
""")
        slicer.app.connect("startupCompleted()", registerSampleData)


def registerSampleData() -> None:
    """Offer the cases that come with the students in the module Sample Data."""
    import SampleData

    logic = SampleData.SampleDataLogic
    if hasattr(logic, "registerCustomSampleDataCategory"):  # Slicer 5.11 and later
        logic.registerCustomSampleDataCategory(SAMPLE_CATEGORY, title=_("ReCoKD"))
    icon = Path(__file__).parent / "Resources" / "Icons" / "ReCoKD.png"
    for path in sampleCases():
        name = case_name(path)
        logic.registerCustomSampleDataSource(
            category=SAMPLE_CATEGORY,
            sampleName=name,
            thumbnailFileName=str(icon),
            # They lie beside the module, so nothing is downloaded.
            uris=path.as_uri(),
            fileNames=path.name,
            checksums="SHA256:" + hashlib.sha256(path.read_bytes()).hexdigest(),
            nodeNames=name,
        )


def sampleCases() -> list[Path]:
    """The sample images that come with the students."""
    return sample_cases()


@parameterNodeWrapper
class ReCoKDParameterNode:
    """What the user chose; it is kept in the scene.

    Attributes:
        inputVolume: The volume to segment; of several channels the first.
        roi: Segment only the inside of this box; None for the whole volume.
        student: Name of the student.
        outputSegmentation: Where the segments go; None for a new segmentation.
        showIn3D: Whether to make surfaces.
        mirroring: Whether to average over mirror images.
        segment: Id of the segment that clicks speak of.
    """

    inputVolume: vtkMRMLScalarVolumeNode
    roi: vtkMRMLMarkupsROINode
    student: str = ""
    outputSegmentation: vtkMRMLSegmentationNode
    showIn3D: bool = True
    mirroring: bool = False
    segment: str = ""


class ReCoKDWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):  # type: ignore[misc]
    """The module's panel: Slicer's calls go to :class:`ReCoKDLib.widgets.panel.Panel`, which has the sections."""

    def __init__(self, parent: Any = None) -> None:
        self.logic: ReCoKDLogic | None = None
        self.panel: Any = None
        self._parameterNode: Any = None
        self._parameterNodeGuiTag: Any = None
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)

    def setup(self) -> None:
        """Build the panel from its .ui files, one for each section; called when the module is opened first."""
        ScriptedLoadableModuleWidget.setup(self)
        from ReCoKDLib.widgets.panel import SECTIONS, Panel
        from ReCoKDLib.widgets.settings import Settings

        uiWidget = slicer.util.loadUI(self.resourcePath("UI/ReCoKD.ui"))
        self.layout.addWidget(uiWidget)
        page = slicer.util.childWidgetVariables(uiWidget).segmentPage.layout()
        parts = [slicer.util.loadUI(self.resourcePath(f"UI/{name}.ui")) for name in SECTIONS]
        for part in parts:
            page.addWidget(part)
        page.addStretch(1)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        for part in (uiWidget, *parts):
            part.setMRMLScene(slicer.mrmlScene)
        self.logic = ReCoKDLogic()
        self.panel = Panel(
            self.ui,
            self.logic,
            Settings(slicer.app.userSettings()),
            Path(self.resourcePath("Icons")),
            report=self.reportErrors,
            confirm=lambda question: slicer.util.confirmYesNoDisplay(question, windowTitle="ReCoKD"),
            main_window=slicer.util.mainWindow,
        )
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndImportEvent, self.onSceneEndClose)
        self.initializeParameterNode()
        self.panel.student.refresh()

    def cleanup(self) -> None:
        """Called when the application closes or the module is reloaded; the panel's widgets may be going already."""
        if self.panel:
            self.panel.cleanup()
        self.removeObservers()

    def enter(self) -> None:
        """Called each time the user opens this module."""
        self.initializeParameterNode()
        self.panel.entered()

    def exit(self) -> None:
        """Called each time the user opens another module; a run goes on."""
        self.panel.left()
        self.setParameterNode(None)

    def onSceneStartClose(self, caller: Any, event: Any) -> None:
        """Forget the scene's nodes, and a run whose volume goes away."""
        self.panel.scene_closing()
        self.setParameterNode(None)

    def onSceneEndClose(self, caller: Any, event: Any) -> None:
        """Begin anew, after a scene was closed or read, when the module is still in view."""
        if self.parent.isEntered:
            self.initializeParameterNode()
            self.panel.student.refresh()

    def initializeParameterNode(self) -> None:
        """Connect the scene's parameter node, with the first volume where none was chosen yet."""
        assert self.logic is not None
        self.setParameterNode(self.logic.getParameterNode())
        if not self._parameterNode.inputVolume:
            first = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLScalarVolumeNode")
            if first:
                self._parameterNode.inputVolume = first

    def setParameterNode(self, parameterNode: Any) -> None:
        """Connect this parameter node to the panel instead of the former one; None for none."""
        if self._parameterNode:
            self._parameterNode.disconnectGui(self._parameterNodeGuiTag)
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self._updateFromParameterNode)
        self._parameterNode = parameterNode
        if self._parameterNode:
            self._parameterNodeGuiTag = self._parameterNode.connectGui(self.ui)
            self.addObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self._updateFromParameterNode)
        self.panel.set_parameters(parameterNode)

    def reportErrors(self, action: Callable[[], None], wait: bool = False) -> bool:
        """Run something; what the user can act on is shown as it is said, anything else with its details.

        Args:
            action: What to run.
            wait: Show the cursor of a busy program meanwhile.

        Returns:
            Whether it came to its end.
        """
        with slicer.util.tryWithErrorDisplay(_("Something went wrong in ReCoKD."), waitCursor=wait):
            try:
                action()
                return True
            except Cancelled as cancelled:
                self.panel.segment.show_status(str(cancelled))
                return False
            except ReCoKDError as error:
                message = str(error)
        self.panel.segment.show_status(message)
        slicer.util.errorDisplay(message, windowTitle="ReCoKD")
        return False

    def _updateFromParameterNode(self, caller: Any = None, event: Any = None) -> None:
        self.panel.update()


class ReCoKDLogic(ScriptedLoadableModuleLogic):  # type: ignore[misc]
    """Segmenting volume nodes and correcting the result, without the panel.

    Example, in Slicer's Python console (there, ``slicer.util.loadVolume`` gives the volume node):

    >>> from ReCoKD import ReCoKDLogic, sampleCases
    >>> volumeNode = slicer.util.loadVolume(str(sampleCases()[0]))
    >>> logic = ReCoKDLogic()
    >>> segmentationNode = logic.segment(volumeNode, "hippocampus-x4")

    A click says that a point lies inside a segment, or outside; it lies in the scene as a Markups point:

    >>> confidenceNode, slices = logic.doubtfulSlices(segmentationNode)
    >>> logic.jumpTo(slices[0])
    >>> done = logic.click(segmentationNode, "Anterior", slices[0].position_ras, inside=True)
    >>> done.voxels >= 0
    True
    >>> done = logic.undo(segmentationNode)

    Points that are placed, moved or deleted in the views or in the module Markups are carried out by ``refine``, or at
    once after ``startClicks``:

    >>> pointsNode = logic.clickNode(segmentationNode, "Anterior", inside=False)
    >>> index = pointsNode.AddControlPointWorld(slices[0].position_ras)
    >>> done = logic.refine(segmentationNode)

    And what came of it:

    >>> tableNode = logic.volumeTable(segmentationNode)
    >>> tableNode.GetNumberOfRows()
    2
    """

    def __init__(self) -> None:
        ScriptedLoadableModuleLogic.__init__(self)
        self._live: Any = None
        self._lastRun: Any = None

    def getParameterNode(self) -> Any:
        """The scene's parameter node, with typed access."""
        wrapper: Any = ReCoKDParameterNode  # the decorator gives it a constructor
        return wrapper(super().getParameterNode())

    def ensureDependencies(self) -> None:
        """Ask for and install the Python packages that are missing.

        Raises:
            MissingDependencyError: Something is missing and was not, or could not be, installed.
        """
        from ReCoKDLib.mrml.dependencies import ensure_dependencies

        ensure_dependencies(Path(__file__).parent / "Resources" / "requirements.txt")

    def segment(
        self,
        volumeNode: Any,
        student: Any,
        segmentationNode: Any = None,
        *,
        labels: Sequence[str] | None = None,
        roiNode: Any = None,
        locked: Sequence[str] = (),
        device: str = "auto",
        mirroring: bool = False,
        engine: str = "auto",
        precision: str = "f32",
        memory: float | None = None,
        progress: Callable[[float], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Any:
        """Segment a volume and add the result to the scene; returns when it is done.

        This is the function behind ``recokd segment``, with nodes in place of files.

        Args:
            volumeNode: Scalar volume node, or one for each of the student's channels in the order of its card.
            student: Name, path or opened package (``ReCoKDLib.students.list_students()`` tells what is there).
            segmentationNode: Where the segments go: those of the same names are replaced, all others are kept.
                None for a new segmentation.
            labels: Names of the only structures wanted.
            roiNode: ``vtkMRMLMarkupsROINode``: the student sees only the voxels around it, and outside of it all
                segments stay as they are.
            locked: Names or ids of segments of ``segmentationNode`` to leave as they are, besides those that the user
                marked as completed.
            device: auto, cpu, cuda or mps.
            mirroring: Average over flips: a little better, several times as slow.
            engine: What runs the network: auto, torch, openvino or onnxruntime.
            precision: f32, bf16 or auto.
            memory: GB that the process may take; None sets no bound.
            progress: Called with the finished fraction.
            cancelled: Asked between tiles.

        Returns:
            The segmentation node. Its reference geometry is the volume's.

        Raises:
            ReCoKDError: With a message for the user; the scene is then as it was.
        """
        work = self.segmentLater(
            volumeNode,
            student,
            labels=labels,
            roiNode=roiNode,
            device=device,
            mirroring=mirroring,
            engine=engine,
            precision=precision,
            memory=memory,
        )
        return self.showResult(work(progress, cancelled), _first(volumeNode), segmentationNode, locked)

    def segmentLater(self, volumeNode: Any, student: Any, *, roiNode: Any = None, **options: Any) -> Any:
        """Copy the voxels now; what is returned needs nothing of the scene and may run in a thread or a process.

        Args:
            volumeNode: As in :meth:`segment`.
            student: As in :meth:`segment`.
            roiNode: As in :meth:`segment`.
            **options: Further arguments of ``ReCoKDLib.segment.segment``.

        Returns:
            A ``ReCoKDLib.mrml.results.Run``: called with ``progress`` and ``cancelled`` it gives a ``NodeResult``.
        """
        from ReCoKDLib.mrml.results import prepare_run

        nodes = volumeNode if isinstance(volumeNode, (list, tuple)) else [volumeNode]
        return prepare_run(nodes, student, roiNode, **options)

    def showResult(
        self, result: Any, volumeNode: Any = None, segmentationNode: Any = None, locked: Sequence[str] = ()
    ) -> Any:
        """Add what a student found to the scene; returns the segmentation node."""
        from ReCoKDLib.mrml.results import show_result

        return show_result(result, segmentationNode, locked)

    # Correcting

    def click(
        self, segmentationNode: Any, segment: str, position: Sequence[float], inside: bool = True, **options: Any
    ) -> Any:
        """Say that a point lies inside a segment, or outside; the segmentation follows at once.

        Args:
            segmentationNode: The segmentation.
            segment: Name or id of the segment.
            position: RAS of the world, mm.
            inside: Whether it lies inside.
            **options: Of :meth:`refine`.

        Returns:
            As :meth:`refine`.

        Raises:
            ReCoKDError: The point lies outside the volume, in a locked segment, ...: it is then not in the scene.
        """
        from ReCoKDLib.interaction.corrections import Click

        r, a, s = position
        return self.refine(segmentationNode, [Click((r, a, s), segment, inside)], **options)

    def clickNode(self, segmentationNode: Any, segment: str, inside: bool = True) -> Any:
        """The Markups list of the points inside, or outside, a segment; made when there is none."""
        from ReCoKDLib.mrml.corrections import click_node_of

        return click_node_of(segmentationNode, segment, inside)

    def refine(self, segmentationNode: Any, corrections: Sequence[Any] = (), *, locked: Sequence[str] = ()) -> Any:
        """Carry out the clicks: those in the scene that are new, were moved or deleted, and further ones.

        Args:
            segmentationNode: The segmentation, best one that :meth:`segment` made.
            corrections: ``Click`` and ``Stroke`` of ``ReCoKDLib.interaction.corrections``, with names or ids of
                segments; they are put into the scene.
            locked: Names or ids of segments that new clicks leave alone, besides those marked as completed.

        Returns:
            ``ReCoKDLib.mrml.refining.Refined``: how many voxels changed, and warnings. The first call on a segmentation
            reads everything and takes longer; after a scene was reopened, the student runs once more.

        Raises:
            ReCoKDError: With a message for the user; the segmentation is then as it was.
        """
        from ReCoKDLib.mrml.corrections import refine_node

        return refine_node(segmentationNode, corrections, locked)

    def limitClicks(self, segmentationNode: Any, roiNode: Any) -> None:
        """Let clicks from now on change nothing outside of a ``vtkMRMLMarkupsROINode``; None lifts the limit."""
        from ReCoKDLib.mrml.corrections import limit_clicks

        limit_clicks(segmentationNode, roiNode)

    def undo(self, segmentationNode: Any) -> Any:
        """Take the last step back, in the segmentation and among the Markups points; returns as :meth:`refine`."""
        from ReCoKDLib.mrml.sessions import refining

        return refining(segmentationNode).undo()

    def redo(self, segmentationNode: Any) -> Any:
        """Make the step again that was taken back last; returns as :meth:`refine`."""
        from ReCoKDLib.mrml.sessions import refining

        return refining(segmentationNode).redo()

    def startClicks(
        self,
        segmentationNode: Any,
        onRefined: Callable[[Any], None] | None = None,
        onRefused: Callable[[str], None] | None = None,
    ) -> None:
        """From now on each point that is placed, moved or deleted is carried out at once.

        Args:
            segmentationNode: The segmentation; of several, one at a time is watched by one logic.
            onRefined: Called after each change.
            onRefused: Told why a point was taken away again; None writes it to the log.
        """
        from ReCoKDLib.mrml.live import LiveClicks

        self.stopClicks()
        self._live = LiveClicks(segmentationNode, onRefined, onRefused)

    def stopClicks(self) -> None:
        """Watch the points no more; they stay."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    # Looking at the result

    def doubtfulSlices(self, segmentationNode: Any, **options: Any) -> Any:
        """Where the student that made a segmentation is not sure.

        Args:
            segmentationNode: The segmentation.
            **options: Of ``ReCoKDLib.mrml.doubt.doubtful_slices_of``: mirrored, axis, threshold, smallest_mm3, ...

        Returns:
            A confidence volume node in the volume's place, and the slices worth a look, the most doubtful first, each
            with its ``position_ras``.
        """
        from ReCoKDLib.mrml.doubt import doubtful_slices_of
        from ReCoKDLib.mrml.sessions import refining

        return doubtful_slices_of(refining(segmentationNode), **options)

    def jumpTo(self, place: Any, sliceNodes: Sequence[Any] | None = None) -> None:
        """Show a doubtful slice, or a position (RAS), in the centre of slice views; None for all views."""
        from ReCoKDLib.mrml.doubt import jump_to

        jump_to(getattr(place, "position_ras", place), sliceNodes)

    def volumeTable(self, segmentationNode: Any, tableNode: Any = None) -> Any:
        """Voxels and millilitres of each segment in a ``vtkMRMLTableNode``, a new one for None; returns it."""
        from ReCoKDLib.mrml.tables import volume_table

        return volume_table(segmentationNode, tableNode)

    def exportForTraining(self, segmentationNode: Any, folder: Any, **options: Any) -> str:
        """Add the corrected segmentation and its volumes to a dataset from which a student can be trained.

        Args:
            segmentationNode: The segmentation.
            folder: A dataset in nnU-Net's raw layout, or a new or empty folder.
            **options: ``annotator`` and ``channel_names`` of ``ReCoKDLib.mrml.handover.export_node``.

        Returns:
            The identifier of the new case.
        """
        from ReCoKDLib.mrml.handover import export_node
        from ReCoKDLib.mrml.sessions import refining

        return export_node(refining(segmentationNode), Path(folder), **options)

    def summary(self, result: Any) -> str:
        """What was found, in one line for the panel."""
        from ReCoKDLib.table import segment_sizes

        sizes = segment_sizes(result.labels, result.label_set.segments)
        found = ", ".join(f"{size.segment.name} {size.millilitres:.3g} ml" for size in sizes if size.voxels)
        text: str = _("{found} ({seconds:.1f} s)").format(found=found or _("Nothing was found"), seconds=result.seconds)
        return text

    # For the panel

    def furtherVolume(self, channel: int) -> Any:
        """The volume node that was chosen for a channel after the first; None if none was."""
        return super().getParameterNode().GetNodeReference(f"channel{channel}")

    def setFurtherVolume(self, channel: int, volumeNode: Any) -> None:
        """Choose the volume node of a channel after the first; None for none."""
        nodeId = volumeNode.GetID() if volumeNode is not None else None
        super().getParameterNode().SetNodeReferenceID(f"channel{channel}", nodeId)

    def structures(self) -> list[str]:
        """Names of the only structures to segment; empty for all."""
        found = json.loads(super().getParameterNode().GetParameter("structures") or "[]")
        return [str(name) for name in found]

    def setStructures(self, names: Sequence[str]) -> None:
        """Choose the only structures to segment; none for all."""
        super().getParameterNode().SetParameter("structures", json.dumps(list(names)))

    def openSample(self, card: Any) -> list[Any]:
        """Load a case that fits a student's card; returns its volume nodes, one for each channel.

        Raises:
            InputError: None came with ReCoKD.
        """
        cases = samples_for(card)
        if not cases:
            raise InputError(_("No sample data for {name} came with ReCoKD.").format(name=card.name))
        return [slicer.util.loadVolume(str(path), properties={"name": case_name(path)}) for path in cases[0]]

    def showUndoably(self, result: Any, segmentationNode: Any = None) -> Any:
        """As :meth:`showResult`; :meth:`undoRun` takes it back."""
        from ReCoKDLib.mrml.run_undo import RunUndo

        present = segmentationNode is not None and slicer.mrmlScene.IsNodePresent(segmentationNode)
        before = RunUndo(segmentationNode if present else None)
        node = self.showResult(result, segmentationNode=segmentationNode if present else None)
        self._lastRun = (before, node)
        return node

    def canUndoRun(self) -> bool:
        """Whether there is a run to take back."""
        return self._lastRun is not None and bool(slicer.mrmlScene.IsNodePresent(self._lastRun[1]))

    def undoRun(self) -> Any:
        """Make the segmentation what it was before the last run; returns it, or None where the run had made it.

        Raises:
            InputError: There is no run to take back.
        """
        if self._lastRun is None:
            raise InputError(_("There is no run to take back."))
        (before, node), self._lastRun = self._lastRun, None
        return before.take_back(node)

    def showIn3D(self, segmentationNode: Any, shown: bool = True) -> None:
        """Make, or remove, the surfaces that 3D views show."""
        if shown:
            segmentationNode.CreateClosedSurfaceRepresentation()
        else:
            segmentationNode.RemoveClosedSurfaceRepresentation()

    def knowsDoubt(self, segmentationNode: Any) -> bool:
        """Whether a student made a segmentation, so that :meth:`doubtfulSlices` may tell where it is not sure."""
        return segmentationNode is not None and bool(segmentationNode.GetAttribute("ReCoKD.student"))


def _first(nodes: Any) -> Any:
    return nodes[0] if isinstance(nodes, (list, tuple)) else nodes


class ReCoKDTest(ScriptedLoadableModuleTest):  # type: ignore[misc]
    """The test behind Slicer's button Reload and Test."""

    def setUp(self) -> None:
        """Begin with an empty scene."""
        slicer.mrmlScene.Clear()

    def runTest(self) -> None:
        """Run all tests."""
        for test in (self.test_sampleCaseIsSegmented, self.test_emptyVolumeIsRefused):
            self.setUp()
            test()

    def test_sampleCaseIsSegmented(self) -> None:
        """The first sample case and the first student give segments inside the volume."""
        logic = ReCoKDLogic()
        usable = [entry.package for entry in list_students() if entry.package is not None]
        cases = sampleCases()
        self.assertTrue(usable and cases, "the students and sample cases that come with ReCoKD are missing")
        if slicer.app.testingEnabled() and importlib.util.find_spec("torch") is None:
            self.skipTest("PyTorch is not installed, and a test run installs nothing")
        logic.ensureDependencies()
        volumeNode = slicer.util.loadVolume(str(cases[0]))
        self.delayDisplay("Segmenting the sample case")
        segmentationNode = logic.segment(volumeNode, usable[0])
        names = {segment.name for segment in usable[0].label_set.segments}
        segmentation = segmentationNode.GetSegmentation()
        found = {segmentation.GetNthSegment(n).GetName() for n in range(segmentation.GetNumberOfSegments())}
        self.assertEqual(found, names)
        bounds, inner = [0.0] * 6, [0.0] * 6
        volumeNode.GetRASBounds(bounds)
        segmentationNode.GetRASBounds(inner)
        for low in (0, 2, 4):
            self.assertLessEqual(bounds[low] - 1, inner[low])
            self.assertLessEqual(inner[low + 1], bounds[low + 1] + 1)
        self.delayDisplay("Test passed")

    def test_emptyVolumeIsRefused(self) -> None:
        """Bad input gives a message, and the scene stays as it is."""
        volumeNode = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty")
        with self.assertRaises(ReCoKDError):
            ReCoKDLogic().segmentLater(volumeNode, "any student")
        self.assertIsNone(slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLSegmentationNode"))
