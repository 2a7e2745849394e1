"""Correcting a segmentation node: the clicks in the scene are carried out, a step at a time, with undo and redo."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..image_io import label_array
from ..interaction.corrections import Click, Correction, Stroke, continuous_kji
from ..interaction.refine import bounds
from ..interaction.session import RefineSession, State
from ..labels import LabelSet
from ..table import segment_mask
from ..volume import Volume
from . import clicks
from .evidence import on_whole_grid, probabilities_again
from .host import ensure_slicer
from .record import (
    FIRST_ROLE,
    Done,
    Record,
    Slices,
    locked_ids,
    read_record,
    require_volumes,
    seen_part,
    volume_nodes,
    write_record,
)
from .roi import box_from_matrix, box_from_node, box_matrix
from .volumes import Matrix, ijk_to_node, volume_from_node, volume_from_nodes, volume_to_node, world_from_node
from .voxels import Change, change_segments, labelmap_of, on_grid, read_labels

Labels = npt.NDArray[Any]


@dataclass(frozen=True)
class Refined:
    """What a step did.

    Attributes:
        voxels: How many voxels of the volume's grid it changed.
        warnings: Clicks without effect and the like, in plain words.
    """

    voxels: int
    warnings: tuple[str, ...] = ()


class Refining:
    """One segmentation under correction.

    The first step reads everything, which takes seconds in a large volume; those that follow take the time that their
    neighbourhood takes. When the segmentation was changed by other means (painted on, a segment removed) or the volume
    has other voxels, all is read again: what was drawn by hand stays, and clicks made before it stay as they were
    carried out.

    Args:
        node: ``vtkMRMLSegmentationNode``.
        probabilities: The student's of its last run, if they are at hand.

    Raises:
        InputError: No volume belongs to it, or a transform is not linear.
    """

    def __init__(self, node: Any, probabilities: Volume | None = None) -> None:
        self.node = node
        self._probabilities = probabilities
        self._volume_stamp: Any = None
        self._segments_stamp: Any = None
        self._aligned = True
        self._open()

    @property
    def labels(self) -> Volume:
        """The segmentation as it is now, on the volume's grid in the world; not to be changed."""
        self._bring_up_to_date()
        return self._in_world().with_array(self._session.labels.array)

    @property
    def probabilities(self) -> tuple[Volume, LabelSet] | None:
        """The student's, on the grid of what it saw, and what they are of; None if there are none."""
        if self._probabilities is None:
            return None
        segments = self._label_set.segments[: self._record.from_student]
        return self._probabilities, replace(self._label_set, segments=segments)

    @property
    def part(self) -> Slices:
        """The block of the volume that the student saw, all of it where no region of interest limited it."""
        return seen_part(self._record, self._local)

    @property
    def label_set(self) -> LabelSet:
        """All segments with their names and values in ``labels``."""
        return self._label_set

    @property
    def record(self) -> Record:
        """Who made it and which clicks were carried out."""
        return self._record

    def places_of(self, done: Done) -> npt.NDArray[np.float64]:
        """Where the points of a click that was carried out lie now: (n, 3) RAS of the world."""
        return self._to_world(done.points)

    @property
    def can_undo(self) -> bool:
        """Whether there is a step to take back."""
        return self._session.can_undo

    @property
    def can_redo(self) -> bool:
        """Whether a step was taken back."""
        return self._session.can_redo

    @property
    def is_current(self) -> bool:
        """Whether the volumes are those that were read; other voxels, or another place, make all that is known old."""
        return bool(_volume_stamp(volume_nodes(self.node)) == self._volume_stamp)

    # Steps

    def refine(self, locked: Sequence[str] = ()) -> Refined:
        """Carry out what the clicks in the scene say, as one step.

        Args:
            locked: Names or ids of segments that new clicks leave alone, besides those that are marked as completed.

        Raises:
            OutsideVolumeError: A point lies outside the volume.
            LockedError: The only new or moved click can do nothing for a lock or the box.
            InputError: The volume is gone, or a segment is unknown.
        """
        self._bring_up_to_date()
        wanted, marks, warnings = self._wanted(locked_ids(self.node, locked))
        corrections = [self._correction(done) for done in wanted if not done.fixed]
        known = set(self._record.done)
        new = [done for done in wanted if done not in known]
        for done in new:
            continuous_kji(self._to_world(done.points), self._in_world())
        changed = None
        if corrections != list(self._session.state.corrections):
            active = [done for done in wanted if not done.fixed]
            changed = self._session.change(corrections, active.index(new[0]) if len(new) == 1 else None)
            self._keep_first()
            del self._history[self._now + 1 :]
            self._history.append(tuple(wanted))
            self._now += 1
            refused = self._session.refused
            warnings += [refused[active.index(done)] for done in new if active.index(done) in refused]
        for mark, done in marks:
            if mark.number != done.number:
                clicks.set_number(mark, done.number)
        return Refined(self._write(changed, wanted), tuple(warnings))

    def undo(self) -> Refined:
        """Take the last step back, in the segmentation and among the clicks.

        Raises:
            InputError: There is none.
        """
        self._bring_up_to_date()
        changed = self._session.undo()
        self._now -= 1
        return self._show(changed)

    def redo(self) -> Refined:
        """Make the step again that was taken back last.

        Raises:
            InputError: There is none.
        """
        self._bring_up_to_date()
        changed = self._session.redo()
        self._now += 1
        return self._show(changed)

    def put_back(self) -> None:
        """Make the clicks in the scene those that were carried out: new ones go, moved ones go back."""
        self._bring_up_to_date()
        for mark in reversed(clicks.read_marks(self.node)):
            if not mark.number:
                clicks.remove_mark(mark)
        self._show_clicks(self._record.done)

    def _show_clicks(self, state: Sequence[Done]) -> None:
        marks = [
            clicks.Mark(done.number, done.segment_id, done.inside, self._to_world(done.points), done.radius_mm)
            for done in state
        ]
        clicks.write_marks(self.node, self._volume_node(), marks)

    def _show(self, changed: Any) -> Refined:
        state = self._history[self._now]
        self._show_clicks(state)
        return Refined(self._write(changed, state))

    # Reading

    def _open(self, edited: bool = False) -> None:
        """Read volume, segmentation and what was done before."""
        nodes = require_volumes(self.node)
        world = volume_from_nodes(nodes)
        if self._volume_stamp not in (None, _volume_stamp(nodes)):
            self._probabilities = None  # of other voxels
        self._local = replace(world, ijk_to_ras=ijk_to_node(nodes[0]))
        self.node.SetSourceRepresentationToBinaryLabelmap()
        self._record = read_record(self.node).with_others(self.node)
        self._label_set, self._names = self._record.label_set(self.node)
        present = self._present()
        current = read_labels(self.node, [(i, self._record.value_of(i)) for i in present], world)
        first = self._read_first(current, present)
        if first is None or edited:
            self._begin(current, fixed=True)
        else:
            self._begin(first, fixed=False)
            self._aligned = on_grid(self.node, world)
            # On another grid a segmentation cannot tell all that was written.
            if self._aligned and not np.array_equal(self._session.labels.array[0], current):
                logging.info("ReCoKD: the segmentation was changed by other means; what was drawn stays.")
                self._begin(current, fixed=True)
        self._aligned = on_grid(self.node, world)
        self._written = self._session.labels.array[0].copy()
        self._history: list[tuple[Done, ...]] = [self._record.done]
        self._now = 0
        self._remember()

    def _begin(self, first: Labels, *, fixed: bool) -> None:
        """Start from a label map; clicks that were carried out before are part of it, or follow."""
        if fixed:
            self._record = replace(self._record, done=tuple(replace(d, fixed=True) for d in self._record.done))
            forget_first(self.node)
        if self._probabilities is None:
            self._probabilities = probabilities_again(self._record, lambda: self._in_world().cropped(self.part))
        whole = on_whole_grid(self._probabilities, self.part, self._local, self._label_set, self._record, first)
        there = set(self._present())
        done = [d for d in self._record.done if not d.fixed and d.segment_id in there]
        self._record = replace(self._record, done=tuple(d for d in self._record.done if d.fixed or d in done))
        self._first = first
        self._session = RefineSession(
            self._local,
            self._local.with_array(first[None]),
            self._label_set,
            probabilities=whole,
            state=State(tuple(self._correction(d) for d in done)),
        )

    def _bring_up_to_date(self) -> None:
        slicer = ensure_slicer()
        if self.node.GetScene() is not slicer.mrmlScene:
            raise InputError("The segmentation was removed, so it cannot be corrected. Segment the volume again.")
        segments = self._segments_now()
        if not volume_nodes(self.node) or not self.is_current:
            self._open()
        elif segments != self._segments_stamp:
            # Whether somebody drew is seen by comparing, unless the grids differ.
            same_ids = [i for i, _ in segments] == [i for i, _ in self._segments_stamp]
            self._open(edited=same_ids and not self._aligned)
        clicks.refresh_looks(self.node, self._volume_node())

    def _remember(self) -> None:
        self._volume_stamp = _volume_stamp(volume_nodes(self.node))
        self._segments_stamp = self._segments_now()

    def _segments_now(self) -> list[tuple[str, int]]:
        segmentation = self.node.GetSegmentation()
        images = [(i, labelmap_of(segmentation, i)) for i in self._present()]
        return [(i, 0 if image is None else image.GetMTime()) for i, image in images]

    def _present(self) -> list[str]:
        """Ids of the segments that are there, in the order of their values."""
        segmentation = self.node.GetSegmentation()
        there = {segmentation.GetNthSegmentID(index) for index in range(segmentation.GetNumberOfSegments())}
        known = [segment.id for segment in self._record.segments if segment.id in there]
        return known + sorted(there - set(known))

    # The first result, before any click

    def _read_first(self, current: Labels, present: Sequence[str]) -> Labels | None:
        """As it was kept in the scene; None where it was not, or does not fit."""
        node = self.node.GetNodeReference(FIRST_ROLE)
        if node is None:
            # Nothing was done yet, or all that was done can be taken back to nowhere.
            return None if self._record.done else current
        kept = volume_from_node(node)
        local = replace(kept, ijk_to_ras=ijk_to_node(node))
        start = np.linalg.inv(self._local.ijk_to_ras) @ local.ijk_to_ras
        offset = np.rint(start[:3, 3]).astype(int)[::-1]
        end = offset + local.shape
        if not np.allclose(start[:3, :3], np.eye(3), atol=1e-4) or (offset < 0).any() or (end > current.shape).any():
            return None
        first = np.zeros_like(current)
        first[tuple(slice(int(a), int(b)) for a, b in zip(offset, end, strict=True))] = local.array[0]
        gone = [s.value for s in self._record.segments if s.id not in set(present)]
        first[np.isin(first, gone)] = 0
        return first

    def _keep_first(self) -> None:
        if self.node.GetNodeReference(FIRST_ROLE) is not None:
            return
        # A voxel of margin: an image of one slice would not be read as a volume.
        found = bounds(self._first > 0) or (slice(0, 1), slice(0, 1), slice(0, 1))
        ends = zip(found, self._first.shape, strict=True)
        k, j, i = (slice(max(0, part.start - 1), min(n, part.stop + 1)) for part, n in ends)
        volume = self._local.with_array(label_array(self._first)[None]).cropped((k, j, i))
        node = volume_to_node(volume, name=f"{self.node.GetName()} before clicks", label_map=True)
        node.SetHideFromEditors(True)
        node.GetDisplayNode().SetVisibility(False)
        node.SetAndObserveTransformNodeID(self._volume_node().GetTransformNodeID())
        self.node.SetNodeReferenceID(FIRST_ROLE, node.GetID())

    # Between scene and numbers

    def _wanted(self, locked: list[str]) -> tuple[list[Done], list[tuple[clicks.Mark, Done]], list[str]]:
        """What the scene asks for, in its order; which mark asks for what; and what is passed over."""
        known = {done.number: done for done in self._record.done}
        marks = clicks.read_marks(self.node)
        following = self.next_number(marks)
        there = set(self._present())
        limit = self._limit()
        to_volume = self._from_world()
        wanted: list[Done] = []
        pairs: list[tuple[clicks.Mark, Done]] = []
        orphans = set[str]()
        for mark in marks:
            if mark.segment_id not in there:
                orphans.add(mark.node.GetName())
                continue
            points = _moved(mark.points, to_volume)
            old = known.get(mark.number)
            if old is None or not old.is_at(mark, points):
                fresh = old is None or old.fixed
                number = mark.number
                if not number or (old is not None and old.fixed):
                    number, following = following, following + 1
                places = tuple((float(r), float(a), float(s)) for r, a, s in points)
                old = Done(
                    number,
                    mark.segment_id,
                    mark.inside,
                    places,
                    mark.radius_mm,
                    tuple(locked) if fresh or old is None else old.locked,
                    limit if fresh or old is None else old.box,
                )
            wanted.append(old)
            pairs.append((mark, old))
        wanted.sort(key=lambda done: done.number)
        warnings = [f"The clicks {name!r} are passed over: their segment was removed." for name in sorted(orphans)]
        return wanted, pairs, warnings

    def next_number(self, marks: Sequence[clicks.Mark]) -> int:
        """The place in time of a click that is made now, after all of these marks and all that ever were."""
        used = [done.number for state in (self._record.done, *self._history) for done in state]
        return 1 + max([0, *used, *(mark.number for mark in marks)])

    def _limit(self) -> Any:
        """The box that limits new clicks, in the volume's coordinates."""
        roi = self.node.GetNodeReference(clicks.LIMIT_ROLE)
        if roi is None:
            return None
        local = self._from_world() @ box_matrix(box_from_node(roi))
        return tuple(tuple(row) for row in local.tolist())

    def _correction(self, done: Done) -> Correction:
        locked = frozenset(self._names[i] for i in done.locked if i in self._names)
        box = None if done.box is None else box_from_matrix(np.array(done.box))
        name = self._names[done.segment_id]
        if done.radius_mm is None:
            return Click(done.points[0], name, done.inside, locked, box)
        return Stroke(done.points, done.radius_mm, name, done.inside, locked, box)

    def _volume_node(self) -> Any:
        return require_volumes(self.node)[0]

    def _grid(self) -> Matrix:
        grid: Matrix = world_from_node(self._volume_node()) @ self._local.ijk_to_ras
        return grid

    def _from_world(self) -> Any:
        return np.linalg.inv(world_from_node(self._volume_node()))

    def _in_world(self) -> Volume:
        return replace(self._local, ijk_to_ras=self._grid())

    def _to_world(self, points: Any) -> npt.NDArray[np.float64]:
        return _moved(np.array(points), world_from_node(self._volume_node()))

    # Writing

    def _write(self, block: Any, done: Sequence[Done]) -> int:
        """Bring what changed into the segmentation; returns the number of voxels."""
        voxels = 0
        if block is not None:
            before, after = self._written[block], self._session.labels.array[0][block]
            voxels = int((before != after).sum())
            change_segments(
                self.node,
                _changes(before, after, self._label_set, self._record, self._present()),
                self._grid(),
                (block[0].start, block[1].start, block[2].start),
            )
            before[...] = after
        if tuple(done) != self._record.done or voxels:
            self._record = replace(self._record, done=tuple(done))
            write_record(self.node, self._record)
        self._remember()
        return voxels


