"""A simulated user corrects results click by click: how much each click gains, and how long it takes."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt, gaussian_filter, label

from ReCoKDLib.image_io import read_volume
from ReCoKDLib.interaction.corrections import Click
from ReCoKDLib.interaction.session import RefineSession
from ReCoKDLib.labels import LabelSet, Segment
from ReCoKDLib.prediction import Predictor
from ReCoKDLib.students import find_student
from ReCoKDLib.volume import Volume

Array = npt.NDArray[Any]

STUDENT = "hippocampus-x4"


def next_click(labels: Volume, truth: Volume, label_set: LabelSet) -> Click | None:
    """A click at the centre of the largest connected error, None where there is no error.

    That is its deepest point, of several the one nearest to its centre of gravity: most errors are one voxel thick.

    An error is a set of voxels, connected over faces, of one true label that all have the same other one.
    """
    found, true = labels.array[0], truth.array[0]
    wrong = found != true
    best = np.zeros(found.shape, dtype=bool)
    pairs = np.unique(np.stack([true[wrong], found[wrong]]), axis=1).T
    for is_value, was_value in pairs:
        parts, number = label((true == is_value) & (found == was_value))
        sizes = np.bincount(parts.ravel(), minlength=number + 1)[1:]
        if sizes.max(initial=0) > best.sum():
            best = parts == 1 + int(sizes.argmax())
    if not best.any():
        return None
    # Beyond the volume's faces nothing is wrong.
    depth = distance_transform_edt(np.pad(best, 1), sampling=labels.spacing)[1:-1, 1:-1, 1:-1]
    deepest = np.argwhere(depth > depth.max() - 1e-6)
    away = ((deepest - np.argwhere(best).mean(axis=0)) * labels.spacing) ** 2
    k, j, i = deepest[int(away.sum(axis=1).argmin())].tolist()
    ras = (labels.ijk_to_ras @ (i, j, k, 1))[:3]
    names = {segment.value: segment.name for segment in label_set.segments}
    is_value, was_value = int(true[k, j, i]), int(found[k, j, i])
    return Click(tuple(ras), names[is_value or was_value], inside=is_value > 0)


def mean_dice(labels: Volume, truth: Volume, label_set: LabelSet) -> float:
    """Mean over the segments; 1 for one that is in neither."""
    scores = []
    for segment in label_set.segments:
        a, b = labels.array == segment.value, truth.array == segment.value
        together = int(a.sum()) + int(b.sum())
        scores.append(2 * int((a & b).sum()) / together if together else 1.0)
    return float(np.mean(scores))


AFTER = (0, 1, 2, 3, 5, 10)
GOAL = 0.90
WIPED = 1  # the label value of the class that start (c) lacks


@dataclass(frozen=True)
class Case:
    """One volume with its truth and what a student says."""

    volume: Volume
    truth: Volume
    labels: Volume
    probabilities: Volume | None


@dataclass(frozen=True)
class Course:
    """One case under correction.

    Attributes:
        dice: Mean Dice after 0, 1, 2, ... clicks.
        wiped_dice: Dice of the class that start (c) lacks, after as many clicks.
        seconds: Of each click.
    """

    dice: tuple[float, ...]
    wiped_dice: tuple[float, ...]
    seconds: tuple[float, ...]

    @property
    def clicks_to_goal(self) -> int | None:
        """How many clicks it took to a mean Dice of 0.90, None if it was not reached."""
        return next((clicks for clicks, dice in enumerate(self.dice) if dice >= GOAL), None)


def course(case: Case, label_set: LabelSet, clicks: int = AFTER[-1]) -> Course:
    """Correct a case click by click."""
    session = RefineSession(case.volume, case.labels, label_set, probabilities=case.probabilities)
    wiped = LabelSet(tuple(s for s in label_set.segments if s.value == WIPED))
    dice, wiped_dice, seconds = [], [], []
    for number in range(clicks + 1):
        dice.append(mean_dice(session.labels, case.truth, label_set))
        wiped_dice.append(mean_dice(session.labels, case.truth, wiped))
        click = next_click(session.labels, case.truth, label_set)
        if number < clicks and click is not None:
            begun = time.perf_counter()
            session.add(click)
            seconds.append(time.perf_counter() - begun)
    return Course(tuple(dice), tuple(wiped_dice), tuple(seconds))


def starts(case: Case) -> dict[str, Case]:
    """The situations that the user begins with."""
    none = case.labels.with_array(np.zeros_like(case.labels.array))
    wiped = case.labels.with_array(np.where(case.labels.array == WIPED, 0, case.labels.array))
    unseen = None
    if case.probabilities is not None:
        array = case.probabilities.array.copy()
        array[0] += array[WIPED]
        array[WIPED] = 0
        unseen = case.probabilities.with_array(array)
    return {
        "(a) the student's result": case,
        "(b) empty segmentation": replace(case, labels=none),
        "(c) one class wiped out": replace(case, labels=wiped),
        "(b) without probabilities": replace(case, labels=none, probabilities=None),
        "(c) unknown to the student": replace(case, labels=wiped, probabilities=unseen),
    }


def table_of_gain(cases: Iterable[Case], label_set: LabelSet) -> str:
    """A markdown table: one row for each start."""
    courses: dict[str, list[Course]] = {}
    for case in cases:
        for name, start in starts(case).items():
            courses.setdefault(name, []).append(course(start, label_set))
    head = [
        *(f"Dice after {n}" for n in AFTER),
        f"clicks to {GOAL:.2f}",
        "single clicks that lowered Dice",
        "lost class after 3",
    ]
    lines = [f"| start | {' | '.join(head)} |", f"|---|{'---|' * len(head)}"]
    for name, done in courses.items():
        dice = np.array([c.dice for c in done])
        steps = np.diff(dice, axis=1)
        needed = [c.clicks_to_goal for c in done]
        reached = [n for n in needed if n is not None]
        median = f"{np.median([99 if n is None else n for n in needed]):.0f}".replace("99", f"> {AFTER[-1]}")
        row = [f"{100 * dice[:, n].mean():.2f}" for n in AFTER]
        row.append(f"median {median} ({len(reached)} of {len(done)} cases)")
        row.append(f"{int((steps < -1e-9).sum())} of {steps.size} (worst {100 * min(0, steps.min()):.2f})")
        row.append(f"{100 * np.mean([c.wiped_dice[3] for c in done]):.1f}" if name.startswith("(c)") else "")
        lines.append(f"| {name} | {' | '.join(row)} |")
    return "\n".join(lines)


def hippocampus_cases(data: Path, number: int | None, part: str = "val") -> Iterator[Case]:
    """The cases of a part of the split with the shipped student's answers."""
    predictor = Predictor.from_package(find_student(STUDENT), "cpu")
    names = json.loads((data / "split_hippocampus.json").read_text(encoding="utf-8"))[part]
    for name in names[:number]:
        folder = data / "Dataset004_Hippocampus"
        volume = read_volume(folder / "imagesTr" / f"{name}_0000.nii.gz")
        truth = read_volume(folder / "labelsTr" / f"{name}.nii.gz")
        found = predictor.predict(volume, probabilities=True)
        assert found.probabilities is not None
        half = found.probabilities.with_array(found.probabilities.array.astype(np.float16))
        yield Case(volume, truth, found.labels, half)


