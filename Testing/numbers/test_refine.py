"""Corrections change what they should, near them, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from distillation_cases import plain_labels, region_labels
from geometries import GEOMETRIES, Matrix
from ReCoKDLib.errors import Cancelled, InputError
from ReCoKDLib.interaction.corrections import Box, Click, LockedError, OutsideVolumeError, Stroke
from ReCoKDLib.interaction.corrector import BorderLayer, Corrector
from ReCoKDLib.interaction.fitted import FittedLayer
from ReCoKDLib.interaction.refine import refine
from ReCoKDLib.interaction.session import RefineSession, State
from ReCoKDLib.volume import Volume

TwoBlobs = Callable[..., tuple[Volume, Volume]]
ONE, TWO = "structure 1", "structure 2"
LABELS = plain_labels(2)
AXES = ((1.0, 0.2, 0.0), (-0.2, 1.0, 0.3), (0.1, -0.3, 1.0))


def ras(volume: Volume, kji: Any) -> tuple[float, float, float]:
    r, a, s = (volume.ijk_to_ras @ (*np.asarray(kji, dtype=float)[::-1], 1.0))[:3]
    return float(r), float(a), float(s)


def click(volume: Volume, kji: Any, segment: str = ONE, inside: bool = True, **more: Any) -> Click:
    return Click(ras(volume, kji), segment, inside, **more)


def soft(labels: Volume, heads: int = 3) -> Volume:
    """Probabilities of a student that is fairly sure of these labels, less so at borders."""
    from scipy.ndimage import gaussian_filter

    array = np.stack([gaussian_filter((labels.array[0] == v).astype(np.float32), 1.0) for v in range(heads)])
    return labels.with_array((array * 0.94 + 0.02).astype(np.float16))


@pytest.fixture
def blobs(any_geometry: Matrix, two_blobs: TwoBlobs) -> tuple[Volume, Volume]:
    return two_blobs(ijk_to_ras=any_geometry)


def random_corrections(volume: Volume, number: int, seed: int) -> list[Click | Stroke]:
    generator = np.random.default_rng(seed)
    made: list[Click | Stroke] = []
    for _ in range(number):
        segment, inside = str(generator.choice([ONE, TWO])), bool(generator.integers(2))
        a, b = (ras(volume, generator.uniform(-0.4, np.array(volume.shape) - 0.6)) for _ in range(2))
        made.append(Stroke((a, b), 1.0, segment, inside) if generator.random() < 0.2 else Click(a, segment, inside))
    return made


def test_the_clicked_voxel_has_the_label_and_far_away_nothing_changes(blobs: tuple[Volume, Volume]) -> None:
    volume, labels = blobs
    corrector = BorderLayer(reach_mm=6.0)
    k, j, i = np.indices(volume.shape)
    places = np.stack([i, j, k], -1) @ volume.ijk_to_ras[:3, :3].T + volume.ijk_to_ras[:3, 3]
    for made in random_corrections(volume, 25, seed=1):
        if isinstance(made, Stroke):
            continue
        result = refine(volume, labels, LABELS, [made], probabilities=soft(labels), corrector=corrector)
        ijk = np.linalg.inv(volume.ijk_to_ras) @ (*made.position_ras, 1)
        voxel = tuple(np.floor(ijk[2::-1] + 0.5).astype(int))
        assert (result.labels.array[(0, *voxel)] == LABELS.named(made.segment).value) == made.inside
        moved = (result.labels.array != labels.array)[0]
        assert result.changed_voxels == moved.sum()
        distance = np.linalg.norm(places - made.position_ras, axis=-1)
        # The window is a box around the voxel in the volume's axes.
        assert not moved[distance > np.sqrt(3) * (6.0 + 2 * max(volume.spacing))].any()


def test_the_layer_of_the_border_around_a_click_moves(two_blobs: TwoBlobs) -> None:
    """A student that misses one layer of a structure: a click in it brings it back near the click, no islands."""
    from scipy.ndimage import binary_erosion, label

    volume, truth = two_blobs()
    found = truth.with_array(np.where(binary_erosion(truth.array[0]), truth.array[0], 0)[None])
    missed = np.argwhere((truth.array[0] == 1) & (found.array[0] == 0))
    result = refine(volume, found, LABELS, [click(volume, missed[0])], probabilities=soft(found))
    moved = result.labels.array[0] != found.array[0]
    assert moved.sum() > 5
    assert (truth.array[0][moved] == 1).mean() > 0.6
    assert label(result.labels.array[0] == 1)[1] == 1


def test_a_lost_class_comes_back_with_a_click(blobs: tuple[Volume, Volume]) -> None:
    volume, labels = blobs
    lost = labels.with_array(np.where(labels.array == 2, 0, labels.array))
    corrector = BorderLayer(reach_mm=60.0)
    middle = np.argwhere(labels.array[0] == 2).mean(axis=0).round()
    made = [click(volume, middle, TWO)]
    result = refine(volume, lost, LABELS, made, probabilities=soft(labels), corrector=corrector)
    both = ((result.labels.array == 2) & (labels.array == 2)).sum()
    assert 2 * both / ((result.labels.array == 2).sum() + (labels.array == 2).sum()) > 0.9


@pytest.mark.parametrize("probabilities", [True, False])
def test_an_empty_result_takes_a_click(two_blobs: TwoBlobs, probabilities: bool) -> None:
    volume, labels = two_blobs()
    empty = labels.with_array(np.zeros_like(labels.array))
    heads = soft(empty) if probabilities else None
    result = refine(volume, empty, LABELS, [click(volume, (6, 6, 7))], probabilities=heads)
    assert result.labels.array[0, 6, 6, 7] == 1
    assert result.changed is not None
    assert set(np.unique(result.labels.array)) == {0, 1}


def test_of_contradicting_clicks_the_later_wins_and_earlier_clicks_keep_their_voxels(two_blobs: TwoBlobs) -> None:
    volume, labels = two_blobs()
    at = np.argwhere(labels.array[0] == 1)[40]
    yes, no = click(volume, at), click(volume, at, inside=False)

    def value(made: list[Click]) -> int:
        return int(refine(volume, labels, LABELS, made, probabilities=soft(labels)).labels.array[(0, *at)])

    assert value([yes, no]) != 1
    assert value([no, yes]) == 1
    assert value([yes, no, yes]) == 1
    made = random_corrections(volume, 40, seed=5)
    clicks = [c for c in made if isinstance(c, Click)]
    result = refine(volume, labels, LABELS, clicks, probabilities=soft(labels)).labels.array[0]
    for one in clicks:
        ijk = np.linalg.inv(volume.ijk_to_ras) @ (*one.position_ras, 1)
        voxel = tuple(np.floor(ijk[2::-1] + 0.5).astype(int))
        assert (result[voxel] == LABELS.named(one.segment).value) == one.inside


def test_locked_segments_are_not_touched_in_either_direction(blobs: tuple[Volume, Volume]) -> None:
    volume, labels = blobs
    for made in random_corrections(volume, 30, seed=3):
        try:
            result = refine(volume, labels, LABELS, [made], probabilities=soft(labels), locked=[TWO])
        except LockedError:
            continue
        np.testing.assert_array_equal(result.labels.array == 2, labels.array == 2)


def test_a_click_against_a_lock_is_refused_in_words(two_blobs: TwoBlobs) -> None:
    volume, labels = two_blobs()
    at = np.argwhere(labels.array[0] == 2)[0]
    for made in (click(volume, at, ONE), click(volume, at, TWO, False), click(volume, (0, 0, 0), TWO)):
        with pytest.raises(LockedError, match="locked"):
            refine(volume, labels, LABELS, [made], probabilities=soft(labels), locked=[TWO])


def test_nothing_changes_outside_the_box(blobs: tuple[Volume, Volume]) -> None:
    volume, labels = blobs
    box = Box(ras(volume, (6, 7, 8)), AXES, (4.0, 4.0, 6.0))
    inside = box.contains(volume.ijk_to_ras, tuple(np.ogrid[:18, :22, :26]))  # type: ignore[arg-type]
    changed = 0
    for at in np.argwhere(inside)[::9]:
        made = click(volume, at, TWO)
        result = refine(volume, labels, LABELS, [made], probabilities=soft(labels), box=box)
        moved = (result.labels.array != labels.array)[0]
        assert not moved[~inside].any()
        changed += moved.sum()
    assert changed > 0
    with pytest.raises(LockedError, match="outside the box"):
        refine(volume, labels, LABELS, [click(volume, (17, 21, 25))], box=box)


def test_overlapping_regions_change_together() -> None:
    label_set = region_labels()
    array = np.zeros((1, 16, 16, 16), dtype=np.uint8)
    array[0, 3:13, 3:13, 3:13] = 1
    array[0, 5:11, 5:11, 5:11] = 2
    labels = Volume(array, np.eye(4))
    volume = Volume(array.astype(np.float32), np.eye(4))
    heads = np.stack([array[0] >= n for n in (1, 2, 3)]).astype(np.float16) * 0.9 + 0.05
    probabilities = labels.with_array(heads)
    grown = refine(volume, labels, label_set, [click(volume, (8, 8, 11), "core")], probabilities=probabilities)
    assert grown.labels.array[0, 8, 8, 11] == 2
    new = refine(volume, labels, label_set, [click(volume, (8, 8, 8), "enhancing")], probabilities=probabilities)
    assert new.labels.array[0, 8, 8, 8] == 3
    gone = refine(volume, labels, label_set, [click(volume, (8, 8, 10), "whole", False)], probabilities=probabilities)
    assert gone.labels.array[0, 8, 8, 10] == 0
    # A lock on the whole lets its parts change, but not its outline.
    kept = refine(
        volume, labels, label_set, [click(volume, (8, 8, 11), "core")], probabilities=probabilities, locked=["whole"]
    )
    np.testing.assert_array_equal(kept.labels.array > 0, array > 0)
    with pytest.raises(LockedError):
        refine(volume, labels, label_set, [click(volume, (8, 8, 14), "core")], locked=["whole"])


def test_segments_that_the_student_does_not_know_and_values_that_nobody_named(two_blobs: TwoBlobs) -> None:
    volume, labels = two_blobs()
    three = labels.array.copy()
    three[0, :3] = 3
    three[0, -2:] = 9
    labels = labels.with_array(three)
    four = plain_labels(3)
    made = [click(volume, (4, 10, 10), "structure 3"), click(volume, (1, 10, 10), "structure 3", False)]
    result = refine(volume, labels, four, made, probabilities=soft(labels)).labels.array[0]
    assert (result[4, 10, 10], result[1, 10, 10]) == (3, 0)
    np.testing.assert_array_equal(result == 9, three[0] == 9)
    with pytest.raises(LockedError):
        refine(volume, labels, four, [click(volume, (17, 3, 3))], probabilities=soft(labels))


@pytest.mark.parametrize("shape", [(1, 20, 20), (20, 1, 20), (20, 20, 1), (1, 1, 1)])
def test_thin_volumes(shape: tuple[int, int, int]) -> None:
    volume = Volume(np.zeros((1, *shape), dtype=np.int16), np.eye(4))
    labels = volume.with_array(np.zeros((1, *shape), dtype=np.uint8))
    result = refine(volume, labels, LABELS, [click(volume, (0, 0, 0)), click(volume, (0, 0, 0), inside=False)])
    assert result.labels.array[0, 0, 0, 0] == 0


def test_what_does_not_fit_is_refused_in_words(two_blobs: TwoBlobs) -> None:
    volume, labels = two_blobs()
    elsewhere = Volume(labels.array, GEOMETRIES["oblique"]())
    with pytest.raises(InputError, match="another grid"):
        refine(volume, elsewhere, LABELS, [])
    with pytest.raises(InputError, match="another grid"):
        refine(volume, labels, LABELS, [], probabilities=soft(elsewhere))
    with pytest.raises(InputError, match="It has: structure 1, structure 2"):
        refine(volume, labels, LABELS, [click(volume, (1, 1, 1), "liver")])
    with pytest.raises(InputError, match="liver"):
        refine(volume, labels, LABELS, [click(volume, (1, 1, 1))], locked=["liver"])
    with pytest.raises(InputError, match="classes"):
        refine(volume, labels, plain_labels(1), [], probabilities=soft(labels))
    with pytest.raises(OutsideVolumeError):
        refine(volume, labels, LABELS, [click(volume, (99, 1, 1))])
    with pytest.raises(Cancelled):
        refine(volume, labels, LABELS, [click(volume, (1, 1, 1))], cancelled=lambda: True)


def test_the_inputs_stay_as_they_are(two_blobs: TwoBlobs) -> None:
    volume, labels = two_blobs()
    before = labels.array.copy()
    result = refine(volume, labels, LABELS, random_corrections(volume, 10, 0), probabilities=soft(labels))
    np.testing.assert_array_equal(labels.array, before)
    assert not np.shares_memory(result.labels.array, labels.array)
    assert refine(volume, labels, LABELS, []).changed is None


def refined(session: RefineSession, volume: Volume, labels: Volume, corrector: Corrector) -> np.ndarray:
    made = session.state.corrections
    active = [c for n, c in enumerate(made) if n not in session.refused]
    heads = soft(labels)
    assert len(active) + len(session.refused) == len(made)
    array: np.ndarray = refine(volume, labels, LABELS, active, probabilities=heads, corrector=corrector).labels.array
    return array


@pytest.mark.parametrize("corrector", [BorderLayer(reach_mm=6.0), FittedLayer(reach_mm=6.0)], ids=["border", "fitted"])
@pytest.mark.parametrize("seed", [1, 4])
def test_a_session_equals_the_function_after_every_step_of_a_random_history(
    two_blobs: TwoBlobs, seed: int, corrector: Corrector
) -> None:
    geometry = list(GEOMETRIES.values())[seed]()
    volume, labels = two_blobs(ijk_to_ras=geometry)
    generator = np.random.default_rng(seed)
    session = RefineSession(volume, labels, LABELS, probabilities=soft(labels), corrector=corrector)
    seen = {0: session.labels.array.copy()}
    step = 0
    for made in random_corrections(volume, 40, seed + 10):
        before, shown = session.labels.array.copy(), session.state
        number = len(session.state.corrections)
        choice = generator.choice(["add", "add", "add", "move", "delete", "undo", "redo", "lock"])
        changed = None
        try:
            if choice == "undo" and session.can_undo:
                changed, step = session.undo(), step - 1
            elif choice == "redo" and session.can_redo:
                changed, step = session.redo(), step + 1
            elif choice == "lock":
                box = Box(ras(volume, (9, 11, 13)), AXES, (12.0, 12.0, 12.0)) if generator.random() < 0.5 else None
                session.limit(locked=[ONE] if generator.random() < 0.3 else [], box=box)
                step += 1
                seen = {s: a for s, a in seen.items() if s < step}
            elif choice == "move" and number:
                changed, step = session.move(int(generator.integers(number)), made), step + 1
                seen = {s: a for s, a in seen.items() if s < step}
            elif choice == "delete" and number:
                changed, step = session.delete(int(generator.integers(number))), step + 1
                seen = {s: a for s, a in seen.items() if s < step}
            else:
                changed, step = session.add(made), step + 1
                seen = {s: a for s, a in seen.items() if s < step}
        except LockedError:
            np.testing.assert_array_equal(session.labels.array, before)
            assert session.state == shown
            continue
        now = session.labels.array
        np.testing.assert_array_equal(now, seen.setdefault(step, now.copy()))
        np.testing.assert_array_equal(now, refined(session, volume, labels, corrector))
        moved = before != now
        if changed is not None:
            moved[(0, *changed)] = False
        assert not moved.any()
    while session.can_undo:
        session.undo()
    np.testing.assert_array_equal(session.labels.array, labels.array)


def test_a_lock_set_later_does_not_undo_what_was_clicked_before(two_blobs: TwoBlobs) -> None:
    volume, labels = two_blobs()
    session = RefineSession(volume, labels, LABELS, probabilities=soft(labels))
    session.add(click(volume, (1, 1, 1)))
    session.limit(locked=[ONE], box=None)
    assert session.labels.array[0, 1, 1, 1] == 1
    with pytest.raises(LockedError):
        session.add(click(volume, (1, 1, 1), inside=False))
    session.undo()
    assert session.state.locked == frozenset()
    session.add(click(volume, (1, 1, 1), inside=False))
    assert session.labels.array[0, 1, 1, 1] == 0


def test_a_saved_session_is_gone_on_with(two_blobs: TwoBlobs) -> None:
    volume, labels = two_blobs()
    session = RefineSession(volume, labels, LABELS, probabilities=soft(labels))
    for made in random_corrections(volume, 8, seed=2):
        session.add(made)
    again = RefineSession(volume, labels, LABELS, probabilities=soft(labels), state=State(session.state.corrections))
    np.testing.assert_array_equal(again.labels.array, session.labels.array)
    assert not again.can_undo
    for step in (session.redo, again.undo):
        with pytest.raises(InputError, match="nothing to"):
            step()
    with pytest.raises(IndexError):
        session.move(99, made)


def test_the_last_of_a_thousand_clicks_is_still_quick(two_blobs: TwoBlobs) -> None:
    volume, labels = two_blobs(shape=(8, 160, 160))
    session = RefineSession(volume, labels, LABELS, probabilities=soft(labels), corrector=BorderLayer(reach_mm=2.0))
    generator = np.random.default_rng(0)
    seconds = []
    for number in range(1000):
        made = click(volume, generator.integers(0, volume.shape), inside=bool(number % 3))
        begun = time.perf_counter()
        session.add(made)
        seconds.append(time.perf_counter() - begun)
    assert len(session.state.corrections) == 1000
    assert np.percentile(seconds[900:], 90) < 0.3


def test_a_thousand_clicks_in_one_spot_by_the_image_alone(two_blobs: TwoBlobs) -> None:
    """They contradict each other: the later wins, takes no longer, and every one has its way back."""
    volume, labels = two_blobs(shape=(12, 12, 12))
    session = RefineSession(volume, labels, LABELS)
    k, j, i = np.argwhere(labels.array[0] == 1).mean(axis=0).astype(int).tolist()
    seconds = []
    for number in range(1000):
        begun = time.process_time()
        session.add(click(volume, (k, j, i + (number % 5 == 4)), inside=bool(number % 2)))
        seconds.append(time.process_time() - begun)
    # Number 998 spoke of the spot last, number 999 of its neighbour.
    assert session.labels.array[0, k, j, i : i + 2].tolist() == [0, 1]
    assert np.median(seconds[-50:]) < 0.1
    for _ in range(1000):
        session.undo()
    np.testing.assert_array_equal(session.labels.array, labels.array)


def test_outside_a_segment_comes_what_lies_beside_it(two_blobs: TwoBlobs) -> None:
    """Not the next most probable label, which would become an island far from its structure."""
    volume, labels = two_blobs()
    at = np.argwhere(labels.array[0] == 1)[0]
    heads = soft(labels).array.copy()
    heads[2] = np.maximum(heads[2], 0.9)  # everywhere rather structure 2 than background
    made = [click(volume, at, inside=False)]
    result = refine(volume, labels, LABELS, made, probabilities=labels.with_array(heads))
    assert result.labels.array[(0, *at)] == 0
    touching = labels.array.copy()
    touching[0, at[0] - 1] = 2
    result = refine(volume, labels.with_array(touching), LABELS, made, probabilities=labels.with_array(heads))
    assert result.labels.array[(0, *at)] == 2
