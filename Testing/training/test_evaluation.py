"""Scores against loops over voxels and surface elements, and the evaluation of real predictors."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from skimage.measure import marching_cubes, mesh_surface_area

from geometries import GEOMETRIES, Matrix, axis_aligned
from raw_dataset import make_raw_dataset
from ReCoKDLib.errors import Cancelled, DatasetError, InputError, OutputError
from ReCoKDLib.labels import LabelSet
from ReCoKDLib.prediction import Predictor
from ReCoKDLib.volume import Volume
from ReCoKDTrainingLib.datasets import NnunetRawDataset
from ReCoKDTrainingLib.datasets.case import FileReader
from ReCoKDTrainingLib.evaluation import CaseResult, EvaluationResult, evaluate_cases
from ReCoKDTrainingLib.evaluation_report import markdown_table, write_reports
from ReCoKDTrainingLib.fingerprint import fingerprint_dataset
from ReCoKDTrainingLib.planner import plan_dataset
from ReCoKDTrainingLib.scores import SegmentScore, evaluate

Array = npt.NDArray[np.uint8]

TWO = LabelSet.from_dataset_json({"labels": {"background": 0, "anterior": 1, "posterior": 2}})
WITH_IGNORE = LabelSet.from_dataset_json({"labels": {"background": 0, "anterior": 1, "posterior": 2, "ignore": 3}})
REGIONS = LabelSet.from_dataset_json(
    {"labels": {"background": 0, "whole": [1, 2], "core": [2]}, "regions_class_order": [1, 2]}
)


def label_map(array: Array, ijk_to_ras: Matrix | None = None) -> Volume:
    return Volume(array[None], axis_aligned() if ijk_to_ras is None else ijk_to_ras, "labels")


def scaled(spacing: tuple[float, float, float]) -> Matrix:
    """RAS with the given (k, j, i) voxel size."""
    return np.diag([*spacing[::-1], 1.0])


def blob(shape: tuple[int, int, int], centre: tuple[float, float, float], radii: tuple[float, float, float]) -> Array:
    place = np.stack(np.meshgrid(*(np.arange(n, dtype=float) for n in shape), indexing="ij"))
    offset = (place - np.reshape(centre, (3, 1, 1, 1))) / np.reshape(radii, (3, 1, 1, 1))
    return np.asarray((offset**2).sum(0) <= 1, dtype=np.uint8)


# --- the same by loops ------------------------------------------------------------------------------------------------


def border_voxels(mask: Array) -> list[tuple[int, int, int]]:
    """Voxels of the mask with a face neighbour outside it; outside the image nothing is inside."""
    padded = np.pad(mask, 1)
    faces = [(1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)]
    return [
        (k, j, i)
        for k, j, i in product(*(range(n) for n in mask.shape))
        if mask[k, j, i] and not all(padded[k + 1 + a, j + 1 + b, i + 1 + c] for a, b, c in faces)
    ]


def surface_elements(mask: Array, spacing: tuple[float, float, float]) -> list[tuple[tuple[int, int, int], float]]:
    """Corners where voxels in and out of the mask meet, with the area in mm2 of the surface between them."""
    padded = np.pad(mask, 1).astype(float)
    elements = []
    for k, j, i in product(*(range(n - 1) for n in padded.shape)):
        cell = padded[k : k + 2, j : j + 2, i : i + 2]
        if 0 < cell.sum() < 8:
            vertices, faces, *_ = marching_cubes(cell, 0.5, spacing=spacing)
            elements.append(((k, j, i), float(mesh_surface_area(vertices, faces))))
    return elements


def nearest(
    points: list[tuple[int, int, int]], others: list[tuple[int, int, int]], spacing: tuple[float, float, float]
) -> list[float]:
    return [
        min(math.sqrt(sum(((a - b) * s) ** 2 for a, b, s in zip(p, q, spacing, strict=True))) for q in others)
        for p in points
    ]


def percentile_95(values: list[float]) -> float:
    ordered = sorted(values)
    place = 0.95 * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def loops(
    predicted: Array, referred: Array, spacing: tuple[float, float, float], tolerance: float
) -> tuple[float, float, float]:
    common = sum(bool(a and b) for a, b in zip(predicted.flat, referred.flat, strict=True))
    dice = 2 * common / (int(predicted.sum()) + int(referred.sum()))
    a, b = border_voxels(predicted), border_voxels(referred)
    hd95 = max(percentile_95(nearest(a, b, spacing)), percentile_95(nearest(b, a, spacing)))
    ours, theirs = surface_elements(predicted, spacing), surface_elements(referred, spacing)
    within = 0.0
    for one, other in ((ours, theirs), (theirs, ours)):
        distances = nearest([place for place, _ in one], [place for place, _ in other], spacing)
        within += sum(area for (_, area), d in zip(one, distances, strict=True) if d <= tolerance + 1e-4)
    return dice, hd95, within / sum(area for _, area in ours + theirs)


PAIRS: dict[str, tuple[Array, Array]] = {
    "shifted": (blob((10, 12, 11), (4, 5, 5), (3, 4, 3)), blob((10, 12, 11), (5, 6, 5), (3, 3, 4))),
    "at the image's edge": (blob((8, 9, 10), (0, 8, 4), (4, 4, 4)), blob((8, 9, 10), (1, 8, 5), (3, 5, 4))),
    "apart": (blob((9, 9, 9), (2, 2, 2), (2, 2, 1.5)), blob((9, 9, 9), (6, 6, 6), (1.5, 2, 2))),
    "a stray voxel": (blob((9, 9, 12), (4, 4, 4), (3, 3, 3)), blob((9, 9, 12), (4, 4, 4), (3, 3, 3))),
}
PAIRS["a stray voxel"][0][8, 8, 11] = 1


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 0.7, 0.5), (0.8, 1.1, 2.4)])
@pytest.mark.parametrize("pair", PAIRS)
def test_scores_equal_loops(pair: str, spacing: tuple[float, float, float]) -> None:
    predicted, referred = PAIRS[pair]
    score = evaluate(label_map(predicted, scaled(spacing)), label_map(referred, scaled(spacing)), TWO)[0]
    dice, hd95, surface_dice = loops(predicted, referred, spacing, 1.0)
    assert score.dice == pytest.approx(dice, abs=1e-12)
    assert score.hd95 == pytest.approx(hd95, rel=1e-6)
    assert score.surface_dice == pytest.approx(surface_dice, abs=1e-5)


def test_equal_label_maps_agree_perfectly() -> None:
    labels = blob((9, 9, 9), (4, 4, 4), (3, 3, 3)) + blob((9, 9, 9), (4, 4, 4), (1, 1, 2))
    for score in evaluate(label_map(labels), label_map(labels.copy()), TWO):
        assert (score.dice, score.hd95, score.surface_dice) == (1.0, 0.0, 1.0)


def test_volumes_are_in_millilitres() -> None:
    """A cube of ten voxels' edge of 0.5 x 0.8 x 1.2 mm has 0.48 ml."""
    cube = np.pad(np.ones((10, 10, 10), np.uint8), 2)
    score = evaluate(label_map(cube, scaled((0.5, 0.8, 1.2))), label_map(cube, scaled((0.5, 0.8, 1.2))), TWO)[0]
    assert score.reference_ml == score.prediction_ml == pytest.approx(0.48)