def large_case(
    image: Array, labels: Array, shape: tuple[int, int, int], spacing: tuple[float, float, float], *, tiled: bool
) -> tuple[Volume, Volume, Volume]:
    """A volume of any size from a small one: volume, labels and made-up probabilities (float16).

    ``spacing`` is along (i, j, k), mm.
    """

    def grown(array: Array) -> Array:
        for axis, (old, new) in enumerate(zip(array.shape, shape, strict=True)):
            index = np.arange(new) % old if tiled else np.arange(new) * old // new
            array = np.take(array, index, axis=axis)
        return array

    soft = [gaussian_filter((labels == value).astype(np.float32), 1.5) for value in range(int(labels.max()) + 1)]
    probabilities = np.stack([grown(s.astype(np.float16)) for s in soft])
    matrix = np.diag([*spacing, 1.0])
    return Volume(grown(image)[None], matrix), Volume(grown(labels)[None], matrix), Volume(probabilities, matrix)


def seconds_a_click(volume: Volume, labels: Volume, probabilities: Volume | None, clicks: int) -> Array:
    """(clicks, 2) seconds and processor seconds of clicks on random voxels beside borders, into and out of segments."""
    values = range(1, int(labels.array.max()) + 1)
    label_set = LabelSet(tuple(Segment(f"structure {v}", v, (v,), (1.0, 0.0, 0.0)) for v in values))
    session = RefineSession(volume, labels, label_set, probabilities=probabilities)
    generator = np.random.default_rng(0)
    shape = np.array(volume.shape)
    seconds: list[tuple[float, float]] = []
    while len(seconds) < clicks:
        kji = generator.integers(0, shape)
        beside = np.clip(kji + generator.integers(-2, 3, 3), 0, shape - 1)
        here, there = (int(session.labels.array[(0, *p)]) for p in (kji, beside))
        if here == there:
            continue
        ras = (volume.ijk_to_ras @ (*kji[::-1], 1))[:3]
        segment = label_set.segments[(there or here) - 1].name
        begun, used = time.perf_counter(), time.process_time()
        session.add(Click(tuple(ras), segment, inside=there > 0))
        seconds.append((time.perf_counter() - begun, time.process_time() - used))
    return np.array(seconds)


