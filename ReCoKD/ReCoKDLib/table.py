"""How large each structure is: voxels and millilitres, as rows and as a CSV file."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .files import atomic_file
from .labels import Segment
from .volume import Volume

COLUMNS = ("segment", "label", "voxels", "volume_ml")


@dataclass(frozen=True)
class SegmentSize:
    """The size of one structure.

    Attributes:
        segment: The structure.
        voxels: How many voxels it has.
        millilitres: Their volume.
    """

    segment: Segment
    voxels: int
    millilitres: float


def segment_mask(labels: npt.NDArray[Any], segment: Segment) -> npt.NDArray[np.bool_]:
    """Which voxels of a label map, or of a part of one, belong to a segment; of the same shape.

    A region has all labels that belong to it, so overlapping regions share voxels, as nnU-Net evaluates them.
    """
    if segment.region == (segment.value,):
        mask: npt.NDArray[np.bool_] = labels == segment.value
        return mask
    return np.isin(labels, (segment.value, *segment.region))


def segment_sizes(labels: Volume, segments: Iterable[Segment]) -> list[SegmentSize]:
    """The size of each segment in a one-channel label map, in the order given; absent ones have zero."""
    voxel = abs(float(np.linalg.det(labels.ijk_to_ras[:3, :3]))) / 1000.0  # mm^3 to ml
    # One pass over the voxels, however many segments there are.
    values, counts = np.unique(labels.array[0], return_counts=True)
    found: dict[Any, int] = dict(zip(values.tolist(), counts.tolist(), strict=True))
    sizes = []
    for segment in segments:
        voxels = sum(found.get(value, 0) for value in {segment.value, *segment.region})
        sizes.append(SegmentSize(segment, voxels, voxels * voxel))
    return sizes


def write_table(labels: Volume, segments: Iterable[Segment], path: Path, overwrite: bool = False) -> None:
    """Write the segments' sizes in a label map as CSV; see :func:`write_sizes`.

    Raises:
        OutputError: The file exists and ``overwrite`` is False, or it cannot be written.
    """
    write_sizes(segment_sizes(labels, segments), path, overwrite)


def write_sizes(sizes: Iterable[SegmentSize], path: Path, overwrite: bool = False) -> None:
    """Write sizes as CSV: UTF-8, commas between columns, points in numbers in every locale.

    Raises:
        OutputError: The file exists and ``overwrite`` is False, or it cannot be written.
    """
    with (
        atomic_file(path, overwrite) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as stream,
    ):
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        for size in sizes:
            # Six decimals: a voxel of 0.1 mm still counts.
            writer.writerow((size.segment.name, size.segment.value, size.voxels, f"{size.millilitres:.6f}"))