def forget_first(segmentation_node: Any) -> None:
    """Remove the kept label map of a segmentation, from which its clicks began."""
    slicer = ensure_slicer()
    node = segmentation_node.GetNodeReference(FIRST_ROLE)
    segmentation_node.SetNodeReferenceID(FIRST_ROLE, None)
    if node is not None:
        slicer.mrmlScene.RemoveNode(node)


def _changes(
    before: Labels, after: Labels, label_set: LabelSet, record: Record, present: Sequence[str]
) -> dict[str, Change]:
    there = set(present)
    differs = before != after
    values = set(np.unique(np.concatenate((before[differs], after[differs]))).tolist())
    changes = {}
    for known, segment in zip(record.segments, label_set.segments, strict=True):
        if known.id in there and values & {segment.value, *segment.region}:
            was, now = segment_mask(before, segment), segment_mask(after, segment)
            changes[known.id] = Change(now & ~was, was & ~now)
    return changes


def _volume_stamp(nodes: Sequence[Any]) -> Any:
    """Changes when a volume has other voxels or another place, its transforms aside."""
    return [
        (node.GetID(), node.GetImageData() and node.GetImageData().GetMTime(), ijk_to_node(node).tolist())
        for node in nodes
    ]


def _moved(points: npt.NDArray[np.float64], matrix: Matrix) -> npt.NDArray[np.float64]:
    moved: npt.NDArray[np.float64] = points @ matrix[:3, :3].T + matrix[:3, 3]
    return moved
