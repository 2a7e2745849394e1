"""The fitted corrector: the side of a border that faces as at the click moves with it, the other side hardly."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from distillation_cases import plain_labels
from geometries import Matrix, oblique_left_handed
from ReCoKDLib.interaction.corrections import Click
from ReCoKDLib.interaction.corrector import BorderLayer
from ReCoKDLib.interaction.fitted import WEIGHTS, FittedLayer
from ReCoKDLib.interaction.refine import refine
from ReCoKDLib.interaction.session import RefineSession
from ReCoKDLib.volume import Volume

LABELS = plain_labels(1)
SHAPE = (30, 34, 32)
CENTRE = np.array([15.0, 17.0, 16.0])


def ball(radius: float, matrix: Matrix, shift: float = 0.0) -> Volume:
    """A ball in voxels, shifted along j."""
    place = np.moveaxis(np.indices(SHAPE), 0, -1) - CENTRE - (0, shift, 0)
    return Volume((np.linalg.norm(place, axis=-1) <= radius).astype(np.uint8)[None], matrix, "ball")


def probabilities(labels: Volume) -> Volume:
    inside = gaussian_filter(labels.array[0].astype(np.float32), 1.5) * 0.94 + 0.03
    return labels.with_array(np.stack([1 - inside, inside]))


def ras(volume: Volume, kji: tuple[int, int, int]) -> tuple[float, float, float]:
    r, a, s = (volume.ijk_to_ras @ (*kji[::-1], 1.0))[:3]
    return float(r), float(a), float(s)


@pytest.mark.parametrize("inside", [True, False])
def test_the_side_that_faces_as_at_the_click_moves(any_geometry: Matrix, inside: bool) -> None:
    """The student's ball lies two voxels off: a click at one end of the shift says so."""
    found, truth = ball(8, any_geometry), ball(8, any_geometry, shift=2)
    # In the middle of what is missing at the far end, or of what is too much at the near end.
    at = (15, 26, 16) if inside else (15, 10, 16)
    click = Click(ras(found, at), LABELS.segments[0].name, inside)
    result = refine(
        found.with_array(found.array.astype(np.float32)), found, LABELS, [click], probabilities=probabilities(found)
    )
    moved = result.labels.array[0] != found.array[0]
    j = np.indices(SHAPE)[1]
    same_side = j > CENTRE[1] if inside else j < CENTRE[1]
    assert moved[at]
    assert moved[same_side].sum() > 4 * moved[~same_side].sum()
    wrong_before, wrong_after = ((a != truth.array[0]).sum() for a in (found.array[0], result.labels.array[0]))
    assert wrong_after < wrong_before


def test_nothing_changes_beyond_its_reach() -> None:
    matrix = oblique_left_handed()
    found = ball(12, matrix)
    click = Click(ras(found, (15, 30, 16)), LABELS.segments[0].name)
    result = refine(found, found, LABELS, [click], probabilities=probabilities(found), corrector=FittedLayer(reach=4.0))
    moved = np.argwhere(result.labels.array[0] != found.array[0])
    places = moved[:, ::-1] @ matrix[:3, :3].T + matrix[:3, 3]
    longest = max(np.linalg.norm(matrix[:3, :3], axis=0))
    assert len(moved) > 1
    assert np.linalg.norm(places - ras(found, (15, 30, 16)), axis=1).max() <= 4.0 * max(1.0, longest) + 1e-3


def test_where_there_is_no_border_another_corrector_is_asked() -> None:
    empty = ball(8, np.eye(4)).with_array(np.zeros((1, *SHAPE), np.uint8))
    click = Click(ras(empty, (15, 17, 16)), LABELS.segments[0].name)
    soft = probabilities(ball(8, np.eye(4)))
    results = [
        refine(empty, empty, LABELS, [click], probabilities=soft, corrector=corrector).labels.array
        for corrector in (FittedLayer(), BorderLayer())
    ]
    assert results[0].sum() > 100
    assert np.array_equal(results[0], results[1])


def test_a_session_gives_what_the_function_gives() -> None:
    found = ball(8, np.eye(4))
    soft = probabilities(found)
    session = RefineSession(found, found, LABELS, probabilities=soft)
    generator = np.random.default_rng(0)
    clicks = []
    for _ in range(12):
        k, j, i = (int(n) for n in generator.integers(5, 27, 3))
        clicks.append(Click(ras(found, (k, j, i)), LABELS.segments[0].name, bool(generator.integers(2))))
        session.add(clicks[-1])
    session.delete(3)
    session.undo()
    session.undo()
    expected = refine(found, found, LABELS, clicks[:-1], probabilities=soft)
    np.testing.assert_array_equal(session.labels.array, expected.labels.array)


def test_the_weights_are_of_the_features() -> None:
    assert all(np.isfinite(weight) for weight in WEIGHTS.values())
    found = ball(8, np.eye(4))
    click = Click(ras(found, (15, 26, 16)), LABELS.segments[0].name)
    unknown = FittedLayer(weights={"unheard of": 1.0})
    with pytest.raises(KeyError):
        refine(found, found, LABELS, [click], probabilities=probabilities(found), corrector=unknown)