def table_of_seconds(data: Path, clicks: int) -> str:
    """A markdown table: two rows for each volume, with a student's probabilities and by the image alone."""
    generator = np.random.default_rng(0)
    image = gaussian_filter(generator.normal(size=(64, 64, 64)), 4, mode="wrap")
    labels = np.digitize(image, np.quantile(image, [0.7, 0.9])).astype(np.uint8)
    ct, seg = (read_volume(data / "ct" / f"{name}.nii.gz").array[0] for name in ("example_ct_sm", "example_seg"))
    largest = np.argsort(np.bincount(seg.ravel().astype(int))[1:])[::-1][:8] + 1
    organs = np.zeros(seg.shape, dtype=np.uint8)
    for number, value in enumerate(largest.tolist(), 1):
        organs[seg == value] = number
    made = {"synthetic": (image, labels, True), "CT example": (ct, organs, False)}
    usual, fine, thick = (0.8, 0.8, 1.2), (0.3, 0.3, 0.3), (0.7, 0.7, 5.0)
    lines = [
        "| volume | voxels (i x j x k) | mm | corrected by | median s | 95th percentile s | 95th, processor s |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, shape, spacing in (
        ("synthetic", (64, 64, 64), usual),
        ("synthetic", (128, 128, 128), usual),
        ("synthetic", (128, 128, 128), fine),
        ("synthetic", (128, 128, 128), thick),
        ("synthetic", (300, 512, 512), usual),
        ("CT example", (300, 512, 512), usual),
    ):
        picture, classes, tiled = made[name]
        volume, segments, probabilities = large_case(picture, classes, shape, spacing, tiled=tiled)
        for by, heads in (("probabilities", probabilities), ("image", None)):
            seconds = seconds_a_click(volume, segments, heads, clicks)
            median, high = np.percentile(seconds[:, 0], [50, 95])
            size, mm = " x ".join(map(str, shape[::-1])), " x ".join(map(str, spacing))
            processor = np.percentile(seconds[:, 1], 95)
            lines.append(f"| {name} | {size} | {mm} | {by} | {median:.3f} | {high:.3f} | {processor:.3f} |")
    return "\n".join(lines)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[3] / "shared" / "data")
    parser.add_argument("--cases", type=int, help="only so many of the validation cases")
    parser.add_argument("--clicks", type=int, default=100, help="timed clicks in each volume")
    given = parser.parse_args()
    print(table_of_gain(hippocampus_cases(given.data, given.cases), find_student(STUDENT).label_set), flush=True)
    print()
    print(table_of_seconds(given.data, given.clicks))


if __name__ == "__main__":
    main()
