"""Slicer's Segment Editor for effects in Python: slicer-core's own editor logic under a stand-in of its Qt side.

Masking, overwrite mode and undo are Slicer's; the options frame, the registration and the calls of an effect are ours.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import slicer

from .qt_module import qt


class AbstractScriptedSegmentEditorEffect:
    """What effects derive from."""

    def __init__(self, scripted_effect: Any) -> None:
        self.scriptedEffect = scripted_effect

    def register(self) -> None:
        """Let editors list the effect."""
        Factory.effects[self.scriptedEffect.name] = self.scriptedEffect

    def xyToRas(self, xy: tuple[int, int], view: Any) -> list[float]:
        """The place of a pixel of a slice view."""
        r, a, s, _ = view.mrmlSliceNode().GetXYToRAS().MultiplyPoint((*xy, 0.0, 1.0))
        return [r, a, s]


class Factory:
    """All effects by their names."""

    effects: dict[str, Any] = {}  # noqa: RUF012 - one list, as in Slicer


class ScriptedEffect:
    """The C++ side of an effect: parameters, options frame, and changes of segments through the editor's logic."""

    def __init__(self, parent: Any) -> None:
        self.name = self.title = ""
        self.perSegment = self.requireSegments = True
        self.frame = qt.QWidget()
        self.form = qt.QFormLayout(self.frame)
        self.editor: Editor | None = None
        self._python: Any = None

    def setPythonSource(self, path: str) -> bool:
        """Load the effect's file and make an effect of its class."""
        assert Path(path).is_file()
        spec = importlib.util.spec_from_file_location("SegmentEditorEffect", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self._python = module.SegmentEditorEffect(self)
        return True

    def self(self) -> Any:
        """The object of the Python class."""
        return self._python

    # Options

    def addOptionsWidget(self, widget: Any) -> None:
        """A widget, or a layout, in the options frame."""
        self.form.addRow(widget)

    def addLabeledOptionsWidget(self, label: str, widget: Any) -> Any:
        """With a label beside it."""
        self.form.addRow(label, widget)
        return self.form.labelForField(widget)

    # Parameters

    def parameterSetNode(self) -> Any:
        """The editor's node."""
        return self.editor.node if self.editor else None

    def setParameterDefault(self, name: str, value: str) -> None:
        """Unless it is set."""
        if self.parameterSetNode().GetAttribute(f"{self.name}.{name}") is None:
            self.setParameter(name, value)

    def setParameter(self, name: str, value: str) -> None:
        """Kept in the editor's node."""
        self.parameterSetNode().SetAttribute(f"{self.name}.{name}", str(value))

    def parameter(self, name: str) -> str:
        """See above."""
        return self.parameterSetNode().GetAttribute(f"{self.name}.{name}") or ""

    def setNodeReference(self, name: str, node: Any) -> None:
        """Kept in the editor's node."""
        self.parameterSetNode().SetNodeReferenceID(f"{self.name}.{name}", node.GetID() if node else None)

    def nodeReference(self, name: str) -> Any:
        """See above."""
        return self.parameterSetNode().GetNodeReference(f"{self.name}.{name}")

    # Changes

    def confirmCurrentSegmentVisible(self) -> int:
        """The user is not asked here."""
        return 1

    def defaultModifierLabelmap(self) -> Any:
        """An empty image on the editor's grid."""
        assert self.editor is not None
        return self.editor.blank()

    def saveStateForUndo(self) -> None:
        """Before a change."""
        assert self.editor is not None
        self.editor.logic.SaveStateForUndo()

    def modifySegmentByLabelmap(self, segmentation: Any, segment_id: str, image: Any, mode: int) -> None:
        """Change a segment under the editor's rules."""
        assert self.editor is not None
        self.editor.logic.ModifySegmentByLabelmap(segmentation, segment_id, image, mode, self.perSegment, False)

    def modifySelectedSegmentByLabelmap(self, image: Any, mode: int) -> None:
        """Change the selected segment."""
        node = self.parameterSetNode()
        self.modifySegmentByLabelmap(node.GetSegmentationNode(), node.GetSelectedSegmentID(), image, mode)

    @staticmethod
    def renderer(view: Any) -> Any:
        """Of a view."""
        return view.renderer


class Editor:
    """An editor with one effect in use."""

    def __init__(self, segmentation_node: Any, volume_node: Any, segment_id: str) -> None:
        self.node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentEditorNode")
        self.node.SetAndObserveSegmentationNode(segmentation_node)
        self.node.SetAndObserveSourceVolumeNode(volume_node)
        self.node.SetSelectedSegmentID(segment_id)
        self.logic = slicer.vtkSlicerSegmentEditorLogic()
        self.logic.SetMRMLScene(slicer.mrmlScene)
        self.logic.SetSegmentEditorNode(self.node)
        self.logic.SetMaximumNumberOfUndoStates(10)
        self.effect: Any = None

    def blank(self) -> Any:
        """An empty image on the grid that is edited."""
        self.logic.UpdateReferenceGeometryImage()
        self.logic.ResetModifierLabelmapToDefault()
        return self.logic.GetModifierLabelmap()

    def use(self, name: str) -> Any:
        """Choose an effect, as the user does; returns its Python object."""
        # Each editor has effects of its own, made by clone().
        self.effect = Factory.effects[name].self().clone()
        self.effect.editor = self
        python = self.effect.self()
        python.setupOptionsFrame()
        python.setMRMLDefaults()
        python.activate()
        self.effect.frame.show()
        return python


def install() -> None:
    """Make the modules importable that effects ask for."""
    effects = types.ModuleType("SegmentEditorEffects")
    vars(effects)["AbstractScriptedSegmentEditorEffect"] = AbstractScriptedSegmentEditorEffect
    sys.modules["SegmentEditorEffects"] = effects
    adaptor = types.ModuleType("qSlicerSegmentationsEditorEffectsPythonQt")
    vars(adaptor)["qSlicerSegmentEditorScriptedEffect"] = ScriptedEffect
    sys.modules[adaptor.__name__] = adaptor
    logic = slicer.vtkSlicerSegmentEditorLogic
    names = ("ModificationModeSet", "ModificationModeAdd", "ModificationModeRemove")
    modes = types.SimpleNamespace(**{name: getattr(logic, name) for name in names})
    slicer.qSlicerSegmentEditorAbstractEffect = modes
