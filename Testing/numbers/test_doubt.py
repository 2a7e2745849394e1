"""Confidence, and the slices to look at first."""

from __future__ import annotations

import numpy as np
import pytest

from distillation_cases import plain_labels, region_labels
from geometries import GEOMETRIES, Matrix
from plans import TWO_LABELS, small_plan
from ReCoKDLib.errors import InputError
from ReCoKDLib.interaction.doubt import confidence, doubtful_slices, mirrored_probabilities
from ReCoKDLib.networks import build_network
from ReCoKDLib.prediction import Predictor
from ReCoKDLib.volume import Volume

LABELS = plain_labels(2)


def heads(*voxels: tuple[float, ...]) -> Volume:
    """One row of voxels, each with a probability for each head."""
    return Volume(np.array(voxels, dtype=np.float16).T[:, None, None], np.eye(4))


def test_confidence_is_the_margin_between_the_two_most_probable_labels() -> None:
    found = confidence(heads((1, 0, 0), (0.5, 0.5, 0), (0.2, 0.1, 0.7), (1 / 3, 1 / 3, 1 / 3)), LABELS)
    np.testing.assert_allclose(found.array.ravel(), [1, 0, 0.5, 0], atol=1e-3)
    assert found.array.dtype == np.float32


def test_of_regions_the_least_sure_counts() -> None:
    found = confidence(heads((1, 1, 1), (1, 0.5, 0), (0.9, 0.2, 0)), region_labels())
    np.testing.assert_allclose(found.array.ravel(), [1, 0, 0.6], atol=2e-3)


def test_runs_that_disagree_leave_no_confidence() -> None:
    sure, against = heads((0.9, 0.1, 0), (0.9, 0.1, 0)), heads((0.8, 0.2, 0), (0.2, 0.8, 0))
    np.testing.assert_allclose(confidence([sure, against], LABELS).array.ravel(), [0.6, 0], atol=2e-3)
    yes, no = heads((0.9, 0.9, 0.1)), heads((0.8, 0.3, 0.1))
    np.testing.assert_allclose(confidence([yes, no], region_labels()).array.ravel(), [0], atol=2e-3)


def test_probabilities_of_other_heads_are_refused() -> None:
    for runs in (list[Volume](), heads((0.5, 0.5))):
        with pytest.raises(InputError, match="3 heads"):
            confidence(runs, LABELS)


def doubtful(matrix: Matrix) -> tuple[Volume, Volume]:
    sure = np.ones((1, 16, 18, 20), dtype=np.float32)
    sure[0, 3:6, 4:9, 5:7] = 0.4
    sure[0, 4, 6, 6] = 0.0
    sure[0, 11:14, 12:15, 14:17] = 0.1
    labels = np.zeros(sure.shape, dtype=np.uint8)
    labels[0, :8] = 1
    labels[0, 12:] = 2
    sure[0, 0, 0, 0] = 0.0
    return Volume(sure, matrix), Volume(labels, matrix)


def test_the_most_doubtful_region_comes_first_at_its_place_in_ras(any_geometry: Matrix) -> None:
    sure, labels = doubtful(any_geometry)
    voxel = abs(np.linalg.det(any_geometry[:3, :3]))
    found = doubtful_slices(sure, labels, LABELS, axis=0, smallest_mm3=1.5 * voxel)
    assert [s.segments for s in found] == [("structure 2",), ("structure 1",)]
    first, second = found
    assert first.score == pytest.approx(27 * 0.9 * voxel, rel=1e-5)
    assert second.size_mm3 == pytest.approx(30 * voxel)
    assert (second.axis, second.index) == (0, 4)
    np.testing.assert_allclose(second.position_ras, (any_geometry @ (6, 6, 4, 1))[:3])
    # The flat region shows most of its doubt in a slice across i.
    assert [s.axis for s in doubtful_slices(sure, labels, LABELS, smallest_mm3=1.5 * voxel)][1] == 2


def test_where_nothing_is_doubtful_there_is_no_slice() -> None:
    sure, labels = doubtful(np.eye(4))
    assert doubtful_slices(sure.with_array(np.ones_like(sure.array)), labels, LABELS) == []
    elsewhere = Volume(labels.array, GEOMETRIES["oblique"]())
    with pytest.raises(InputError, match="different grids"):
        doubtful_slices(sure, elsewhere, LABELS)


def test_mirrored_runs_come_back_onto_the_volumes_grid() -> None:
    """Of a network that sees a voxel alone no flip changes the answer; of a random one each does."""
    from plans import ByIntensity

    generator = np.random.default_rng(0)
    volume = Volume(generator.normal(100, 60, (1, 18, 20, 22)).astype(np.float32), GEOMETRIES["oblique-left-handed"]())
    plan = small_plan(spacing=(2.0, 1.0, 0.8), transpose=(2, 0, 1))
    for network, same in ((ByIntensity(), True), (build_network(plan.architecture, 1, 3), False)):
        plan = small_plan(spacing=(0.8, 2.0, 1.0), transpose=(2, 0, 1))
        predictor = Predictor(plan, TWO_LABELS, [network], mirror_axes=(0, 1, 2), orientation="LPS")
        runs = list(mirrored_probabilities(predictor, volume))
        assert len(runs) == 4
        assert all(run.same_grid(volume) for run in runs)
        apart = [float(np.abs(run.array - runs[0].array).max()) for run in runs[1:]]
        assert (max(apart) < 1e-3) if same else (min(apart) > 1e-3)
