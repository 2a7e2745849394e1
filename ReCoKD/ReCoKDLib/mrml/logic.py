"""What the module's logic does with nodes: segment, correct, look at the result, hand it over.

Each method calls the function that does it, which is loaded then: this file is loaded when Slicer starts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


class SceneLogic:
    """The scriptable part of ``ReCoKDLogic``; its docstring shows how it is used."""

    def __init__(self) -> None:
        self._live: Any = None
        self._kept: Any = None

    def ensureDependencies(self) -> None:
        """Ask for and install the Python packages that are missing.

        Raises:
            MissingDependencyError: Something is missing and was not, or could not be, installed.
        """
        from .dependencies import ensure_dependencies

        ensure_dependencies(Path(__file__).resolve().parents[2] / "Resources" / "requirements.txt")

    def ensureTrainingDependencies(self) -> None:
        """As :meth:`ensureDependencies`, with what training needs besides."""
        from .dependencies import ensure_dependencies

        self.ensureDependencies()
        ensure_dependencies(Path(__file__).resolve().parents[2] / "Resources" / "training-requirements.txt")

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
        preview: Callable[[Any], None] | None = None,
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
            roiNode: ``vtkMRMLMarkupsROINode``: only the voxels around it are segmented, and outside of it all segments
                stay as they are. There the result is that of the whole volume, unless the student normalises
                intensities by their own mean or range: then it sees these voxels alone. Of another region of the same
                volume only what is new is computed.
            locked: Names or ids of segments of ``segmentationNode`` to leave as they are, besides those that the user
                marked as completed.
            device: auto, cpu, cuda or mps.
            mirroring: Average over flips: a little better, several times as slow.
            engine: What runs the network: auto, torch, openvino or onnxruntime.
            precision: f32, bf16 or auto.
            memory: GB that the process may take; None sets no bound.
            preview: Told about once a second what is known so far of the slices that the views show, which are
                computed first: a ``ReCoKDLib.preview.Preview``.
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
        if self._kept is None:
            from ..kept import Kept

            self._kept = Kept()
        result = work(progress, cancelled, preview=preview, kept=self._kept)
        return self.showResult(result, segmentationNode, locked)

    def forget(self) -> None:
        """Give back the memory of the student and the volume that :meth:`segment` saw last."""
        self._kept = None

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
        from .results import prepare_run

        nodes = volumeNode if isinstance(volumeNode, (list, tuple)) else [volumeNode]
        return prepare_run(nodes, student, roiNode, **options)

    def showResult(self, result: Any, segmentationNode: Any = None, locked: Sequence[str] = ()) -> Any:
        """Add what a student found to the scene; returns the segmentation node."""
        from .results import show_result

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
        from ..interaction.corrections import Click

        r, a, s = position
        return self.refine(segmentationNode, [Click((r, a, s), segment, inside)], **options)

    def clickNode(self, segmentationNode: Any, segment: str, inside: bool = True) -> Any:
        """The Markups list of the points inside, or outside, a segment; made when there is none."""
        from .corrections import click_node_of

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
        from .corrections import refine_node

        return refine_node(segmentationNode, corrections, locked)

    def limitClicks(self, segmentationNode: Any, roiNode: Any) -> None:
        """Let clicks from now on change nothing outside of a ``vtkMRMLMarkupsROINode``; None lifts the limit."""
        from .corrections import limit_clicks

        limit_clicks(segmentationNode, roiNode)

    def undo(self, segmentationNode: Any) -> Any:
        """Take the last step back, in the segmentation and among the Markups points; returns as :meth:`refine`."""
        from .sessions import refining

        return refining(segmentationNode).undo()

    def redo(self, segmentationNode: Any) -> Any:
        """Make the step again that was taken back last; returns as :meth:`refine`."""
        from .sessions import refining

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
        from .live import LiveClicks

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
        from .doubt import doubtful_slices_of
        from .sessions import refining

        return doubtful_slices_of(refining(segmentationNode), **options)

    def jumpTo(self, place: Any, sliceNodes: Sequence[Any] | None = None) -> None:
        """Show a doubtful slice, or a position (RAS), in the centre of slice views; None for all views."""
        from .doubt import jump_to

        jump_to(getattr(place, "position_ras", place), sliceNodes)

    def volumeTable(self, segmentationNode: Any, tableNode: Any = None) -> Any:
        """Voxels and millilitres of each segment in a ``vtkMRMLTableNode``, a new one for None; returns it."""
        from .tables import volume_table

        return volume_table(segmentationNode, tableNode)

    def savePicture(self, segmentationNode: Any, path: Any, overwrite: bool = False) -> None:
        """Write slices, a 3D view and the volumes of all segments to a file ending in ``.png``.

        Raises:
            ReCoKDError: There is nothing to draw, or the file cannot be written or exists.
        """
        from .pictures import save_picture

        save_picture(segmentationNode, Path(path), overwrite)

    def exportForTraining(self, segmentationNode: Any, folder: Any, **options: Any) -> str:
        """Add the corrected segmentation and its volumes to a dataset from which a student can be trained.

        Args:
            segmentationNode: The segmentation.
            folder: A dataset in nnU-Net's raw layout, or a new or empty folder.
            **options: ``annotator`` and ``channel_names`` of ``ReCoKDLib.mrml.handover.export_node``.

        Returns:
            The identifier of the new case.
        """
        from .handover import export_node
        from .sessions import refining

        return export_node(refining(segmentationNode), Path(folder), **options)

    def exportCasesForTraining(
        self, folder: Any, cases: Any = None, channels: Sequence[str] = (), pairing: Any = None
    ) -> Any:
        """Write cases of the open scene into a new folder that training reads.

        Args:
            folder: A folder that does not exist.
            cases: ``ReCoKDLib.mrml.scene_cases.SceneCase``, some of the scene; None for all.
            channels: Names or modalities of the channels, where there are several.
            pairing: CSV table of segmentations and their volumes, where the scene does not tell (``docs/datasets.md``).

        Returns:
            The cases by the names that they have in the folder.

        Raises:
            ReCoKDError: There is no case, one cannot be used, or the folder cannot be written.
        """
        from .training_cases import export_cases, training_cases

        chosen = [found.case for found in training_cases(channels, pairing)] if cases is None else cases
        return export_cases(chosen, Path(folder))
