"""Teacher and student on the same held-out cases, and where both are wrong in the same way."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ReCoKDLib.errors import ReCoKDError
from ReCoKDLib.labels import LabelSet, Segment
from ReCoKDLib.package import ModelPackage
from ReCoKDLib.prediction import Predictor
from ReCoKDLib.table import segment_mask
from ReCoKDLib.volume import Volume

from .datasets import Case, Dataset, load_case
from .evaluation import EvaluationResult, evaluate_cases
from .model_fit import for_evaluation
from .progress import Progress
from .runs import Run

WORST = 3


@dataclass(frozen=True)
class ModelErrors:
    """Errors of one model in one structure, over all cases.

    Attributes:
        too_much: Voxels wrongly given to the structure, by the reference's voxels.
        too_little: Voxels of the structure that are missed, by the reference's voxels.
    """

    too_much: float
    too_little: float

    @property
    def bias(self) -> float:
        """Volume too large (> 0) or too small (< 0), by the reference's."""
        return self.too_much - self.too_little


@dataclass(frozen=True)
class SharedErrors:
    """One structure: the teacher's errors, the student's, and what they have in common.

    Attributes:
        segment: The structure.
        teacher: The teacher's errors.
        student: The student's errors.
        inherited: Share of the student's wrong voxels where the teacher is wrong as well (in the same way: both
            are measured against one reference); NaN where the student makes no error.
        dice_correlation: Pearson's correlation of both Dice values over the cases; NaN for fewer than three.
    """

    segment: str
    teacher: ModelErrors
    student: ModelErrors
    inherited: float
    dice_correlation: float


@dataclass(frozen=True)
class WorstCase:
    """A case that the student does badly at.

    Attributes:
        number: Its place among the held-out cases, from 1 (as in ``split.json``); a report names no case.
        dice: The student's mean over the structures.
        volume: The image.
        drawn: Reference and models by name: label map and what to draw of it.
    """

    number: int
    dice: float
    volume: Volume
    drawn: Mapping[str, tuple[Volume, tuple[Segment, ...]]]


@dataclass(frozen=True)
class Comparison:
    """All that was measured at the end of a run.

    Attributes:
        student_name, teacher_name: As their packages call them; no teacher: None.
        results: Evaluations by model name, the teacher's first; in the student's structures.
        shared: One entry for each structure; empty without a teacher.
        worst: The student's worst cases, the worst first.
    """

    student_name: str
    teacher_name: str | None
    results: Mapping[str, EvaluationResult]
    shared: tuple[SharedErrors, ...]
    worst: tuple[WorstCase, ...]

    @property
    def student(self) -> EvaluationResult:
        """The student's evaluation."""
        return self.results[self.student_name]


class _Predictions:
    """Label maps of one model, compressed on disk: those of a hundred large volumes do not fit into memory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()

    def keep(self, index: int, labels: Volume) -> None:
        np.savez_compressed(self._folder / f"{index}.npz", labels=labels.array)

    def load(self, index: int, like: Volume) -> Volume:
        with np.load(self._folder / f"{index}.npz", allow_pickle=False) as archive:
            return like.with_array(archive["labels"])


def compare(package: ModelPackage, run: Run, progress: Progress) -> Comparison:
    """Evaluate the run's package, and its teacher where it has one, on the held-out cases and the device of the run.

    Raises:
        DatasetError: A held-out case contradicts itself.
        Cancelled: The user asked for an end.
    """
    student = package.card.name
    teacher = None if run.teacher is None else run.teacher.card.name
    if teacher == student:
        teacher = f"{teacher} (teacher)"
    ours = package.label_set
    with tempfile.TemporaryDirectory(prefix=".predictions-", suffix=".part", dir=run.settings.output) as kept:
        guesses = _Predictions(Path(kept) / "student")
        middle = 1.0 if run.teacher is None else 0.97
        cases = run.split.validation
        results = {student: _evaluate(package, ours, cases, run, guesses, progress, student, (0.95, middle))}
        known = None if run.teacher is None else _comparable(run, run.teacher, progress)
        if run.teacher is None or teacher is None or run.classes is None or known is None:
            worst = _worst(results[student], run, {student: (guesses, ours.segments)})
            return Comparison(student, None, results, (), worst)
        shown = _Predictions(Path(kept) / "teacher")
        names = {own.name: dict(run.classes.names)[own.name] for own in ours.segments}
        theirs = _in_our_order(known.label_set, ours, names)
        numbers = {case.identifier: case for case in known.cases}
        same = [numbers[case.identifier] for case in cases]
        raw = _evaluate(run.teacher, known.label_set, same, run, shown, progress, teacher, (middle, 1.0))
        results = {teacher: _in_our_names(raw, names), **results}
        models = {teacher: (shown, theirs), student: (guesses, ours.segments)}
        return Comparison(
            student,
            teacher,
            results,
            _shared_errors(results[teacher], results[student], run, models),
            _worst(results[student], run, models),
        )


def _comparable(run: Run, teacher: ModelPackage, progress: Progress) -> Dataset | None:
    """The dataset in the teacher's numbering; None where its regions overlap in another way."""
    try:
        return for_evaluation(teacher, run.dataset)
    except ReCoKDError as error:
        progress.say(f"The teacher is not compared with the student: {error}")
        return None


