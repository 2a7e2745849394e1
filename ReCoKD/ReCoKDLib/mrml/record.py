"""What a segmentation node tells about its making: student, volumes, values of its segments, clicks carried out.

It is kept as attributes and references of the node, so that it is saved with the scene and survives the renaming of
segments: all that refers to a segment does so by its id.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..labels import LabelSet, Segment
from ..part import Slices
from ..volume import Volume
from .clicks import VOLUME_ROLE, Mark
from .host import ensure_slicer

STUDENT = "ReCoKD.student"
RECORD = "ReCoKD.record"
FIRST_ROLE = "ReCoKD.before"

Point = tuple[float, float, float]


@dataclass(frozen=True)
class Known:
    """One segment.

    Attributes:
        id: Its id in the segmentation.
        name: Its name when the record was made; a student's segments are found in its output by it.
        value: Its value in label maps made of the segmentation.
        region: The values that belong to it.
    """

    id: str
    name: str
    value: int
    region: tuple[int, ...]


@dataclass(frozen=True)
class Done:
    """A click or stroke that was carried out; places are in the volume's own coordinates, without its transforms.

    Attributes:
        number: As of :class:`.clicks.Mark`.
        segment_id: Id of its segment.
        inside: Whether the points belong to it.
        points: (n, 3) mm.
        radius_mm: Of a stroke.
        locked: Ids of the segments that were locked.
        box: The box that limited it, as (4, 4) matrix whose columns are its half axes and its centre.
        fixed: It cannot be taken back any more, because the segmentation was changed by other means afterwards.
    """

    number: int
    segment_id: str
    inside: bool
    points: tuple[Point, ...]
    radius_mm: float | None = None
    locked: tuple[str, ...] = ()
    box: tuple[tuple[float, ...], ...] | None = None
    fixed: bool = False

    def is_at(self, mark: Mark, points: npt.NDArray[np.float64], tolerance: float = 1e-4) -> bool:
        """Whether a mark in the scene is this one, unchanged; ``points`` are the mark's in the volume's coordinates."""
        same = (self.segment_id, self.inside, self.radius_mm) == (mark.segment_id, mark.inside, mark.radius_mm)
        mine = np.array(self.points)
        return same and mine.shape == points.shape and bool(np.abs(mine - points).max() <= tolerance)


@dataclass(frozen=True)
class Record:
    """All of it.

    Attributes:
        student: Name of the student; empty if none made the segmentation.
        checksum: Of the student's package.
        mirroring: Whether it averaged over flips.
        segments: The student's in its order first, then all others that ever had a value.
        from_student: How many of them are the student's.
        has_regions: Whether the student's segments overlap.
        part: Centres of the first and the last voxel of the part of the volume that the student saw, in the volume's
            own coordinates (not as indices: Slicer flips an axis when it reads a left-handed volume); None for all.
        done: Clicks in their order.
    """

    student: str = ""
    checksum: str = ""
    mirroring: bool = False
    segments: tuple[Known, ...] = ()
    from_student: int = 0
    has_regions: bool = False
    part: tuple[Point, Point] | None = None
    done: tuple[Done, ...] = field(default=())

    def value_of(self, segment_id: str) -> int:
        """A segment's value in label maps."""
        return next(known.value for known in self.segments if known.id == segment_id)

    def with_others(self, segmentation_node: Any) -> Record:
        """The record with a value for every segment of the node, those that are new to it last."""
        segmentation = segmentation_node.GetSegmentation()
        known = {segment.id for segment in self.segments}
        segments = list(self.segments)
        highest = max((max(s.value, *s.region) for s in segments), default=0)
        for index in range(segmentation.GetNumberOfSegments()):
            segment_id = segmentation.GetNthSegmentID(index)
            if segment_id not in known:
                highest += 1
                name = segmentation.GetSegment(segment_id).GetName() or segment_id
                segments.append(Known(segment_id, name, highest, (highest,)))
        return replace(self, segments=tuple(segments))

    def label_set(self, segmentation_node: Any) -> tuple[LabelSet, dict[str, str]]:
        """The segments for the numbers, and by id the name that they have there: today's, made unlike where needed."""
        segmentation = segmentation_node.GetSegmentation()
        names: dict[str, str] = {}
        taken = set[str]()
        segments = []
        for known in self.segments:
            segment = segmentation.GetSegment(known.id)
            name = (segment.GetName() if segment is not None else None) or known.name
            while name.casefold() in taken:
                name = f"{name} ({known.id})"
            taken.add(name.casefold())
            names[known.id] = name
            segments.append(Segment(name, known.value, known.region, (0.5, 0.5, 0.5)))
        return LabelSet(tuple(segments), self.has_regions), names


def read_record(segmentation_node: Any) -> Record:
    """The record of a segmentation node; an empty one where there is none, or none that can be read."""
    text = segmentation_node.GetAttribute(RECORD)
    try:
        raw = json.loads(text) if text else {}
        raw["segments"] = tuple(Known(**{**s, "region": tuple(s["region"])}) for s in raw.get("segments", ()))
        raw["done"] = tuple(_done(entry) for entry in raw.get("done", ()))
        if raw.get("part") is not None:
            raw["part"] = tuple(_point(point) for point in raw["part"])
        return Record(**raw)
    except (ValueError, TypeError, KeyError, AttributeError):
        # Of a later version, or written by somebody else: the segmentation itself is as good as ever.
        return Record()


