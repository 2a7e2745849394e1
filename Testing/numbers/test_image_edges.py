"""Where no student says anything, a click grows through even tissue up to the image's edges."""

from __future__ import annotations

import numpy as np
import pytest

from distillation_cases import plain_labels
from geometries import Matrix
from ReCoKDLib.interaction.corrections import Box, Click
from ReCoKDLib.interaction.image_edges import ImageEdges
from ReCoKDLib.interaction.refine import refine
from ReCoKDLib.volume import Volume

LABELS = plain_labels(2)
SHAPE = (24, 26, 28)
NAME = LABELS.segments[0].name
PLACES = np.moveaxis(np.indices(SHAPE), 0, -1)
BALL = np.linalg.norm(PLACES - (12, 12, 12), axis=-1) <= 5


def image(matrix: Matrix, channels: int = 1) -> Volume:
    """A bright ball in noise; with two channels it is in the second alone."""
    noise = np.random.default_rng(0).normal(scale=5, size=(channels, *SHAPE))
    noise[-1] += 100.0 * BALL
    return Volume(noise.astype(np.float32), matrix, "ball")


def empty(volume: Volume) -> Volume:
    return Volume(np.zeros((1, *SHAPE), np.uint8), volume.ijk_to_ras)


def click(volume: Volume, kji: tuple[int, int, int], segment: str = NAME, inside: bool = True) -> Click:
    r, a, s = (volume.ijk_to_ras @ (*kji[::-1], 1.0))[:3]
    return Click((float(r), float(a), float(s)), segment, inside)


def distances(matrix: Matrix, kji: tuple[int, int, int]) -> np.ndarray:
    """(k, j, i) mm from a voxel."""
    distance: np.ndarray = np.linalg.norm((PLACES - kji)[..., ::-1] @ matrix[:3, :3].T, axis=-1)
    return distance


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("j", [12, 14, 16])
def test_a_click_grows_to_its_own_side_of_an_edge(any_geometry: Matrix, channels: int, j: int) -> None:
    """A ball in mm, on thick slices as well: a good part of it comes with a click, hardly anything of what is around.

    Where one of two channels shows nothing but noise, the edge counts half.
    """
    ball = distances(any_geometry, (12, 12, 12)) <= 9
    noise = np.random.default_rng(0).normal(scale=5, size=(channels, *SHAPE))
    noise[-1] += 100.0 * ball
    volume = Volume(noise.astype(np.float32), any_geometry, "ball")
    found = refine(volume, empty(volume), LABELS, [click(volume, (12, j, 12))]).labels.array[0] == 1
    assert (found & ball).sum() >= (0.13 if channels == 1 else 0.09) * ball.sum()
    assert (found & ~ball).sum() <= 0.02 * found.sum()


@pytest.mark.parametrize(
    ("spacing", "shape"),
    [
        ((1.0, 1.0, 1.0), (50, 50, 50)),
        ((0.5, 0.5, 0.5), (72, 72, 72)),
        ((0.3, 0.3, 0.3), (100, 100, 100)),
        ((1.0, 1.0, 3.0), (20, 50, 50)),
        ((0.7, 0.7, 5.0), (12, 70, 70)),
    ],
)
def test_what_a_click_grows_to_does_not_depend_on_the_size_of_voxels(
    spacing: tuple[float, float, float], shape: tuple[int, int, int]
) -> None:
    """A ball of 8 mm in fine voxels, in coarse ones and in thick slices: millimetres of it, and nothing beyond."""
    kji = np.moveaxis(np.indices(shape), 0, -1)
    mm = (kji - np.array(shape) // 2)[..., ::-1] * spacing
    ball = np.linalg.norm(mm, axis=-1) <= 8
    texture = 5 * np.sin(mm * (1.1, 1.3, 0.9)).sum(axis=-1)
    noise = np.random.default_rng(0).normal(scale=5, size=shape)
    volume = Volume((texture + noise + 100 * ball)[None].astype(np.float32), np.diag([*spacing, 1.0]))
    nothing = volume.with_array(np.zeros((1, *shape), np.uint8))
    k, j, i = (n // 2 for n in shape)
    found = refine(volume, nothing, LABELS, [click(volume, (k, j, i))]).labels.array[0] == 1
    assert np.cbrt(found.sum() * np.prod(spacing) * 3 / 4 / np.pi) >= 2.8
    assert (found & ~ball).sum() <= 0.03 * found.sum()


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 0.7, 5.0), (3.0, 3.0, 3.0), (0.8, 2.5, 6.0)])
def test_a_click_on_an_edge_still_changes_its_neighbourhood(spacing: tuple[float, float, float]) -> None:
    """At least its neighbours in the plane of thick slices, whatever size the voxels have; not the next slice."""
    volume = image(np.diag([*spacing, 1.0]))
    found = refine(volume, empty(volume), LABELS, [click(volume, (12, 12, 17))]).labels.array[0] == 1
    assert all(found[at] for at in ((12, 12, 17), (12, 12, 16), (12, 12, 18), (12, 11, 17), (12, 13, 17)))
    if spacing[2] > 2 * spacing[1]:
        assert not found[11, :, 18:].any()


