"""Registers the effect ReCoKD with Slicer's Segment Editor; the module itself is hidden."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import ScriptedLoadableModule, ScriptedLoadableModuleTest


class SegmentEditorReCoKD(ScriptedLoadableModule):  # type: ignore[misc]
    """What Slicer knows of the module."""

    def __init__(self, parent: Any) -> None:
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = "SegmentEditorReCoKD"
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        self.parent.dependencies = ["Segmentations", "ReCoKD"]
        self.parent.contributors = ["The ReCoKD contributors"]
        self.parent.hidden = True
        self.parent.helpText = _("This hidden module registers the effect ReCoKD of the Segment Editor.")
        self.parent.acknowledgementText = _("See the module ReCoKD.")
        slicer.app.connect("startupCompleted()", registerEffect)


def registerEffect() -> None:
    """Let the Segment Editor list the effect."""
    import qSlicerSegmentationsEditorEffectsPythonQt as effects

    effect = effects.qSlicerSegmentEditorScriptedEffect(None)
    source = Path(__file__).parent / "SegmentEditorReCoKDLib" / "SegmentEditorEffect.py"
    effect.setPythonSource(source.as_posix())
    effect.self().register()


class SegmentEditorReCoKDTest(ScriptedLoadableModuleTest):  # type: ignore[misc]
    """The test behind Slicer's button Reload and Test, and of ctest."""

    def setUp(self) -> None:
        """Begin with an empty scene."""
        slicer.mrmlScene.Clear()

    def runTest(self) -> None:
        """Run all tests."""
        self.setUp()
        self.test_effectIsListedAndClicks()

    def test_effectIsListedAndClicks(self) -> None:
        """The editor lists the effect; a click inside an empty segment fills some of it, and undo takes that back."""
        import numpy as np

        volumeNode = slicer.util.addVolumeFromArray(np.random.default_rng(0).normal(size=(30, 30, 30)))
        segmentationNode = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
        segmentationNode.CreateDefaultDisplayNodes()
        segmentationNode.SetReferenceImageGeometryParameterFromVolumeNode(volumeNode)
        segmentId = segmentationNode.GetSegmentation().AddEmptySegment("", "new")
        editor = slicer.qMRMLSegmentEditorWidget()
        editor.setMRMLScene(slicer.mrmlScene)
        editorNode = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentEditorNode")
        editor.setMRMLSegmentEditorNode(editorNode)
        editor.setSegmentationNode(segmentationNode)
        editor.setSourceVolumeNode(volumeNode)
        editor.setCurrentSegmentID(segmentId)
        editor.setActiveEffectByName("ReCoKD")
        effect = editor.activeEffect()
        self.assertIsNotNone(effect, "the Segment Editor does not list ReCoKD")
        effect.self().click((-15.0, -15.0, 15.0), True)

        def voxels() -> int:
            return int(slicer.util.arrayFromSegmentBinaryLabelmap(segmentationNode, segmentId, volumeNode).sum())

        self.assertGreater(voxels(), 0)
        editor.undo()
        self.assertEqual(voxels(), 0)
        editor.setActiveEffect(None)
        self.delayDisplay("Test passed")
