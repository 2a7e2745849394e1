"""A model's performance on held-out cases, through the same preprocessing and sliding window that users get."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ReCoKDLib.errors import DatasetError
from ReCoKDLib.labels import LabelSet
from ReCoKDLib.prediction import Predictor
from ReCoKDLib.volume import Volume

from .datasets import Case, load_case
from .peak_memory import PeakMemory
from .scores import TOLERANCE_MM, SegmentScore, evaluate

FORMAT = 1
METRICS = ("dice", "hd95", "surface_dice")


@dataclass(frozen=True)
class CaseResult:
    """One case.

    Attributes:
        identifier: The case's name in its dataset.
        scores: One for each segment, in the label set's order.
        seconds: From the volume in memory to labels in its grid; reading and scoring are not counted.
        peak_memory: Bytes at most while it was segmented (of the GPU, or of the process on a CPU); None where it
            was not asked for or cannot be known.
    """

    identifier: str
    scores: tuple[SegmentScore, ...]
    seconds: float
    peak_memory: int | None = None


@dataclass(frozen=True)
class EvaluationResult:
    """All cases.

    Attributes:
        segments: Names in the label set's order.
        cases: In the order they were given.
        tolerance: Of surface Dice, mm.
        device: On which the model ran.
    """

    segments: tuple[str, ...]
    cases: tuple[CaseResult, ...]
    tolerance: float = TOLERANCE_MM
    device: str = ""

    def values(self, metric: str, segment: str) -> npt.NDArray[np.float64]:
        """(case,): ``dice``, ``hd95`` or ``surface_dice`` of a segment; NaN and infinity as in :mod:`.scores`."""
        index = self.segments.index(segment)
        return np.array([getattr(case.scores[index], metric) for case in self.cases], dtype=np.float64)

    def mean(self, metric: str, segment: str | None = None) -> float:
        """Mean over the cases with a finite value; without a segment the mean over the segments' means.

        NaN where there is no such case.
        """
        if segment is not None:
            finite = self.values(metric, segment)
            finite = finite[np.isfinite(finite)]
            return float(finite.mean()) if finite.size else math.nan
        means = [self.mean(metric, name) for name in self.segments]
        known = [value for value in means if math.isfinite(value)]
        return math.fsum(known) / len(known) if known else math.nan

    def summary(self) -> dict[str, Any]:
        """Means and spreads as JSON values, fit for a model's card.

        For each segment and metric: mean, standard deviation (of the sample), median, and ``cases``, the number of
        cases with a finite value; for HD95 also ``infinite``, the number of cases where it is infinite.
        """
        seconds = [case.seconds for case in self.cases]
        memory = [case.peak_memory for case in self.cases if case.peak_memory is not None]
        return {
            "cases": len(self.cases),
            "tolerance_mm": self.tolerance,
            "mean": {metric: _rounded(self.mean(metric)) for metric in METRICS},
            "segments": {
                segment: {metric: self._spread(metric, segment) for metric in METRICS} for segment in self.segments
            },
            "device": self.device,
            "median_seconds": _rounded(float(np.median(seconds))) if seconds else None,
            "peak_memory_bytes": max(memory) if memory else None,
        }

    def _spread(self, metric: str, segment: str) -> dict[str, Any]:
        values = self.values(metric, segment)
        finite = values[np.isfinite(values)]
        spread: dict[str, Any] = {
            "mean": _rounded(self.mean(metric, segment)),
            "sd": _rounded(float(finite.std(ddof=1))) if finite.size > 1 else None,
            "median": _rounded(float(np.median(finite))) if finite.size else None,
            "cases": int(finite.size),
        }
        return spread | ({"infinite": int(np.isinf(values).sum())} if metric == "hd95" else {})

    def to_dict(self) -> dict[str, Any]:
        """Summary and all cases as JSON values; NaN and infinity become null (``present`` tells which it is)."""
        return {
            "summary": self.summary(),
            "cases": [
                {
                    "case": case.identifier,
                    "seconds": _number(case.seconds),
                    "peak_memory_bytes": case.peak_memory,
                    "segments": {score.segment: _score_to_dict(score) for score in case.scores},
                }
                for case in self.cases
            ],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EvaluationResult:
        """Read what :meth:`to_dict` gave.

        Raises:
            DatasetError: It is incomplete or of another kind.
        """
        try:
            summary = values["summary"]
            return cls(
                segments=tuple(str(name) for name in summary["segments"]),
                cases=tuple(
                    CaseResult(
                        str(case["case"]),
                        tuple(_score_from_dict(name, score) for name, score in case["segments"].items()),
                        float(case["seconds"]),
                        case["peak_memory_bytes"],
                    )
                    for case in values["cases"]
                ),
                tolerance=float(summary["tolerance_mm"]),
                device=str(summary["device"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DatasetError(f"The evaluation is malformed ({error!r}). Run the evaluation again.") from error


def _number(value: float) -> float | None:
    """None for NaN and infinity, for which JSON has no word."""
    return float(value) if math.isfinite(value) else None


def _rounded(value: float) -> float | None:
    """Six digits, for people."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _score_to_dict(score: SegmentScore) -> dict[str, Any]:
    return {
        "present": score.present,
        "dice": _number(score.dice),
        "hd95_mm": _number(score.hd95),
        "surface_dice": _number(score.surface_dice),
        "reference_ml": _number(score.reference_ml),
        "prediction_ml": _number(score.prediction_ml),
    }


