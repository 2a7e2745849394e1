"""Sizes of segments and their CSV file."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from ReCoKDLib.errors import OutputError
from ReCoKDLib.labels import Segment
from ReCoKDLib.table import segment_mask, segment_sizes, write_table
from ReCoKDLib.volume import Volume

Matrix = npt.NDArray[np.float64]
TwoBlobs = Callable[..., tuple[Volume, Volume]]

ONE, TWO, ABSENT = (Segment(name, value, (value,), (1, 0, 0)) for name, value in (("a", 1), ("b, groß", 2), ("c", 3)))


def test_sizes_in_any_geometry(two_blobs: TwoBlobs, any_geometry: Matrix) -> None:
    _, labels = two_blobs(any_geometry)
    voxel = float(np.prod(labels.spacing)) / 1000
    sizes = segment_sizes(labels, (TWO, ABSENT, ONE))
    assert [size.segment.name for size in sizes] == ["b, groß", "c", "a"]
    assert [size.voxels for size in sizes] == [int((labels.array == v).sum()) for v in (2, 3, 1)]
    assert [size.millilitres for size in sizes] == pytest.approx([size.voxels * voxel for size in sizes])


def test_regions_share_voxels(two_blobs: TwoBlobs) -> None:
    _, labels = two_blobs()
    whole, core = Segment("whole", 1, (1, 2), (1, 0, 0)), Segment("core", 2, (2,), (0, 1, 0))
    for segment, expected in ((whole, labels.array[0] > 0), (core, labels.array[0] == 2)):
        assert np.array_equal(segment_mask(labels.array[0], segment), expected)
        assert segment_sizes(labels, [segment])[0].voxels == expected.sum()


def test_table(two_blobs: TwoBlobs, tmp_path: Path) -> None:
    _, labels = two_blobs(np.diag([0.1, 0.1, 0.1, 1.0]))
    path = tmp_path / "Größen.csv"
    write_table(labels, (ONE, TWO, ABSENT), path)
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["segment"] for row in rows] == ["a", "b, groß", "c"]
    assert [row["label"] for row in rows] == ["1", "2", "3"]
    assert [row["voxels"] for row in rows] == ["332", "286", "0"]
    assert [row["volume_ml"] for row in rows] == ["0.000332", "0.000286", "0.000000"]
    assert path.read_bytes().count(b"\r") == 0


def test_table_does_not_overwrite_unasked(two_blobs: TwoBlobs, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("precious", encoding="utf-8")
    with pytest.raises(OutputError, match="exists already"):
        write_table(two_blobs()[1], (ONE,), path)
    assert path.read_text(encoding="utf-8") == "precious"
    write_table(two_blobs()[1], (ONE,), path, overwrite=True)
    assert "332" in path.read_text(encoding="utf-8")
