"""What a training and a check leave in their folders, read back: state, curves, table of cases, evaluation."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .errors import InputError
from .files import read_json

STATUS, LOG, CHECK = "status.json", "log.csv", "check.json"
_EVALUATION = Path("evaluation") / "evaluation.json"
_DICE = "validation/Dice"
# Of the whole loss the distillation terms are so much larger, and rise so, that nothing else could be seen.
_LOSSES = ("segmentation", "total")


@dataclass(frozen=True)
class Status:
    """State of a run; see ``status.json`` in docs/training.md.

    Attributes:
        state: preparing, training, evaluating, done, failed or stopped; empty where there is no run.
        epoch: Epochs that are done.
        epochs: All of them; None while nobody knows.
        seconds_left: Of the present stage; None while nobody knows.
        best_dice: Of the best validation; None before the first.
        package: The finished model; None before.
        report: The finished report; None before.
    """

    state: str = ""
    epoch: int = 0
    epochs: int | None = None
    seconds_left: float | None = None
    best_dice: float | None = None
    package: Path | None = None
    report: Path | None = None


@dataclass(frozen=True)
class Curves:
    """Points (epoch, value) for a plot."""

    loss: tuple[tuple[float, float], ...] = ()
    dice: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class CheckRow:
    """One finding of a check, or a case without any.

    Attributes:
        case: Its name; empty for what is wrong with all of them.
        message: What is wrong; empty where nothing is.
        spoils: Whether it would spoil the training; else it is a warning.
        images: The case's image files, where it has files of its own.
        segmentation: Its annotation's file.
        found_in: Where the case is found, in words: its files, or a scene and the names in it.
    """

    case: str
    message: str = ""
    spoils: bool = False
    images: tuple[Path, ...] = ()
    segmentation: Path | None = None
    found_in: str = ""


@dataclass(frozen=True)
class CheckTable:
    """What a check found.

    Attributes:
        rows: What spoils the training first, then warnings, then cases without a finding.
        cases: How many cases there are.
        bad: How many of them would spoil the training.
        spoiled: Whether something spoils the training that leaving out bad cases does not mend.
    """

    rows: tuple[CheckRow, ...]
    cases: int
    bad: int
    spoiled: bool


@dataclass(frozen=True)
class ScoreRow:
    """How well a structure is found: mean Dice over the held-out cases, of the teacher and of the student.

    Attributes:
        segment: The structure; empty for the mean of all.
        teacher: None without a teacher, or where it could not be measured.
        student: None where it could not be measured.
    """

    segment: str
    teacher: float | None
    student: float | None


def read_status(folder: Path) -> Status:
    """The state of the run in a folder; of nothing where there is none or it cannot be read."""
    try:
        values = read_json(folder / STATUS)
    except InputError:
        return Status()
    if not isinstance(values, dict):
        return Status()
    validation = values.get("validation")
    return Status(
        state=str(values.get("state", "")),
        epoch=int(_number(values, "epoch") or 0),
        epochs=None if (epochs := _number(values, "epochs")) is None else int(epochs),
        seconds_left=_number(values, "seconds_left"),
        best_dice=_number(validation, "best_dice") if isinstance(validation, dict) else None,
        package=folder / str(values["package"]) if values.get("package") else None,
        report=folder / str(values["report"]) if values.get("report") else None,
    )


def read_curves(folder: Path) -> Curves:
    """The curves of the run in a folder; empty ones before its first epoch."""
    try:
        with (folder / LOG).open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error):
        return Curves()
    name = next((name for name in _LOSSES if any(_cell(row, name) is not None for row in rows)), _LOSSES[0])
    return Curves(_points(rows, name), _points(rows, _DICE))


def read_check(folder: Path) -> CheckTable:
    """The table that a check wrote into a folder.

    Raises:
        InputError: There is none, or it cannot be read.
    """
    values = read_json(folder / CHECK)
    try:
        rows = [CheckRow("", found["message"], found["spoils"]) for found in values["findings"]]
        spoiled = any(row.spoils for row in rows)
        bad = 0
        for case in values["cases"]:
            images = tuple(Path(path) for path in case["images"])
            segmentation = None if case["segmentation"] is None else Path(case["segmentation"])
            good = CheckRow(case["case"], "", False, images, segmentation, case["found_in"])
            found = [replace(good, message=each["message"], spoils=each["spoils"]) for each in case["findings"]]
            bad += any(row.spoils for row in found)
            rows += found or [good]
    except (KeyError, TypeError) as error:
        raise InputError(f"{folder / CHECK} is no table of a check. Check the cases again.") from error
    rows.sort(key=lambda row: 0 if row.spoils else 1 if row.message else 2)
    return CheckTable(tuple(rows), len(values["cases"]), bad, spoiled)


def read_scores(folder: Path, student: str) -> tuple[ScoreRow, ...]:
    """Teacher against student on the held-out cases of the run in a folder, the mean first; none without any.

    Args:
        folder: Of the run.
        student: Name of its model.
    """
    try:
        models = read_json(folder / _EVALUATION)["models"]
        ours = models[student]["summary"]
        others = [models[name]["summary"] for name in models if name != student]
        rows = [ScoreRow("", _number(others[0]["mean"], "dice") if others else None, _number(ours["mean"], "dice"))]
        for segment, metrics in ours["segments"].items():
            teacher = _number(others[0]["segments"][segment]["dice"], "mean") if others else None
            rows.append(ScoreRow(segment, teacher, _number(metrics["dice"], "mean")))
    except (InputError, KeyError, TypeError, AttributeError):
        return ()
    return tuple(rows)


def _number(values: Any, name: str) -> float | None:
    value = values.get(name)
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _cell(row: Mapping[str, str], name: str) -> float | None:
    try:
        value = float(row.get(name) or "nan")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _points(rows: list[dict[str, str]], name: str) -> tuple[tuple[float, float], ...]:
    found = ((_cell(row, "epoch"), _cell(row, name)) for row in rows)
    return tuple((epoch, value) for epoch, value in found if epoch is not None and value is not None)
