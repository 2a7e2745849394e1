"""Small stand-ins for Slicer's own Python files, where those are not at hand: as much as our module uses."""

from __future__ import annotations

import sys
import types
import typing
import unittest
from collections.abc import Callable
from pathlib import Path
from typing import Any

import slicer
import vtk


class ScriptedLoadableModule:
    """What describes a module; `parent` stands for Slicer's C++ module object."""

    def __init__(self, parent: Any) -> None:
        self.parent = parent


class ScriptedLoadableModuleWidget:
    """A module's panel in a parent widget."""

    def __init__(self, parent: Any) -> None:
        self.moduleName = type(self).__name__.removesuffix("Widget")
        self.parent = parent
        self.layout = parent.layout()

    def resourcePath(self, name: str) -> str:
        """A file of the module's Resources folder."""
        return str(Path(slicer.util.modulePath(self.moduleName)).parent / "Resources" / name)

    def setup(self) -> None:
        """Nothing more to set up without the developer's section."""


class ScriptedLoadableModuleLogic:
    """A module's logic with one parameter node in the scene."""

    def __init__(self) -> None:
        self.moduleName = type(self).__name__.removesuffix("Logic")

    def getParameterNode(self) -> Any:
        """The scene's parameter node, made when there is none."""
        node = slicer.mrmlScene.GetSingletonNode(self.moduleName, "vtkMRMLScriptedModuleNode")
        if node is None:
            node = slicer.vtkMRMLScriptedModuleNode()
            node.SetSingletonTag(self.moduleName)
            node.SetName(self.moduleName)
            node.SetAttribute("ModuleName", self.moduleName)
            node = slicer.mrmlScene.AddNode(node)
        return node


class ScriptedLoadableModuleTest(unittest.TestCase):
    """A module's test."""

    def delayDisplay(self, message: str) -> None:
        """Slicer shows the message for a moment."""


def parameterNodeWrapper(described: type) -> type:
    """Typed access to a parameter node: nodes as references, text and switches as parameters."""
    kinds = typing.get_type_hints(described)
    defaults = {name: getattr(described, name, None) for name in kinds}

    def reader(name: str) -> Callable[[Any], Any]:
        def read(self: Any) -> Any:
            if kinds[name] in (str, bool):
                text = self.parameterNode.GetParameter(name)
                if not self.parameterNode.HasParameter(name):
                    return defaults[name]
                return text == "True" if kinds[name] is bool else text
            return self.parameterNode.GetNodeReference(name)

        return read

    def writer(name: str) -> Callable[[Any, Any], None]:
        def write(self: Any, value: Any) -> None:
            if kinds[name] in (str, bool):
                self.parameterNode.SetParameter(name, str(value))
            else:
                self.parameterNode.SetNodeReferenceID(name, value.GetID() if value else None)

        return write

    def start(self: Any, node: Any) -> None:
        self.parameterNode = node
        self._connections = {}

    def connect_gui(self: Any, gui: Any) -> Any:
        widgets = {}
        for widget in vars(gui).values():
            if (name := widget.property("SlicerParameterName")) in kinds:
                widgets[name] = widget
        updating: list[bool] = []

        def to_gui(*_: Any) -> None:
            if updating:
                return
            updating.append(True)
            for name, widget in widgets.items():
                if kinds[name] is bool:
                    widget.checked = getattr(self, name)
                else:
                    widget.setCurrentNode(getattr(self, name))
            updating.clear()

        slots = []
        for name, widget in widgets.items():
            signal = widget.toggled if kinds[name] is bool else widget.currentNodeChanged

            def from_gui(value: Any, name: str = name) -> None:
                if not updating:
                    setattr(self, name, value)

            signal.connect(from_gui)
            slots.append((signal, from_gui))
        to_gui()
        tag = self.parameterNode.AddObserver(vtk.vtkCommand.ModifiedEvent, to_gui)
        self._connections[tag] = slots
        return tag

    def disconnect_gui(self: Any, tag: Any) -> None:
        for signal, slot in self._connections.pop(tag, []):
            signal.disconnect(slot)
        self.parameterNode.RemoveObserver(tag)

    members: dict[str, Any] = {name: property(reader(name), writer(name)) for name in kinds}
    members.update(__init__=start, connectGui=connect_gui, disconnectGui=disconnect_gui)
    members["AddObserver"] = lambda self, *arguments: self.parameterNode.AddObserver(*arguments)
    members["RemoveObserver"] = lambda self, tag: self.parameterNode.RemoveObserver(tag)
    return type(described.__name__, (), members)


def install() -> None:
    """Make ``slicer.i18n``, ``slicer.ScriptedLoadableModule`` and ``slicer.parameterNodeWrapper`` importable."""
    contents: dict[str, dict[str, Any]] = {
        "i18n": {"tr": lambda text: text, "translate": lambda context, text: text},
        "ScriptedLoadableModule": {
            each.__name__: each
            for each in (
                ScriptedLoadableModule,
                ScriptedLoadableModuleWidget,
                ScriptedLoadableModuleLogic,
                ScriptedLoadableModuleTest,
            )
        },
        "parameterNodeWrapper": {"parameterNodeWrapper": parameterNodeWrapper},
    }
    for name, members in contents.items():
        module = types.ModuleType(f"slicer.{name}")
        vars(module).update(members)
        sys.modules[module.__name__] = module
        setattr(slicer, name, module)