def write_record(segmentation_node: Any, record: Record) -> None:
    """Keep a record in the node."""
    # As ``dataclasses.asdict`` would give it, which takes 0.05 s for a thousand clicks, at each of them.
    values = {**vars(record), "segments": [vars(s) for s in record.segments], "done": [vars(d) for d in record.done]}
    segmentation_node.SetAttribute(RECORD, json.dumps(values, ensure_ascii=True, separators=(",", ":")))
    segmentation_node.SetAttribute(STUDENT, record.student or None)


def volume_nodes(segmentation_node: Any) -> list[Any]:
    """The volumes that a segmentation was made from, a channel each: those recorded, else that of its geometry."""
    count = segmentation_node.GetNumberOfNodeReferences(VOLUME_ROLE)
    nodes = [segmentation_node.GetNthNodeReference(VOLUME_ROLE, index) for index in range(count)]
    found = [node for node in nodes if node is not None]
    if found and len(found) == count:
        return found
    reference = segmentation_node.GetNodeReference(segmentation_node.GetReferenceImageGeometryReferenceRole())
    return [reference] if reference is not None else []


def require_volumes(segmentation_node: Any) -> list[Any]:
    """As :func:`volume_nodes`, at least one.

    Raises:
        InputError: There is none any more.
    """
    nodes = volume_nodes(segmentation_node)
    if not nodes:
        raise InputError(
            f"No volume belongs to the segmentation {segmentation_node.GetName()!r} any more. Load the volume, and "
            "choose it as the segmentation's source geometry in Slicer's Segment Editor."
        )
    return nodes


def set_volume_nodes(segmentation_node: Any, nodes: Sequence[Any]) -> None:
    """Record the volumes, in the order of the channels."""
    segmentation_node.RemoveNodeReferenceIDs(VOLUME_ROLE)
    for node in nodes:
        segmentation_node.AddNodeReferenceID(VOLUME_ROLE, node.GetID())


def locked_ids(segmentation_node: Any, locked: Sequence[str] = ()) -> list[str]:
    """Ids of the locked segments: those given by name or id, and those that the user marked as completed.

    Slicer has no lock of its own for segments; "Completed" is the status, in the list of segments, of one that nobody
    works on any more.

    Raises:
        InputError: There is no such segment.
    """
    slicer = ensure_slicer()
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    segmentation = segmentation_node.GetSegmentation()
    wanted = [segment_id_of(segmentation_node, name) for name in locked]
    for index in range(segmentation.GetNumberOfSegments()):
        if logic.GetSegmentStatus(segmentation.GetNthSegment(index)) == logic.Completed:
            wanted.append(segmentation.GetNthSegmentID(index))
    return sorted(set(wanted))


def segment_id_of(segmentation_node: Any, name_or_id: str) -> str:
    """The id of a segment given by its name (upper and lower case count the same) or its id.

    Raises:
        InputError: There is none, or there are several; the message lists what there is.
    """
    segmentation = segmentation_node.GetSegmentation()
    ids = [segmentation.GetNthSegmentID(index) for index in range(segmentation.GetNumberOfSegments())]
    if name_or_id in ids:
        return str(name_or_id)
    names = [segmentation.GetSegment(i).GetName() or "" for i in ids]
    found = [i for i, name in zip(ids, names, strict=True) if name.casefold() == str(name_or_id).strip().casefold()]
    if len(found) == 1:
        return str(found[0])
    what = "Several segments are called" if found else "There is no segment called"
    raise InputError(
        f"{what} {name_or_id!r} in {segmentation_node.GetName()!r}. It has: {', '.join(names) or 'none'}. "
        "Give the name of one of these, or its id."
    )


def _done(raw: dict[str, Any]) -> Done:
    box = raw.get("box")
    return Done(
        **{
            **raw,
            "points": tuple(_point(point) for point in raw["points"]),
            "locked": tuple(raw.get("locked", ())),
            "box": None if box is None else tuple(tuple(float(value) for value in row) for row in box),
        }
    )


def part_from_slices(block: Slices, volume: Volume) -> tuple[Point, Point]:
    """A block of voxels (k, j, i) as ``Record.part``; ``volume`` is in its own coordinates."""
    ends = np.array([[part.start, part.stop - 1] for part in reversed(block)], dtype=np.float64)
    first, last = (volume.ijk_to_ras[:3, :3] @ ends + volume.ijk_to_ras[:3, 3:]).T.tolist()
    return _point(first), _point(last)


def slices_from_part(part: tuple[Point, Point], volume: Volume) -> Slices:
    """The way back of :func:`part_from_slices`, on the volume as it is now.

    Raises:
        InputError: The volume has no such voxels any more.
    """
    to_ijk = np.linalg.inv(volume.ijk_to_ras)
    corners = np.rint(np.array(part) @ to_ijk[:3, :3].T + to_ijk[:3, 3]).astype(int)[:, ::-1]
    low, high = corners.min(axis=0), corners.max(axis=0) + 1
    if (low < 0).any() or (high > volume.shape).any():
        raise InputError(f"The volume {volume.name!r} is not the one that was segmented. Segment it again.")
    k, j, i = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return k, j, i


def seen_part(record: Record, volume: Volume) -> Slices:
    """The block (k, j, i) that the student saw; all of ``volume``, in its own coordinates, where nothing limited it.

    Raises:
        InputError: The volume has no such voxels any more.
    """
    if record.part is not None:
        return slices_from_part(record.part, volume)
    k, j, i = (slice(0, n) for n in volume.shape)
    return k, j, i


def _point(values: Sequence[float]) -> Point:
    r, a, s = (float(value) for value in values)
    return r, a, s
