"""Which volumes and segmentations of a scene belong together, and what they hold."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..annotation import Annotation
from ..errors import DatasetError, InputError
from ..segment_matching import FoundSegment, read_rows
from ..volume import Volume
from .annotations import read_annotation
from .host import ensure_slicer
from .volumes import volume_from_nodes

PAIRING_COLUMNS = ("scene", "segmentation", "volume")


@dataclass(frozen=True)
class SceneCase:
    """A case of a scene.

    Attributes:
        volumes: Ids of its volume nodes, one for each channel.
        segmentations: Ids of its segmentation nodes.
        segments: Of each segmentation.
        names: What its volumes, then its segmentations are called, which may be a patient's name.
        patient: A hash of the patient that the subject hierarchy names; empty where it names none.
        problem: Why it cannot be used; empty when it can.
    """

    volumes: tuple[str, ...]
    segmentations: tuple[str, ...] = ()
    segments: tuple[tuple[FoundSegment, ...], ...] = ()
    names: tuple[str, ...] = ()
    patient: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Pairing:
    """A row of a pairing table: whose volumes a segmentation belongs to, all by their names in the scene.

    Attributes:
        scene: Name of the scene's file without its suffix; empty for any.
        segmentation: The segmentation; empty for volumes without one.
        volumes: One for each channel.
    """

    scene: str
    segmentation: str
    volumes: tuple[str, ...]


def read_pairings(path: Any) -> tuple[Pairing, ...]:
    """A pairing table: a CSV file with the columns ``scene``, ``segmentation``, ``volume`` and, for further channels,
    more columns after these.

    Raises:
        DatasetError: It has other columns.
        InputError: It cannot be read.
    """
    rows = read_rows(path)
    if not rows or tuple(cell.lower() for cell in rows[0][:3]) != PAIRING_COLUMNS:
        raise DatasetError(
            f"{path} is not a pairing table. Its first row must be {','.join(PAIRING_COLUMNS)}, with more columns for "
            "further channels."
        )
    return tuple(Pairing(row[0], row[1], tuple(cell for cell in row[2:] if cell)) for row in rows[1:])


def find_scene_cases(
    scene: Any, channels: Sequence[str] = (), pairings: Sequence[Pairing] = ()
) -> tuple[SceneCase, ...]:
    """The cases of a scene.

    A segmentation belongs to the volume that a pairing table names, else to its reference image, else to the volume in
    its study (or folder) of the subject hierarchy, else to the scene's only volume. With several channels the other
    volumes of the case are those of the same study whose name or modality tells the channel. Segmentations of the same
    volumes are one case, except those that the table names. Volumes in a study without any segmentation are cases that
    nobody annotated.

    Args:
        scene: A ``vtkMRMLScene``.
        channels: Names or modalities of the channels, where there are several.
        pairings: What a pairing table says of this scene.
    """
    found = _Scene(scene)
    together: dict[tuple[str, ...], SceneCase] = {}
    for node in found.segmentations:
        rows = [row for row in pairings if row.segmentation == node.GetName()]
        case = found.annotated_case(node, channels, rows)
        key = case.segmentations if rows or case.problem else case.volumes
        together[key] = _merged(together[key], case) if key in together else case
    cases = list(together.values())
    used = {volume for case in cases for volume in case.volumes}
    cases += [_table_case(found, row) for row in pairings if not row.segmentation]
    annotated = {found.group(node) for node in found.segmentations} | {
        found.group(volume) for volume in found.volumes if volume.GetID() in used
    }
    free = [volume for volume in found.volumes if found.group(volume) not in annotated]
    if not pairings:
        cases += found.unlabelled(free, channels)
    return tuple(cases)


def _merged(case: SceneCase, other: SceneCase) -> SceneCase:
    """Two cases of the same volumes."""
    return replace(
        case,
        segmentations=(*case.segmentations, *other.segmentations),
        segments=(*case.segments, *other.segments),
        names=(*case.names, *other.names[len(case.volumes) :]),
        patient=case.patient or other.patient,
    )


def _table_case(found: _Scene, row: Pairing) -> SceneCase:
    try:
        volumes = [found.volume_named(name) for name in row.volumes]
    except DatasetError as error:
        return SceneCase((), names=row.volumes, problem=str(error))
    return found.case_of(volumes)


def segments_of(segmentation_node: Any) -> tuple[FoundSegment, ...]:
    """The segments of a segmentation node, in their order."""
    import vtk

    slicer = ensure_slicer()
    segmentation = segmentation_node.GetSegmentation()
    tag = slicer.vtkSegment.GetTerminologyEntryTagName()
    result = []
    for index in range(segmentation.GetNumberOfSegments()):
        segment_id = segmentation.GetNthSegmentID(index)
        segment = segmentation.GetSegment(segment_id)
        entry = vtk.reference("")
        segment.GetTag(tag, entry)
        red, green, blue = segment.GetColor()
        result.append(FoundSegment(segment_id, segment.GetName() or segment_id, str(entry), (red, green, blue)))
    return tuple(result)


def case_volume(scene: Any, case: SceneCase) -> Volume:
    """All channels of a case, with all parent transforms applied.

    Raises:
        InputError: A volume is empty, of a wrong kind or under a warp, or their grids differ.
    """
    return volume_from_nodes([scene.GetNodeByID(node_id) for node_id in case.volumes])


def case_annotation(
    scene: Any, case: SceneCase, values: Sequence[Sequence[tuple[str, int]]], volume: Volume
) -> Annotation:
    """What was annotated in a case, on the grid of ``volume``; see :func:`.annotations.read_annotation`.

    Args:
        scene: A ``vtkMRMLScene``.
        case: Of the scene.
        values: For each segmentation, ids of segments with their values.
        volume: The case's.

    Raises:
        InputError: A segmentation is not there, or under a warp.
    """
    return read_annotation(list(zip(case_segmentations(scene, case), values, strict=True)), volume)


def case_segmentations(scene: Any, case: SceneCase) -> list[Any]:
    """The segmentation nodes of a case.

    Raises:
        InputError: One is not there.
    """
    nodes = [scene.GetNodeByID(node_id) for node_id in case.segmentations]
    if None in nodes:
        raise InputError("A segmentation is not in the scene any more. Open the scene in Slicer and save it again.")
    return nodes


class _Scene:
    """A scene's nodes and their places in its subject hierarchy."""

    def __init__(self, scene: Any) -> None:
        slicer = ensure_slicer()
        self.volumes = [
            node
            for node in _nodes(scene, "vtkMRMLScalarVolumeNode")
            if node.GetClassName() == "vtkMRMLScalarVolumeNode"  # no label maps, vectors, colours
        ]
        self.segmentations = [
            node
            for node in _nodes(scene, "vtkMRMLSegmentationNode")
            if node.GetSegmentation().GetNumberOfSegments() > 0 and not node.GetHideFromEditors()  # no previews
        ]
        hierarchies = _nodes(scene, "vtkMRMLSubjectHierarchyNode")
        self.hierarchy = hierarchies[0] if hierarchies else None
        self.constants = slicer.vtkMRMLSubjectHierarchyConstants

    def group(self, node: Any) -> int:
        """The item in the subject hierarchy, a study or folder, that a node stands in; the same for all of it."""
        if self.hierarchy is None:
            return 0
        item = self.hierarchy.GetItemByDataNode(node)
        return int(self.hierarchy.GetItemParent(item)) if item else int(self.hierarchy.GetSceneItemID())

    def is_study(self, node: Any) -> bool:
        """Whether a node stands in a study or folder, and not in the scene itself."""
        return self.hierarchy is not None and self.group(node) != int(self.hierarchy.GetSceneItemID())

    def volume_named(self, name: str) -> Any:
        found = [node for node in self.volumes if node.GetName() == name]
        if len(found) != 1:
            raise DatasetError(
                f"The pairing table names the volume {name!r}, of which the scene has {len(found)}. Correct the table."
            )
        return found[0]

    def annotated_case(self, segmentation: Any, channels: Sequence[str], rows: Sequence[Pairing]) -> SceneCase:
        """A segmentation with its volumes: those of the first row that names it, if one does."""
        segments, name = segments_of(segmentation), segmentation.GetName() or ""
        try:
            if rows:
                volumes = [self.volume_named(volume) for volume in rows[0].volumes]
            else:
                volumes = self.channels(segmentation, channels)
        except DatasetError as error:
            names = (*(rows[0].volumes if rows else ()), name)
            patient = self.patient(segmentation)
            return SceneCase((), (segmentation.GetID(),), (segments,), names, patient, str(error))
        ids = tuple(volume.GetID() for volume in volumes)
        patient = self.patient(segmentation, *volumes)
        return SceneCase(ids, (segmentation.GetID(),), (segments,), (*_names(volumes), name), patient)

    def reference_of(self, segmentation: Any) -> Any:
        """The volume that a segmentation was made on, or None."""
        reference = segmentation.GetNodeReference(segmentation.GetReferenceImageGeometryReferenceRole())
        return reference if reference is not None and reference in self.volumes else None

    def volume_of(self, segmentation: Any) -> Any:
        reference = self.reference_of(segmentation)
        if reference is not None:
            return reference
        if self.is_study(segmentation):
            beside = [volume for volume in self.volumes if self.group(volume) == self.group(segmentation)]
            if beside:
                return beside[0] if len(beside) == 1 else self._refuse(segmentation, len(beside), "its study")
        if len(self.volumes) == 1:
            return self.volumes[0]
        return self._refuse(segmentation, len(self.volumes), "the scene")

    @staticmethod
    def _refuse(segmentation: Any, count: int, where: str) -> Any:
        raise DatasetError(
            f"The segmentation {segmentation.GetName()!r} has no reference image, and {where} has {count} volumes. "
            "Choose its source volume in the Segment Editor and save the scene, or name it in a pairing table "
            "(--pairing)."
        )

    def channels(self, segmentation: Any, names: Sequence[str]) -> list[Any]:
        """The volumes of a segmentation's case by channel."""
        if len(names) < 2:
            return [self.volume_of(segmentation)]
        reference = self.reference_of(segmentation)
        group = self.group(segmentation if reference is None else reference)
        candidates = [v for v in self.volumes if self.group(v) == group]
        return [self._channel(name, candidates) for name in names]

    def _channel(self, name: str, candidates: Sequence[Any]) -> Any:
        found = [volume for volume in candidates if _tells(volume.GetName() or "", name)]
        if not found:
            found = [volume for volume in candidates if self._modality(volume) == name.upper()]
        if len(found) != 1:
            raise DatasetError(
                f"{len(found)} of the {len(candidates)} volumes of the case are the channel {name!r} by their name or "
                "modality. Name them so in the scene, or in a pairing table (--pairing)."
            )
        return found[0]

    def _modality(self, node: Any) -> str:
        if self.hierarchy is None:
            return ""
        item = self.hierarchy.GetItemByDataNode(node)
        name = self.constants.GetDICOMSeriesModalityAttributeName()
        return str(self.hierarchy.GetItemAttribute(item, name) or "").upper() if item else ""

    def unlabelled(self, volumes: Sequence[Any], names: Sequence[str]) -> list[SceneCase]:
        if len(names) < 2:
            return [self.case_of([volume]) for volume in volumes]
        cases = []
        for group in dict.fromkeys(self.group(volume) for volume in volumes):
            members = [volume for volume in volumes if self.group(volume) == group]
            try:
                chosen = [self._channel(name, members) for name in names]
            except DatasetError as error:
                cases.append(SceneCase((), names=_names(members), problem=str(error)))
                continue
            cases.append(self.case_of(chosen))
        return cases

    def case_of(self, volumes: Sequence[Any]) -> SceneCase:
        """One that nobody annotated."""
        ids = tuple(volume.GetID() for volume in volumes)
        return SceneCase(ids, names=_names(volumes), patient=self.patient(*volumes))

    def patient(self, *nodes: Any) -> str:
        """A hash of the id of the patient above the nodes, as DICOM gave it; of the first that has one."""
        if self.hierarchy is None:
            return ""
        patient_level = self.constants.GetDICOMLevelPatient()
        for node in nodes:
            item = self.hierarchy.GetItemByDataNode(node)
            while item and item != self.hierarchy.GetSceneItemID():
                if self.hierarchy.GetItemLevel(item) == patient_level:
                    known = self.hierarchy.GetItemAttribute(item, self.constants.GetDICOMPatientIDAttributeName())
                    known = known or self.hierarchy.GetItemUID(item, self.constants.GetDICOMUIDName())
                    known = known or self.hierarchy.GetItemName(item)
                    return patient_hash(known) if known else ""
                item = self.hierarchy.GetItemParent(item)
        return ""


def patient_hash(patient_id: str) -> str:
    """What stands for a patient, or a name that may be one, in tables and files: the same for the same id, and no way
    back to it by reading."""
    return hashlib.sha256(f"recokd {patient_id.strip()}".encode()).hexdigest()[:12]


def _tells(text: str, name: str) -> bool:
    """Whether a name has another one as a word of its own: "case 3 T1" has "T1", "T10" has not."""
    return re.search(rf"(?<![a-z0-9]){re.escape(name.casefold())}(?![a-z0-9])", text.casefold()) is not None


def _names(nodes: Sequence[Any]) -> tuple[str, ...]:
    return tuple(node.GetName() or "" for node in nodes)


def _nodes(scene: Any, kind: str) -> list[Any]:
    return [scene.GetNthNodeByClass(index, kind) for index in range(scene.GetNumberOfNodesByClass(kind))]
