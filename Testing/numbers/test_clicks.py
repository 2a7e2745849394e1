"""The simulated user of the benchmark, on the sample cases that ship."""

from __future__ import annotations

import numpy as np
import pytest

from clicks import Case, course, mean_dice, next_click, starts
from ReCoKDLib.image_io import read_volume
from ReCoKDLib.package import ModelPackage
from ReCoKDLib.segment import SegmentationResult, segment
from ReCoKDLib.students import find_student, shipped_folder

SAMPLES = shipped_folder() / "SampleCases"
NAMES = ("hippocampus_041", "hippocampus_053")


@pytest.fixture(scope="module")
def student() -> ModelPackage:
    return find_student("hippocampus-x4")


@pytest.fixture(scope="module")
def results(student: ModelPackage) -> list[SegmentationResult]:
    volumes = [read_volume(SAMPLES / f"{name}_0000.nii.gz") for name in NAMES]
    return [segment(volume, student, probabilities=True, device="cpu") for volume in volumes]


@pytest.fixture(scope="module")
def cases(results: list[SegmentationResult]) -> list[Case]:
    truths = [read_volume(SAMPLES / f"{name}_label.nii.gz") for name in NAMES]
    return [Case(r.volume, t, r.labels, r.probabilities) for r, t in zip(results, truths, strict=True)]


def test_clicks_raise_dice_from_every_start(cases: list[Case], student: ModelPackage) -> None:
    gained = {name: [] for name in starts(cases[0])}  # type: dict[str, list[tuple[float, ...]]]
    for case in cases:
        for name, start in starts(case).items():
            gained[name].append(course(start, student.label_set, 5).dice)
    means = {name: np.mean(dice, axis=0) for name, dice in gained.items()}
    for dice in means.values():
        assert dice[5] > dice[0]
    assert means["(a) the student's result"][5] > means["(a) the student's result"][0] + 0.005
    assert means["(b) empty segmentation"][3] > 0.8
    assert means["(c) one class wiped out"][3] > 0.8


def test_the_user_clicks_the_same_every_time_and_stops_when_all_is_right(
    cases: list[Case], student: ModelPackage
) -> None:
    case = cases[0]
    first, second = (next_click(case.labels, case.truth, student.label_set) for _ in range(2))
    assert first is not None
    assert first == second
    assert next_click(case.truth, case.truth, student.label_set) is None
    assert mean_dice(case.truth, case.truth, student.label_set) == 1


def test_probabilities_come_with_the_result_and_fit_its_labels(results: list[SegmentationResult]) -> None:
    for result in results:
        assert result.probabilities is not None
        assert result.probabilities.array.dtype == np.float16
        assert result.probabilities.channels == result.label_set.number_of_heads
        assert result.probabilities.same_grid(result.labels)
        assert (result.probabilities.array.argmax(0) == result.labels.array[0]).mean() > 0.999


def test_what_is_not_wanted_counts_as_background(results: list[SegmentationResult], student: ModelPackage) -> None:
    whole = results[0]
    part = segment(whole.volume, student, labels=["Posterior"], probabilities=True, device="cpu")
    assert part.probabilities is not None
    assert whole.probabilities is not None
    assert part.probabilities.channels == part.label_set.number_of_heads == 2
    np.testing.assert_array_equal(part.probabilities.array[1], whole.probabilities.array[2])
    np.testing.assert_allclose(part.probabilities.array.astype(np.float32).sum(0), 1, atol=2e-3)
    assert segment(whole.volume, student, device="cpu").probabilities is None
