"""The few MRML widgets that the module's panel uses, over slicer-core's scene."""

from __future__ import annotations

from typing import Any

import slicer
from PySide6.QtCore import Signal

from .qt_module import UiLoader, qt


class qMRMLWidget(qt.QWidget):  # type: ignore[misc]  # noqa: N801 - Slicer's name
    """A panel whose children get the scene."""

    mrmlSceneChanged = Signal(object)  # noqa: N815
    isEntered = True  # noqa: N815

    def setMRMLScene(self, scene: Any) -> None:
        """Hand the scene to all children; the .ui file's connections name C++ types that are not here."""
        for child in slicer.util.findChildren(self):
            if child is not self and hasattr(child, "setMRMLScene"):
                child.setMRMLScene(scene)


class qMRMLNodeComboBox(qt.QComboBox):  # type: ignore[misc]  # noqa: N801 - Slicer's name
    """A choice of the scene's nodes of some classes."""

    currentNodeChanged = Signal(object)  # noqa: N815

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._scene: Any = None
        self._nodes: list[Any] = []
        self.currentIndexChanged.connect(self._index_changed)
        for name, value in {"nodeTypes": [], "noneEnabled": False, "noneDisplay": "Select a node"}.items():
            self.setProperty(name, value)

    def setMRMLScene(self, scene: Any) -> None:
        """Show this scene's nodes, from now on."""
        if scene is self._scene:
            return
        self._scene = scene
        events = (scene.NodeAddedEvent, scene.NodeRemovedEvent, scene.EndCloseEvent)
        for event in events:
            scene.AddObserver(event, lambda caller, event: self._fill())
        self._fill()

    def currentNode(self) -> Any:
        """The chosen node or None."""
        index = self.currentIndex
        return self._nodes[index] if 0 <= index < len(self._nodes) else None

    def setCurrentNode(self, node: Any) -> None:
        """Choose a node, or None for none."""
        if node in self._nodes:
            self.setCurrentIndex(self._nodes.index(node))
        else:
            self.setCurrentIndex(-1)

    def _fill(self) -> None:
        chosen = self.currentNode()
        found: list[Any] = [None] if self.noneEnabled else []
        for kind in self.nodeTypes or []:
            nodes = self._scene.GetNodesByClass(kind)
            nodes.UnRegister(None)
            each = [nodes.GetItemAsObject(n) for n in range(nodes.GetNumberOfItems())]
            exact = self.property("showChildNodeTypes") is False
            found += [
                node for node in each if not node.GetHideFromEditors() and (not exact or node.GetClassName() == kind)
            ]
        self.blockSignals(True)
        self._nodes = found
        self.clear()
        for node in found:
            self.addItem(self.noneDisplay if node is None else node.GetName())
        if chosen in found:
            self.setCurrentIndex(found.index(chosen))
        elif found:
            self.setCurrentIndex(0)
        self.blockSignals(False)
        if self.currentNode() is not chosen:
            self.currentNodeChanged.emit(self.currentNode())

    def _index_changed(self, index: int) -> None:
        self.currentNodeChanged.emit(self.currentNode())


class qMRMLSegmentEditorWidget(qMRMLWidget):  # noqa: N801 - Slicer's name
    """As much of Slicer's Segment Editor as a panel around it asks for; it edits nothing."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        layout = qt.QVBoxLayout(self)
        layout.addWidget(qt.QLabel("Slicer's Segment Editor", self))
        self._node: Any = None
        self._effect: Any = None
        self.visible_parts: dict[str, bool] = {}
        self.heard_views = False

    def setMRMLSegmentEditorNode(self, node: Any) -> None:
        """What keeps its choices."""
        self._node = node

    def mrmlSegmentEditorNode(self) -> Any:
        """See above."""
        return self._node

    def setSegmentationNode(self, node: Any) -> None:
        """Edit this."""
        if self._node is not None:
            self._node.SetAndObserveSegmentationNode(node)

    def segmentationNode(self) -> Any:
        """What is edited."""
        return self._node.GetSegmentationNode() if self._node is not None else None

    def setSourceVolumeNode(self, node: Any) -> None:
        """Edit it on this volume; there must be a segmentation first."""
        assert self.segmentationNode() is not None
        self._node.SetAndObserveSourceVolumeNode(node)

    def sourceVolumeNode(self) -> Any:
        """See above."""
        return self._node.GetSourceVolumeNode() if self._node is not None else None

    def setMaximumNumberOfUndoStates(self, number: int) -> None:
        """Nothing to undo here."""

    def setSegmentationNodeSelectorVisible(self, visible: bool) -> None:
        """Part of the widget."""
        self.visible_parts["segmentation"] = visible

    def setSourceVolumeNodeSelectorVisible(self, visible: bool) -> None:
        """Part of the widget."""
        self.visible_parts["volume"] = visible

    def setSwitchToSegmentationsButtonVisible(self, visible: bool) -> None:
        """Part of the widget."""
        self.visible_parts["switch"] = visible

    def setActiveEffect(self, effect: Any) -> None:
        """The tool in use; None for none."""
        self._effect = effect

    def activeEffect(self) -> Any:
        """See above."""
        return self._effect

    def removeViewObservations(self) -> None:
        """Leave the mouse to others."""
        self.heard_views = False


def install() -> None:
    """Put the widgets into ``slicer`` and into the .ui loader."""
    for widget in (qMRMLWidget, qMRMLNodeComboBox, qMRMLSegmentEditorWidget):
        setattr(slicer, widget.__name__, widget)
        UiLoader.widgets[widget.__name__] = widget
    # Named by Slicer's parameter node wrapper, whether or not they are used.
    for name in ("qMRMLRangeWidget", "qMRMLSliderWidget", "qMRMLSpinBox", "qMRMLCheckableNodeComboBox"):
        if not hasattr(slicer, name):
            setattr(slicer, name, type(name, (qt.QWidget,), {}))
