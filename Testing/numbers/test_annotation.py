"""What segments lose on their way to one label map on an image's grid."""

from __future__ import annotations

import numpy as np
import pytest

from geometries import Matrix, oblique
from ReCoKDLib.annotation import AnnotationBuilder, Outside
from ReCoKDLib.volume import Volume

SHAPE = (4, 5, 6)


def image(matrix: Matrix) -> Volume:
    return Volume(np.zeros((1, *SHAPE), np.float32), matrix)


def box(value: int, k: slice, j: slice, i: slice) -> np.ndarray:
    array = np.zeros(SHAPE, np.uint8)
    array[k, j, i] = value
    return array


def test_the_later_one_has_what_both_claim() -> None:
    builder = AnnotationBuilder(image(np.eye(4)), 300)
    builder.put(box(1, slice(0, 2), slice(0, 2), slice(0, 2)))
    builder.put(box(1, slice(0, 1), slice(0, 2), slice(0, 2)))  # of one class: nobody loses
    builder.put(2 * np.ones((2, 1, 1), np.uint8), (slice(1, 3), slice(1, 2), slice(1, 2)))
    builder.put(300 * np.ones((1, 1, 2), np.uint16), (slice(1, 2), slice(1, 2), slice(0, 2)))
    annotation = builder.annotation()
    assert annotation.overlaps == {(1, 2): 1, (1, 300): 1, (2, 300): 1}
    assert annotation.labels.array[0, 1, 1].tolist() == [300, 300, 0, 0, 0, 0]
    assert annotation.outside == ()


def test_voxels_outside_are_counted_on_the_segments_own_grid(any_geometry: Matrix) -> None:
    builder = AnnotationBuilder(image(any_geometry), 2)
    moved = any_geometry.copy()
    moved[:3, 3] += 2 * moved[:3, 0]  # two voxels along i: of six, four stay
    first, second = box(1, slice(0, 2), slice(0, 2), slice(0, 6)), box(2, slice(3, 4), slice(0, 2), slice(0, 4))
    builder.compare(first + second, moved)
    assert builder.annotation().outside == (Outside(1, 8, 24),)


@pytest.mark.parametrize("step", [0.5, 2.0])
def test_neither_finer_grids_nor_empty_margins_lie_outside(step: float) -> None:
    builder = AnnotationBuilder(image(oblique()), 1)
    other = oblique()
    other[:3, :3] *= step
    other[:3, 3] = (oblique() @ [*[-0.5 + step / 2 - 3 * step] * 3, 1])[:3]  # three voxels before the image begins
    padded = np.zeros([6 + int(n / step) for n in SHAPE], np.uint8)
    padded[tuple(slice(3, 3 + int(n / step)) for n in SHAPE)] = 1
    builder.compare(padded, other)
    assert builder.annotation().outside == ()
    padded[2, 3, 3] = 1
    builder.compare(padded, other)
    assert [part.lost for part in builder.annotation().outside] == [1]


def test_nothing_is_nowhere() -> None:
    builder = AnnotationBuilder(image(np.eye(4)), 0)
    builder.compare(np.zeros((2, 2, 2), np.uint8), np.eye(4))
    annotation = builder.annotation()
    assert not annotation.labels.array.any()
    assert (annotation.overlaps, annotation.outside) == ({}, ())