def test_segments_in_one_or_none() -> None:
    anterior = blob((9, 9, 9), (4, 4, 4), (3, 3, 3))
    first, second = evaluate(label_map(anterior), label_map(anterior * 2), TWO)
    assert (first.present, second.present) == ("prediction", "reference")
    for score in (first, second):
        assert (score.dice, score.hd95, score.surface_dice) == (0.0, math.inf, 0.0)
    neither = evaluate(label_map(anterior), label_map(anterior), TWO)[1]
    assert neither.present == "neither"
    assert all(math.isnan(value) for value in (neither.dice, neither.hd95, neither.surface_dice))


def test_regions_overlap() -> None:
    """A core that is taken for the rest of the whole: the whole is right, the core is missed."""
    whole = blob((11, 11, 11), (5, 5, 5), (4, 4, 4))
    core = blob((11, 11, 11), (5, 5, 5), (2, 2, 2))
    scores = evaluate(label_map(whole), label_map(whole + core), REGIONS)
    assert [score.segment for score in scores] == ["whole", "core"]
    assert [score.dice for score in scores] == [1.0, 0.0]


def test_ignored_voxels_do_not_count() -> None:
    reference = blob((10, 10, 10), (4, 4, 4), (3, 3, 3))
    predicted = reference.copy()
    predicted[8:] = 1  # wrong, but nobody knows there
    assert evaluate(label_map(predicted), label_map(reference), TWO)[0].dice < 0.8
    reference[8:] = 3
    score = evaluate(label_map(predicted), label_map(reference), WITH_IGNORE)[0]
    assert (score.dice, score.hd95, score.surface_dice) == (1.0, 0.0, 1.0)


