"""A segmentation that shows, in slice views, what a run knows so far; it is gone when the run is over."""

from __future__ import annotations

from typing import Any

from ..labels import LabelSet
from ..preview import Preview
from .host import ensure_slicer
from .results import Run
from .segmentations import fill_segmentation
from .texts import _

_OPACITY = 0.5  # of the final result's


class PreviewNode:
    """A node of its own, so that whatever happens to the run, no segmentation of the user's was touched.

    It is in no list of nodes and in no saved scene.

    Args:
        run: What is under way.
        label_set: The segments that were asked for.
    """

    def __init__(self, run: Run, label_set: LabelSet) -> None:
        self._run = run
        self._label_set = label_set
        self.node: Any = None

    def show(self, preview: Preview) -> None:
        """Show what is known now; nothing where the volume was removed, or the preview by hand."""
        slicer = ensure_slicer()
        scene, volume_node = slicer.mrmlScene, self._run.nodes[0]
        if not scene.IsNodePresent(volume_node) or (self.node is not None and not scene.IsNodePresent(self.node)):
            return
        if self._run.box is not None:
            k, j, i = preview.voxels.T
            inside = self._run.box.contains(self._run.volume.ijk_to_ras, (k, j, i))
            preview = Preview(preview.voxels[inside], preview.values[inside])
        if self.node is None:
            self.node = self._made(slicer, volume_node)
        fill_segmentation(self.node, preview.on(self._run.volume), self._label_set)

    def remove(self) -> None:
        """The run is over."""
        scene = ensure_slicer().mrmlScene
        if self.node is not None and scene.IsNodePresent(self.node):
            display = self.node.GetDisplayNode()
            scene.RemoveNode(self.node)
            if display is not None:
                scene.RemoveNode(display)
        self.node = None

    def _made(self, slicer: Any, volume_node: Any) -> Any:
        node = slicer.vtkMRMLSegmentationNode()
        node.SetName(_("{volume} preview, unfinished").format(volume=volume_node.GetName()))
        node.SetHideFromEditors(True)
        node.SetSaveWithScene(False)
        node.SetUndoEnabled(False)
        slicer.mrmlScene.AddNode(node)
        node.SetAndObserveTransformNodeID(volume_node.GetTransformNodeID())
        node.SetReferenceImageGeometryParameterFromVolumeNode(volume_node)
        node.CreateDefaultDisplayNodes()
        display = node.GetDisplayNode()
        display.SetSaveWithScene(False)
        display.SetOpacity2DFill(_OPACITY * display.GetOpacity2DFill())
        display.SetVisibility2DOutline(False)
        display.SetVisibility3D(False)
        return node
