"""Slicer's own Segment Editor inside the panel, on the same segmentation."""

from __future__ import annotations

from typing import Any

from ..mrml.editor import editor_node, make_editor


class EditorArea:
    """Makes the editor when its part of the panel is opened for the first time: it takes a while.

    Args:
        button: The collapsible button around it.
    """

    def __init__(self, button: Any) -> None:
        self._button = button
        self._nodes: tuple[Any, Any] = (None, None)
        self.widget: Any = None
        button.connect("contentsCollapsed(bool)", lambda collapsed: self._opened() if not collapsed else self._rest())

    def set_nodes(self, segmentation_node: Any, volume_node: Any) -> None:
        """Edit this segmentation of this volume."""
        self._nodes = (segmentation_node, volume_node)
        if self.widget is not None and self.widget.mrmlSegmentEditorNode() is not None:
            if self.widget.segmentationNode() is not segmentation_node:
                self.widget.setSegmentationNode(segmentation_node)
            if segmentation_node is not None and self.widget.sourceVolumeNode() is not volume_node:
                self.widget.setSourceVolumeNode(volume_node)

    def entered(self) -> None:
        """Show what the present scene has."""
        if self.widget is not None:
            self.widget.setMRMLSegmentEditorNode(editor_node())
            self.set_nodes(*self._nodes)

    def left(self) -> None:
        """The mouse is another module's."""
        self._rest()

    def scene_closing(self) -> None:
        """Its node goes away with the scene."""
        self._nodes = (None, None)
        if self.widget is not None:
            self._rest()
            self.widget.setSegmentationNode(None)
            self.widget.setMRMLSegmentEditorNode(None)

    def _opened(self) -> None:
        if self.widget is None:
            self.widget = make_editor()
            self._button.layout().addWidget(self.widget)
        self.entered()

    def _rest(self) -> None:
        if self.widget is not None:
            self.widget.setActiveEffect(None)
            self.widget.removeViewObservations()