def test_tolerance_bears_rounded_headers() -> None:
    """One voxel off is 1 mm off, also where the header says 1.0000001 mm."""
    predicted, referred = np.zeros((12, 6, 6), np.uint8), np.zeros((12, 6, 6), np.uint8)
    predicted[3:8], referred[4:9] = 1, 1
    for size in (1.0, 1.0000001, 0.9999999):
        matrix = scaled((size, 1.0, 1.0))
        assert evaluate(label_map(predicted, matrix), label_map(referred, matrix), TWO)[0].surface_dice == 1.0
    strict = evaluate(label_map(predicted), label_map(referred), TWO, tolerance=0.5)[0].surface_dice
    assert strict < 0.8


def test_orientation_does_not_matter() -> None:
    predicted, referred = PAIRS["shifted"]
    for make in GEOMETRIES.values():
        matrix = make()
        spacing = label_map(predicted, matrix).spacing
        here = evaluate(label_map(predicted, matrix), label_map(referred, matrix), TWO)[0]
        straight = evaluate(label_map(predicted, scaled(spacing)), label_map(referred, scaled(spacing)), TWO)[0]
        for metric in ("dice", "hd95", "surface_dice", "reference_ml"):
            assert getattr(here, metric) == pytest.approx(getattr(straight, metric), rel=1e-6)


def test_other_geometry_is_refused() -> None:
    labels = blob((9, 9, 9), (4, 4, 4), (3, 3, 3))
    for other in (label_map(labels, scaled((1.0, 1.0, 1.1))), label_map(labels[1:])):
        with pytest.raises(DatasetError, match=r"different grids.*same image"):
            evaluate(label_map(labels), other, TWO)


def test_senseless_input_is_refused() -> None:
    labels = label_map(blob((9, 9, 9), (4, 4, 4), (3, 3, 3)))
    two_channels = labels.with_array(np.concatenate([labels.array] * 2))
    with pytest.raises(InputError, match="prediction has 2 channels"):
        evaluate(two_channels, labels, TWO)
    with pytest.raises(InputError, match="0 mm or more"):
        evaluate(labels, labels, TWO, tolerance=-1)


# --- whole evaluations ------------------------------------------------------------------------------------------------


