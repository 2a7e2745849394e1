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


@pytest.mark.parametrize("channels", [1, 2])
def test_a_click_near_an_edge_grows_to_its_own_side(any_geometry: Matrix, channels: int) -> None:
    volume = image(any_geometry, channels)
    found = refine(volume, empty(volume), LABELS, [click(volume, (12, 12, 14))]).labels.array[0] == 1
    assert (found & BALL).sum() >= 10
    assert (found & ~BALL).sum() <= 0.2 * found.sum()


def test_a_click_on_an_edge_still_changes_its_neighbourhood() -> None:
    volume = image(np.eye(4))
    found = refine(volume, empty(volume), LABELS, [click(volume, (12, 12, 17))]).labels.array[0] == 1
    near = np.linalg.norm(PLACES - (12, 12, 17), axis=-1) <= 1.5
    assert found[near].all()


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
    short = refine(volume, empty(volume), LABELS, [middle], corrector=ImageEdges(reach=3.0)).labels.array[0] == 1
    assert not short[np.linalg.norm(PLACES - (12, 12, 12), axis=-1) > 3].any()


def test_a_segment_that_the_student_does_not_know_follows_the_image() -> None:
    """There are probabilities, but nowhere any of this segment."""
    volume = image(np.eye(4))
    heads = np.zeros((3, *SHAPE), np.float16)
    heads[0] = 1
    made = [click(volume, (12, 12, 12))]
    known = refine(volume, empty(volume), LABELS, made, probabilities=volume.with_array(heads)).labels.array
    np.testing.assert_array_equal(known, refine(volume, empty(volume), LABELS, made).labels.array)