def test_beside_a_border_nothing_deeper_than_the_click_changes() -> None:
    """Half of an even block is found already: a click in the other half says how thick the missing layer is."""
    block = (np.abs(PLACES - 12) <= (6, 6, 8)).all(axis=-1)
    noise = np.random.default_rng(0).normal(scale=5, size=(1, *SHAPE)) + 100.0 * block
    volume = Volume(noise.astype(np.float32), np.eye(4))
    half = empty(volume).with_array((block & (PLACES[..., 2] < 10))[None].astype(np.uint8))
    found = refine(volume, half, LABELS, [click(volume, (12, 12, 12))]).labels.array[0] == 1
    grown = found & (half.array[0] == 0)
    assert grown.sum() > 20
    beyond = distances(np.eye(4), (12, 12, 12)) > 2  # the least that a click grows
    assert PLACES[grown & beyond][:, 2].max() == 12
    assert not (grown & ~block).any()


def test_what_was_said_to_be_outside_is_not_overrun() -> None:
    """Both halves of an even volume have their click: each grows to the middle between them."""
    flat = Volume(np.random.default_rng(1).normal(size=(1, *SHAPE)).astype(np.float32), np.eye(4))
    first, other = click(flat, (12, 12, 11)), click(flat, (12, 12, 16), inside=False)
    alone = refine(flat, empty(flat), LABELS, [first]).labels.array[0]
    denied = click(flat, (12, 12, 14), inside=False)
    kept = refine(flat, empty(flat), LABELS, [denied, first]).labels.array[0]
    assert alone[12, 12, 13] == 1
    assert kept[12, 12, 14] == 0
    assert kept.sum() < alone.sum()
    back = refine(flat, empty(flat), LABELS, [first, other]).labels.array[0]
    assert back[12, 12, 11] == 1
    assert back[12, 12, 16] == 0


def test_an_image_without_edges_and_voxels_that_are_no_numbers() -> None:
    even = Volume(np.zeros((1, *SHAPE), np.float32), np.eye(4))
    found = refine(even, empty(even), LABELS, [click(even, (12, 12, 12))]).labels.array[0]
    assert 1 < found.sum() < 500
    holes = image(np.eye(4))
    array = holes.array.copy()
    array[0, 2] = np.nan
    holes = holes.with_array(array)
    assert refine(holes, empty(holes), LABELS, [click(holes, (12, 12, 12))]).labels.array[0].sum() > 50


def test_the_box_and_the_reach_hold() -> None:
    volume = image(np.eye(4))
    middle = click(volume, (12, 12, 12))
    box = Box(middle.position_ras, ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)), (2.0, 2.0, 2.0))
    inside = np.abs(PLACES - 12).max(axis=-1) <= 2
    found = refine(volume, empty(volume), LABELS, [middle], box=box).labels.array[0] == 1
    assert found.any()
    assert not found[~inside].any()
    short = refine(volume, empty(volume), LABELS, [middle], corrector=ImageEdges(reach_mm=3.0)).labels.array[0] == 1
    assert not short[np.linalg.norm(PLACES - (12, 12, 12), axis=-1) > 3].any()


def test_a_segment_that_the_student_does_not_know_follows_the_image() -> None:
    """There are probabilities, but nowhere any of this segment."""
    volume = image(np.eye(4))
    heads = np.zeros((3, *SHAPE), np.float16)
    heads[0] = 1
    made = [click(volume, (12, 12, 12))]
    known = refine(volume, empty(volume), LABELS, made, probabilities=volume.with_array(heads)).labels.array
    np.testing.assert_array_equal(known, refine(volume, empty(volume), LABELS, made).labels.array)
