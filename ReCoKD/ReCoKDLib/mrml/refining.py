"""Correcting a segmentation node: the clicks in the scene are carried out, a step at a time, with undo and redo."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..interaction.corrections import continuous_kji
from ..interaction.session import RefineSession, State
from ..labels import LabelSet
from ..part import Slices
from ..volume import Volume
from . import clicks
from .asked_for import asked_for, correction_of
from .evidence import on_whole_grid, probabilities_again
from .first_result import forget_first, keep_first, read_first
from .host import ensure_slicer
from .label_changes import label_changes
from .placed_volume import PlacedVolume
from .record import (
    Done,
    Record,
    locked_ids,
    read_record,
    require_volumes,
    seen_part,
    volume_nodes,
    write_record,
)
from .stamps import present_ids, segments_stamp, volume_stamp
from .steps import Steps
from .volumes import ijk_to_node, volume_from_nodes
from .voxels import change_segments, on_grid, read_labels

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
        self._steps = Steps(())
        self._open()

    @property
    def labels(self) -> Volume:
        """The segmentation as it is now, on the volume's grid in the world; not to be changed."""
        self._bring_up_to_date()
        return self._placed.in_world.with_array(self._session.labels.array)

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
        return seen_part(self._record, self._placed.local)

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
        return self._placed.to_world(done.points)

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
        return bool(volume_stamp(volume_nodes(self.node)) == self._volume_stamp)

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
        marks = clicks.read_marks(self.node)
        asked = asked_for(
            self.node,
            self._record,
            marks,
            self.next_number(marks),
            locked=locked_ids(self.node, locked),
            present=present_ids(self.node, self._record),
            to_volume=self._placed.from_world,
        )
        wanted, warnings = asked.done, list(asked.warnings)
        corrections = [correction_of(done, self._names) for done in wanted if not done.fixed]
        known = set(self._record.done)
        new = [done for done in wanted if done not in known]
        for done in new:
            continuous_kji(self._placed.to_world(done.points), self._placed.in_world)
        changed = None
        if corrections != list(self._session.state.corrections):
            active = [done for done in wanted if not done.fixed]
            changed = self._session.change(corrections, active.index(new[0]) if len(new) == 1 else None)
            keep_first(self.node, self._placed.node, self._placed.local, self._first)
            self._steps.add(wanted)
            refused = self._session.refused
            warnings += [refused[active.index(done)] for done in new if active.index(done) in refused]
        for mark, done in asked.marks:
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
        return self._show(changed, self._steps.go(-1))

    def redo(self) -> Refined:
        """Make the step again that was taken back last.

        Raises:
            InputError: There is none.
        """
        self._bring_up_to_date()
        changed = self._session.redo()
        return self._show(changed, self._steps.go(1))

    def put_back(self) -> None:
        """Make the clicks in the scene those that were carried out: new ones go, moved ones go back."""
        self._bring_up_to_date()
        for mark in reversed(clicks.read_marks(self.node)):
            if not mark.number:
                clicks.remove_mark(mark)
        self._show_clicks(self._record.done)

    def _show_clicks(self, state: Sequence[Done]) -> None:
        marks = [
            clicks.Mark(done.number, done.segment_id, done.inside, self._placed.to_world(done.points), done.radius_mm)
            for done in state
        ]
        clicks.write_marks(self.node, self._placed.node, marks)

    def _show(self, changed: Any, state: tuple[Done, ...]) -> Refined:
        self._show_clicks(state)
        return Refined(self._write(changed, state))

    # Reading

    def _open(self, edited: bool = False) -> None:
        """Read volume, segmentation and what was done before."""
        nodes = require_volumes(self.node)
        world = volume_from_nodes(nodes)
        if self._volume_stamp not in (None, volume_stamp(nodes)):
            self._probabilities = None  # of other voxels
        self._placed = PlacedVolume(self.node, replace(world, ijk_to_ras=ijk_to_node(nodes[0])))
        self.node.SetSourceRepresentationToBinaryLabelmap()
        self._record = read_record(self.node).with_others(self.node)
        self._label_set, self._names = self._record.label_set(self.node)
        present = present_ids(self.node, self._record)
        current = read_labels(self.node, [(i, self._record.value_of(i)) for i in present], world)
        first = read_first(self.node, self._record, self._placed.local, current, present)
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
        self._steps = Steps(self._record.done, self._steps.highest)
        self._remember()

    def _begin(self, first: Labels, *, fixed: bool) -> None:
        """Start from a label map; clicks that were carried out before are part of it, or follow."""
        if fixed:
            self._record = replace(self._record, done=tuple(replace(d, fixed=True) for d in self._record.done))
            forget_first(self.node)
        if self._probabilities is None:
            self._probabilities = probabilities_again(self._record, lambda: (self._placed.in_world, self.part))
        whole = on_whole_grid(self._probabilities, self.part, self._placed.local, self._label_set, self._record, first)
        there = set(present_ids(self.node, self._record))
        done = [d for d in self._record.done if not d.fixed and d.segment_id in there]
        self._record = replace(self._record, done=tuple(d for d in self._record.done if d.fixed or d in done))
        self._first = first
        self._session = RefineSession(
            self._placed.local,
            self._placed.local.with_array(first[None]),
            self._label_set,
            probabilities=whole,
            state=State(tuple(correction_of(d, self._names) for d in done)),
        )

    def _bring_up_to_date(self) -> None:
        slicer = ensure_slicer()
        if self.node.GetScene() is not slicer.mrmlScene:
            raise InputError("The segmentation was removed, so it cannot be corrected. Segment the volume again.")
        segments = segments_stamp(self.node, self._record)
        if not volume_nodes(self.node) or not self.is_current:
            self._open()
        elif segments != self._segments_stamp:
            # Whether somebody drew is seen by comparing, unless the grids differ.
            same_ids = [i for i, _ in segments] == [i for i, _ in self._segments_stamp]
            self._open(edited=same_ids and not self._aligned)
        clicks.refresh_looks(self.node, self._placed.node)

    def _remember(self) -> None:
        self._volume_stamp = volume_stamp(volume_nodes(self.node))
        self._segments_stamp = segments_stamp(self.node, self._record)

    def next_number(self, marks: Sequence[clicks.Mark]) -> int:
        """The place in time of a click that is made now, after all of these marks and all that ever were."""
        return 1 + max([self._steps.highest, *(mark.number for mark in marks)])

    def _write(self, block: Any, done: Sequence[Done]) -> int:
        """Bring what changed into the segmentation; returns the number of voxels."""
        voxels = 0
        if block is not None:
            before, after = self._written[block], self._session.labels.array[0][block]
            voxels = int((before != after).sum())
            change_segments(
                self.node,
                label_changes(before, after, self._label_set, self._record, present_ids(self.node, self._record)),
                self._placed.grid,
                (block[0].start, block[1].start, block[2].start),
            )
            before[...] = after
        if tuple(done) != self._record.done or voxels:
            self._record = replace(self._record, done=tuple(done))
            write_record(self.node, self._record)
        self._remember()
        return voxels