def _score_from_dict(name: str, values: Mapping[str, Any]) -> SegmentScore:
    one_sided = values["present"] in ("reference", "prediction")
    return SegmentScore(
        segment=name,
        dice=math.nan if values["dice"] is None else float(values["dice"]),
        hd95=(math.inf if one_sided else math.nan) if values["hd95_mm"] is None else float(values["hd95_mm"]),
        surface_dice=math.nan if values["surface_dice"] is None else float(values["surface_dice"]),
        reference_ml=float(values["reference_ml"]),
        prediction_ml=float(values["prediction_ml"]),
    )


def _part(progress: Callable[[float], None], index: int, count: int) -> Callable[[float], None]:
    return lambda done: progress((index + done) / count)


def evaluate_cases(
    cases: Sequence[Case],
    predictor: Predictor,
    *,
    label_set: LabelSet | None = None,
    tolerance: float = TOLERANCE_MM,
    measure_memory: bool = False,
    distances: bool = True,
    seen: Callable[[int, Volume], None] | None = None,
    progress: Callable[[float], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> EvaluationResult:
    """Segment each case and compare it with its label map.

    Args:
        cases: Annotated cases with the predictor's channels and labels.
        predictor: The model.
        label_set: What to compare, in the model's numbering; None compares all of its classes.
        tolerance: Of surface Dice, mm.
        measure_memory: Record the peak memory of each case.
        distances: Measure HD95 and surface Dice, too; else they are NaN.
        seen: Called with each case's place and the label map that the model gave.
        progress: Called with the finished fraction.
        cancelled: Asked before each tile.

    Raises:
        DatasetError: There is no case, one has no label map, or image and label map do not fit each other.
        Cancelled: ``cancelled`` said so.
    """
    if not cases:
        raise DatasetError("There are no cases to evaluate. Name some in the split's 'val'.")
    label_set = label_set or predictor.label_set
    results: list[CaseResult] = []
    for index, case in enumerate(cases):
        volume, reference = load_case(case, label_set, predictor.plan.channels)
        if reference is None:
            raise DatasetError(f"The case {case.identifier} has no label map to compare with. Choose annotated cases.")
        with PeakMemory(predictor.device, measure_memory) as memory:
            begun = time.perf_counter()
            prediction = predictor.predict(
                volume,
                progress=None if progress is None else _part(progress, index, len(cases)),
                cancelled=cancelled,
            )
            seconds = time.perf_counter() - begun
        if seen is not None:
            seen(index, prediction.labels)
        scores = evaluate(prediction.labels, reference, label_set, tolerance=tolerance, distances=distances)
        results.append(CaseResult(case.identifier, scores, seconds, memory.bytes))
        if progress is not None:
            progress((index + 1) / len(cases))
    segments = tuple(segment.name for segment in label_set.segments)
    return EvaluationResult(segments, tuple(results), tolerance, str(predictor.device))