class ByBrightness(torch.nn.Module):
    """Labels by the nearest of the mean intensities that the made-up dataset gives to 0, 1 and 2."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return -torch.cat([(images - 300 - 60 * value).abs() for value in range(3)], 1)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> NnunetRawDataset:
    folder = make_raw_dataset(
        tmp_path_factory.mktemp("raw") / "Dataset905_Blobs",
        cases=3,
        channel_names=("noNorm",),
        geometries=("oblique-left-handed",),
    )
    return NnunetRawDataset(folder)


@pytest.fixture(scope="module")
def predictor(dataset: NnunetRawDataset) -> Predictor:
    fingerprint = fingerprint_dataset(dataset)
    plan = plan_dataset(fingerprint, dataset.channel_names, dataset.label_set)
    return Predictor(plan, dataset.label_set, [ByBrightness()])


@pytest.fixture(scope="module")
def result(dataset: NnunetRawDataset, predictor: Predictor) -> EvaluationResult:
    return evaluate_cases(dataset.cases, predictor)


def test_cases_go_through_the_predictor(dataset: NnunetRawDataset, predictor: Predictor) -> None:
    seen: list[float] = []
    result = evaluate_cases(dataset.cases, predictor, measure_memory=True, progress=seen.append)
    assert [case.identifier for case in result.cases] == ["blobs_000", "blobs_001", "blobs_002"]
    assert result.segments == ("anterior", "posterior")
    assert result.mean("dice") > 0.98
    assert result.mean("surface_dice") > 0.9
    assert all(case.seconds > 0 for case in result.cases)
    assert all(case.peak_memory is None or case.peak_memory > 1 << 20 for case in result.cases)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    # Each case as a user would have it.
    case = dataset.cases[0]
    reference = case.labels(case.volume())
    assert reference is not None
    assert result.cases[0].scores == evaluate(predictor.predict(case.volume()).labels, reference, dataset.label_set)


def test_evaluation_can_be_cancelled(dataset: NnunetRawDataset, predictor: Predictor) -> None:
    with pytest.raises(Cancelled):
        evaluate_cases(dataset.cases, predictor, cancelled=lambda: True)


def test_unlabelled_cases_are_refused(dataset: NnunetRawDataset, predictor: Predictor) -> None:
    case = dataset.cases[0]
    assert isinstance(case.reader, FileReader)
    unlabelled = dataclasses.replace(case, reader=FileReader(case.reader.images, None))
    with pytest.raises(DatasetError, match=r"blobs_000 has no label map"):
        evaluate_cases([unlabelled], predictor)
    with pytest.raises(DatasetError, match="no cases"):
        evaluate_cases([], predictor)


def score(segment: str, dice: float, hd95: float = 1.0, prediction_ml: float = 2.0) -> SegmentScore:
    return SegmentScore(segment, dice, hd95, dice, 2.0, prediction_ml)


MISSED = score("b", 0.0, math.inf, 0.0)
ABSENT = SegmentScore("b", math.nan, math.nan, math.nan, 0.0, 0.0)
SOME = EvaluationResult(
    ("a", "b"),
    (
        CaseResult("one", (score("a", 0.8), score("b", 0.6, 3.0)), 2.0, 1000),
        CaseResult("two", (score("a", 0.6, 2.0), MISSED), 1.0, 3000),
        CaseResult("three", (score("a", 0.7), ABSENT), 4.0, None),
    ),
    device="cpu",
)


def test_summary_by_hand() -> None:
    summary = SOME.summary()
    assert summary["segments"]["a"]["dice"] == {"mean": 0.7, "sd": 0.1, "median": 0.7, "cases": 3}
    # The missed case counts with Dice 0, the absent one not at all.
    assert summary["segments"]["b"]["dice"]["mean"] == 0.3
    assert summary["segments"]["b"]["dice"]["cases"] == 2
    # The missed case's distance is told beside the mean.
    assert summary["segments"]["b"]["hd95"] == {"mean": 3.0, "sd": None, "median": 3.0, "cases": 1, "infinite": 1}
    assert summary["mean"]["dice"] == 0.5
    assert (summary["median_seconds"], summary["peak_memory_bytes"]) == (2.0, 3000)


def test_nothing_to_average_is_null() -> None:
    nothing = EvaluationResult(("b",), (CaseResult("one", (ABSENT,), 1.0),))
    summary = json.loads(json.dumps(nothing.summary(), allow_nan=False))
    assert summary["mean"] == {"dice": None, "hd95": None, "surface_dice": None}


@pytest.mark.parametrize("make", [lambda result: SOME, lambda result: result], ids=["made up", "real"])
def test_json_keeps_everything(make: object, result: EvaluationResult) -> None:
    original = make(result)  # type: ignore[operator]
    text = json.dumps(original.to_dict(), allow_nan=False)
    read = EvaluationResult.from_dict(json.loads(text))
    assert read.to_dict() == original.to_dict()
    for metric in ("dice", "hd95", "surface_dice"):
        for segment in original.segments:
            np.testing.assert_allclose(read.values(metric, segment), original.values(metric, segment), rtol=1e-5)


def test_damaged_json_is_refused() -> None:
    values = SOME.to_dict()
    del values["cases"][0]["segments"]["a"]["dice"]
    with pytest.raises(DatasetError, match="malformed"):
        EvaluationResult.from_dict(values)


def test_reports(result: EvaluationResult, tmp_path: Path) -> None:
    folder = tmp_path / "größe, mit Leerzeichen"
    paths = write_reports({"teacher": result, "student | x1/4": result}, folder)
    assert {path.name for path in folder.iterdir()} == {path.name for path in paths}
    values = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    assert EvaluationResult.from_dict(values["models"]["teacher"]).to_dict() == result.to_dict()
    with (folder / "evaluation.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 2 * 3 * 2
    assert rows[0]["model"] == "teacher"
    assert rows[0]["case"] == "blobs_000"
    assert float(rows[1]["dice"]) == pytest.approx(result.values("dice", "posterior")[0], rel=1e-5)
    assert (folder / "evaluation.png").read_bytes().startswith(b"\x89PNG")
    table = (folder / "evaluation.md").read_text(encoding="utf-8").splitlines()
    assert len(table) == 2 + 2 * 3
    assert len({line.replace("\\|", "").count("|") for line in table}) == 1


def test_csv_tells_missed_from_absent(tmp_path: Path) -> None:
    write_reports({"m": SOME}, tmp_path)
    with (tmp_path / "evaluation.csv").open(encoding="utf-8", newline="") as stream:
        rows = {(row["case"], row["segment"]): row for row in csv.DictReader(stream)}
    missed, absent = rows["two", "b"], rows["three", "b"]
    assert (missed["present"], missed["dice"], missed["hd95_mm"]) == ("reference", "0", "inf")
    assert (absent["present"], absent["dice"], absent["hd95_mm"]) == ("neither", "", "")


def test_table_counts_infinite_distances() -> None:
    rows = markdown_table({"m": SOME}).splitlines()
    assert rows[2] == "| m | a | 3 | 0.700 ± 0.100 | 1.33 ± 0.58 | 0.700 ± 0.100 |  |"
    assert rows[3].split("|")[5].strip() == "3.00 (1 infinite)"
    assert rows[4].split("|")[4].strip() == "**0.500**"


def test_figure_shows_what_lies_outside(tmp_path: Path) -> None:
    """Extreme and missing values must not break the figure, which grows with the number of segments."""
    from matplotlib.image import imread

    def made(segments: int) -> EvaluationResult:
        names = tuple(f"structure {n}" for n in range(segments))
        cases = [
            CaseResult(str(n), tuple(score(name, 0.8 + 0.01 * n, 1.0 + 0.1 * n) for name in names), 1.0)
            for n in range(8)
        ]
        far = tuple(
            dataclasses.replace(s, dice=0.0, hd95=math.inf if n else 90.0) for n, s in enumerate(cases[0].scores)
        )
        return EvaluationResult(names, (*cases, CaseResult("far", far, 1.0)))

    sizes = []
    for count in (1, 20):
        write_reports({"m": made(count)}, tmp_path / str(count))
        picture = imread(tmp_path / str(count) / "evaluation.png")
        assert picture[..., :3].std() > 0.05
        sizes.append(picture.shape[0])
    assert sizes[1] > 2 * sizes[0]


def test_existing_reports_are_kept(tmp_path: Path) -> None:
    write_reports({"m": SOME}, tmp_path)
    before = (tmp_path / "evaluation.json").read_bytes()
    with pytest.raises(OutputError, match="exists already"):
        write_reports({"other": SOME}, tmp_path)
    assert (tmp_path / "evaluation.json").read_bytes() == before
    write_reports({"other": SOME}, tmp_path, overwrite=True)
    assert (tmp_path / "evaluation.json").read_bytes() != before


def test_incomparable_models_are_refused(tmp_path: Path) -> None:
    fewer = dataclasses.replace(SOME, cases=SOME.cases[:2])
    with pytest.raises(DatasetError, match=r"a and b were evaluated on different cases"):
        write_reports({"a": SOME, "b": fewer}, tmp_path)
    with pytest.raises(DatasetError, match="different tolerances"):
        write_reports({"a": SOME, "b": dataclasses.replace(SOME, tolerance=2.0)}, tmp_path)
    with pytest.raises(DatasetError, match="at least one model"):
        write_reports({}, tmp_path)
    assert not any(tmp_path.iterdir())
