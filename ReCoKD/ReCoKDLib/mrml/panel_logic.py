"""What the panel asks of the module's logic besides: choices that are kept in the scene, samples, the last run undone.

This file is loaded when Slicer starts.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..samples import case_name, samples_for
from .host import ensure_slicer
from .logic import SceneLogic


class PanelLogic(SceneLogic, ABC):
    """The rest of ``ReCoKDLogic``."""

    def __init__(self) -> None:
        super().__init__()
        self._lastRun: Any = None

    @abstractmethod
    def rawParameterNode(self) -> Any:
        """The scene's parameter node without typed access."""

    def summary(self, result: Any) -> str:
        """What was found, in one line for the panel."""
        from ..table import segment_sizes
        from .texts import _

        sizes = segment_sizes(result.labels, result.label_set.segments)
        found = ", ".join(f"{size.segment.name} {size.millilitres:.3g} ml" for size in sizes if size.voxels)
        text: str = _("{found} ({seconds:.1f} s)").format(found=found or _("Nothing was found"), seconds=result.seconds)
        return text

    def furtherVolume(self, channel: int) -> Any:
        """The volume node that was chosen for a channel after the first; None if none was."""
        return self.rawParameterNode().GetNodeReference(f"channel{channel}")

    def setFurtherVolume(self, channel: int, volumeNode: Any) -> None:
        """Choose the volume node of a channel after the first; None for none."""
        node_id = volumeNode.GetID() if volumeNode is not None else None
        self.rawParameterNode().SetNodeReferenceID(f"channel{channel}", node_id)

    def structures(self) -> list[str]:
        """Names of the only structures to segment; empty for all."""
        found = json.loads(self.rawParameterNode().GetParameter("structures") or "[]")
        return [str(name) for name in found]

    def setStructures(self, names: Sequence[str]) -> None:
        """Choose the only structures to segment; none for all."""
        self.rawParameterNode().SetParameter("structures", json.dumps(list(names)))

    def openSample(self, card: Any) -> list[Any]:
        """Load a case that fits a student's card; returns its volume nodes, one for each channel.

        Raises:
            InputError: None came with ReCoKD.
        """
        cases = samples_for(card)
        if not cases:
            from .texts import _

            raise InputError(_("No sample data for {name} came with ReCoKD.").format(name=card.name))
        return [ensure_slicer().util.loadVolume(str(path), properties={"name": case_name(path)}) for path in cases[0]]

    def previewOf(self, run: Any, package: Any) -> Any:
        """A ``ReCoKDLib.mrml.preview_node.PreviewNode``, which shows what a run knows so far; nothing is made yet."""
        from dataclasses import replace

        from .preview_node import PreviewNode

        wanted = package.label_set.subset(run.options.get("labels"))
        return PreviewNode(run, replace(package.label_set, segments=wanted))

    def showUndoably(self, result: Any, segmentationNode: Any = None) -> Any:
        """As :meth:`showResult`; :meth:`undoRun` takes it back."""
        from .run_undo import RunUndo

        present = segmentationNode is not None and ensure_slicer().mrmlScene.IsNodePresent(segmentationNode)
        before = RunUndo(segmentationNode if present else None)
        node = self.showResult(result, segmentationNode=segmentationNode if present else None)
        self._lastRun = (before, node)
        return node

    def canUndoRun(self) -> bool:
        """Whether there is a run to take back."""
        return self._lastRun is not None and bool(ensure_slicer().mrmlScene.IsNodePresent(self._lastRun[1]))

    def undoRun(self) -> Any:
        """Make the segmentation what it was before the last run; returns it, or None where the run had made it.

        Raises:
            InputError: There is no run to take back.
        """
        if self._lastRun is None:
            from .texts import _

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

    # Training

    def trainingScript(self) -> Any:
        """Path of the script of the module ReCoKDTraining.

        Raises:
            InputError: It is not here.
        """
        from ..training_start import find_script

        module = getattr(ensure_slicer().modules, "recokdtraining", None)
        return find_script([Path(module.path)] if module is not None else [])

    def trainingCases(self, channels: Sequence[str] = ()) -> Any:
        """The cases of the open scene: ``ReCoKDLib.mrml.training_cases.TrainingCase``."""
        from .training_cases import training_cases

        return training_cases(channels)

    def showTrainingCase(self, case: Any, row: Any) -> None:
        """Show a case in the views: one of the scene, or else the files that a row of a check names.

        Raises:
            DatasetError: It is not in the scene any more, or its files cannot be loaded.
        """
        from .training_cases import show_files, show_scene_case

        if case is not None:
            show_scene_case(case)
        else:
            show_files(row.images, row.segmentation)