Models = Mapping[str, tuple[_Predictions, tuple[Segment, ...]]]


def _evaluate(
    package: ModelPackage,
    label_set: LabelSet,
    cases: Sequence[Case],
    run: Run,
    kept: _Predictions,
    progress: Progress,
    name: str,
    part: tuple[float, float],
) -> EvaluationResult:
    progress.stage(f"Evaluating {name}", 1000, part=part)
    return evaluate_cases(
        cases,
        Predictor.from_package(package, run.trainer.device),
        label_set=label_set,
        measure_memory=True,
        seen=kept.keep,
        progress=progress.fraction,
        cancelled=progress.stop,
    )


def _in_our_order(theirs: LabelSet, ours: LabelSet, names: Mapping[str, str]) -> tuple[Segment, ...]:
    """The teacher's segments in the order of the student's, with its names and colours."""
    by_name = {segment.name: segment for segment in theirs.segments}
    return tuple(replace(by_name[names[own.name]], name=own.name, color=own.color) for own in ours.segments)


def _in_our_names(result: EvaluationResult, names: Mapping[str, str]) -> EvaluationResult:
    """The teacher's evaluation in the student's structures: its names and its order."""
    places = [result.segments.index(theirs) for theirs in names.values()]
    cases = tuple(
        replace(
            case,
            scores=tuple(replace(case.scores[at], segment=own) for own, at in zip(names, places, strict=True)),
        )
        for case in result.cases
    )
    return replace(result, segments=tuple(names), cases=cases)


def _shared_errors(
    teacher: EvaluationResult, student: EvaluationResult, run: Run, models: Models
) -> tuple[SharedErrors, ...]:
    label_set = run.dataset.label_set
    # (model, structure, wrongly given or missed or both wrong): voxels; and the reference's
    counts = np.zeros((len(models), len(label_set.segments), 2))
    alike, reference_voxels = (np.zeros(len(label_set.segments)) for _ in range(2))
    for index, case in enumerate(run.split.validation):
        _, reference = load_case(case, label_set, run.plan.channels)
        assert reference is not None, "held-out cases are annotated"
        known = _known(reference, label_set)
        found = [(kept.load(index, reference), segments) for kept, segments in models.values()]
        for place, segment in enumerate(label_set.segments):
            truth = segment_mask(reference.array[0], segment) & known
            reference_voxels[place] += np.count_nonzero(truth)
            wrong = []
            for model, (labels, segments) in enumerate(found):
                guess = segment_mask(labels.array[0], segments[place]) & known
                wrong.append(guess != truth)
                counts[model, place] += np.count_nonzero(guess & ~truth), np.count_nonzero(truth & ~guess)
            alike[place] += np.count_nonzero(wrong[0] & wrong[1])
    shares = counts / np.maximum(reference_voxels, 1)[None, :, None]
    entries = []
    for place, segment in enumerate(label_set.segments):
        of_student = counts[1, place].sum()
        entries.append(
            SharedErrors(
                segment.name,
                ModelErrors(*shares[0, place].tolist()),
                ModelErrors(*shares[1, place].tolist()),
                float(alike[place] / of_student) if of_student else math.nan,
                _correlation(teacher.values("dice", segment.name), student.values("dice", segment.name)),
            )
        )
    return tuple(entries)


def _known(reference: Volume, label_set: LabelSet) -> npt.NDArray[np.bool_]:
    if label_set.ignore_label is None:
        return np.ones(reference.shape, dtype=bool)
    known: npt.NDArray[np.bool_] = reference.array[0] != label_set.ignore_label
    return known


def _correlation(one: npt.NDArray[np.float64], two: npt.NDArray[np.float64]) -> float:
    both = np.isfinite(one) & np.isfinite(two)
    one, two = one[both], two[both]
    if one.size < 3 or one.std() == 0 or two.std() == 0:
        return math.nan
    return float(np.corrcoef(one, two)[0, 1])


def _worst(result: EvaluationResult, run: Run, models: Models) -> tuple[WorstCase, ...]:
    means = {}
    for index, case in enumerate(result.cases):
        values = [score.dice for score in case.scores if math.isfinite(score.dice)]
        if values:
            means[index] = math.fsum(values) / len(values)
    label_set = run.dataset.label_set
    worst = []
    for index in sorted(means, key=lambda place: means[place])[:WORST]:
        volume, reference = load_case(run.split.validation[index], label_set, run.plan.channels)
        assert reference is not None, "held-out cases are annotated"
        drawn = {"reference": (reference, label_set.segments)}
        drawn |= {name: (kept.load(index, volume), segments) for name, (kept, segments) in models.items()}
        worst.append(WorstCase(index + 1, means[index], volume, drawn))
    return tuple(worst)
