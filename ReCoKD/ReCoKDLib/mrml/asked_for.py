"""What the clicks in the scene ask for, in the terms of the record and of the numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..interaction.corrections import Click, Correction, Stroke
from . import clicks
from .record import Done, Record
from .roi import box_from_matrix, box_from_node, box_matrix
from .volumes import Matrix, moved


@dataclass(frozen=True)
class AskedFor:
    """It all.

    Attributes:
        done: What the scene asks for, in its order.
        marks: Which mark asks for what.
        warnings: What is passed over, in plain words.
    """

    done: tuple[Done, ...]
    marks: tuple[tuple[clicks.Mark, Done], ...]
    warnings: tuple[str, ...]


def asked_for(
    segmentation_node: Any,
    record: Record,
    marks: Sequence[clicks.Mark],
    following: int,
    *,
    locked: Sequence[str],
    present: Sequence[str],
    to_volume: Matrix,
) -> AskedFor:
    """Read the marks.

    Args:
        segmentation_node: Whose clicks they are.
        record: What was carried out before.
        marks: Those in the scene.
        following: The place in time of the next new one.
        locked: Ids of segments that new ones leave alone.
        present: Ids of the segments that are there.
        to_volume: From the world to the volume's own coordinates.
    """
    known = {done.number: done for done in record.done}
    limit = _limit(segmentation_node, to_volume)
    wanted: list[Done] = []
    pairs: list[tuple[clicks.Mark, Done]] = []
    orphans = set[str]()
    for mark in marks:
        if mark.segment_id not in present:
            orphans.add(mark.node.GetName())
            continue
        points = moved(mark.points, to_volume)
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
    return AskedFor(tuple(wanted), tuple(pairs), tuple(warnings))


def correction_of(done: Done, names: Mapping[str, str]) -> Correction:
    """A click or stroke of the record for the numbers; ``names`` are the segments' names there by their ids."""
    locked = frozenset(names[i] for i in done.locked if i in names)
    box = None if done.box is None else box_from_matrix(np.array(done.box))
    name = names[done.segment_id]
    if done.radius_mm is None:
        return Click(done.points[0], name, done.inside, locked, box)
    return Stroke(done.points, done.radius_mm, name, done.inside, locked, box)


def _limit(segmentation_node: Any, to_volume: Matrix) -> tuple[tuple[float, ...], ...] | None:
    """The box that limits new clicks, in the volume's coordinates."""
    roi = segmentation_node.GetNodeReference(clicks.LIMIT_ROLE)
    if roi is None:
        return None
    return tuple(tuple(row) for row in (to_volume @ box_matrix(box_from_node(roi))).tolist())
