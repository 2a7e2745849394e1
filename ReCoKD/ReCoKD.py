"""ReCoKD in 3D Slicer: choose a volume and a student, press Apply, and a segmentation appears."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable
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

from ReCoKDLib.errors import ReCoKDError
from ReCoKDLib.mrml.panel_logic import PanelLogic
from ReCoKDLib.samples import case_name, sample_cases
from ReCoKDLib.students import list_students

# Nothing but numpy is loaded with this file: torch and the rest come with the first run.

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
        from ReCoKDLib.widgets.panel import SECTIONS, TRAINING_SECTIONS, Panel
        from ReCoKDLib.widgets.settings import Settings

        uiWidget = slicer.util.loadUI(self.resourcePath("UI/ReCoKD.ui"))
        self.layout.addWidget(uiWidget)
        pages = slicer.util.childWidgetVariables(uiWidget)
        parts = []
        for page, names in ((pages.segmentPage, SECTIONS), (pages.trainPage, TRAINING_SECTIONS)):
            for name in names:
                parts.append(slicer.util.loadUI(self.resourcePath(f"UI/{name}.ui")))
                page.layout().addWidget(parts[-1])
            page.layout().addStretch(1)
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
        """Run something and show its errors; returns whether it came to its end. ``wait`` for what takes long."""
        from ReCoKDLib.mrml.reporting import report

        return report(action, self.panel.segment.show_status, wait)

    def _updateFromParameterNode(self, caller: Any = None, event: Any = None) -> None:
        self.panel.update()


class ReCoKDLogic(ScriptedLoadableModuleLogic, PanelLogic):  # type: ignore[misc]
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
        PanelLogic.__init__(self)

    def rawParameterNode(self) -> Any:
        """The scene's parameter node."""
        return ScriptedLoadableModuleLogic.getParameterNode(self)

    def getParameterNode(self) -> Any:
        """The scene's parameter node, with typed access."""
        wrapper: Any = ReCoKDParameterNode  # the decorator gives it a constructor
        return wrapper(self.rawParameterNode())


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
