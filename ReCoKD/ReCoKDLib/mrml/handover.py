"""A corrected segmentation and its volume, handed over to training."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..errors import PackageError
from ..handover import export_for_training
from ..image_io import label_array
from ..labels import LabelSet, Segment
from ..package import ModelPackage
from ..provenance import ClickRecord, Provenance
from ..students import find_student
from .record import Record, volume_nodes
from .refining import Refining
from .volumes import volume_from_nodes


def export_node(
    refining: Refining, folder: Path, *, annotator: str = "", channel_names: Sequence[str] | None = None
) -> str:
    """Add a segmentation with its volumes to a dataset in nnU-Net's raw layout, with a record of who made what.

    The dataset's labels are the student's, all of them under its own names whatever the segments are called now, and
    after them the segments that the user added.

    Args:
        refining: The segmentation.
        folder: The dataset; made if it is missing or empty.
        annotator: Who corrected it, if that may be written down.
        channel_names: What each volume is; the student's names, or without it the volume nodes', when None.

    Returns:
        The new case's identifier.

    Raises:
        ReCoKDError: As for :func:`ReCoKDLib.handover.export_for_training`.
    """
    labels, record = refining.labels, refining.record
    package = _package(record)
    label_set, values = _labels(record, refining.label_set, package)
    table = np.zeros(int(labels.array.max()) + 1, np.uint16)
    for old, new in values.items():
        if old < len(table):
            table[old] = new
    nodes = volume_nodes(refining.node)
    if channel_names is None:
        names = [node.GetName() for node in nodes]
        channel_names = names if package is None else [channel.name for channel in package.card.channels]
    volume = volume_from_nodes(nodes)
    clicks = tuple(
        ClickRecord(refining.label_set.segments[_index(record, done.segment_id)].name, done.inside, (r, a, s))
        for done in record.done
        for r, a, s in refining.places_of(done).tolist()
    )
    return export_for_training(
        volume,
        labels.with_array(label_array(table[labels.array])),
        label_set,
        folder,
        Provenance.now(record.student, record.checksum, clicks, annotator),
        channel_names=channel_names,
    )


def _package(record: Record) -> ModelPackage | None:
    if not record.student:
        return None
    try:
        package = find_student(record.student)
    except PackageError as error:
        logging.warning("ReCoKD: the labels are those of the segmentation. %s", error)
        return None
    return package if package.checksum == record.checksum else None


def _labels(record: Record, label_set: LabelSet, package: ModelPackage | None) -> tuple[LabelSet, dict[int, int]]:
    """The dataset's labels, and each label value of the segmentation with its value there."""
    student = record.segments[: record.from_student] if package is not None else ()
    segments = list(package.label_set.segments) if package is not None else []
    values = {known.value: known.value for known in student}
    following = 1 + max((max(segment.value, *segment.region) for segment in segments), default=0)
    for known, segment in list(zip(record.segments, label_set.segments, strict=True))[len(student) :]:
        values[known.value] = following
        segments.append(Segment(segment.name, following, (following,), segment.color))
        following += 1
    base = label_set if package is None else package.label_set
    return replace(base, segments=tuple(segments)), values


def _index(record: Record, segment_id: str) -> int:
    return [known.id for known in record.segments].index(segment_id)
