"""What a check found, as a table, as JSON and CSV, and as one picture of all cases."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ReCoKDLib.errors import DatasetError, ReCoKDError
from ReCoKDLib.files import atomic_file, require_new, write_json
from ReCoKDLib.labels import LabelSet
from ReCoKDLib.package import ModelPackage
from ReCoKDLib.slice_view import PLANES, draw_slice, grey_window

from .case_check import check_cases
from .checked_case import Check, CheckedCase
from .datasets import Dataset, Split, read_split
from .datasets.loading import Finding
from .inspection import Inspection
from .model_fit import as_task
from .progress import Progress
from .run_check import refusals
from .run_settings import RunSettings
from .training_data import DataSettings, line, open_cases, without

JSON, CSV, SHEET = "check.json", "check.csv", "check.png"
FORMAT = 1

_COLUMNS = 6
_CASES_A_SHEET = 240
_TILE = 1.9  # inches
_BAD, _DOUBTFUL, _GOOD = "#c0392b", "#d68910", "#5c6670"


def check_sources(settings: RunSettings, progress: Progress) -> bool:
    """Check all cases of a run that is to be; print the table and write JSON, CSV and contact sheet.

    JSON and CSV also say where each case is found; what is printed may end in a log, and does not.

    Args:
        settings: What will be asked of the run; the three files go to its output folder.
        progress: Where to tell.

    Returns:
        Whether something would spoil the training (bad cases that are to be skipped do not).

    Raises:
        OutputError: One of the files exists, or the folder cannot be written.
    """
    output = settings.output
    for name in (JSON, CSV, SHEET):
        require_new(output / name)
    check = _check(settings, progress)
    write_json(output / JSON, to_dict(check))
    write_csv(check, output / CSV)
    written = [output / JSON, output / CSV, *write_sheets(check, output / SHEET)]
    progress.say(table(check))
    for path in written:
        progress.say(str(path))
    return bool(check.spoiling(settings.data.skip_bad))


def _check(settings: RunSettings, progress: Progress) -> Check:
    data = settings.data
    teacher = None if settings.teacher is None else ModelPackage.open(settings.teacher)
    try:
        dataset = open_cases(data, None if teacher is None else as_task(teacher))
    except DatasetError as error:
        return Check((), (Finding("dataset", str(error)),), LabelSet(()))
    more: list[Finding] = []
    split = _split(dataset, data, more)
    inspection = Inspection(dataset, split.training)
    progress.stage("Checking the cases", len(dataset.cases))
    check = check_cases(
        dataset,
        split,
        has_teacher=teacher is not None,
        skip_bad=data.skip_bad,
        split_again=(lambda left: _split(left, data, more)) if data.split is None else None,
        thumbnails=True,
        seen=inspection,
        progress=progress.fraction,
    )
    used = without(check) if data.skip_bad else check.split
    fingerprint = None if check.spoiling(data.skip_bad) else lambda: inspection.fingerprint(used.training)
    more += refusals(settings, dataset, used, teacher, fingerprint)
    return replace(check, findings=(*more, *check.findings))


def _split(dataset: Dataset, settings: DataSettings, more: list[Finding]) -> Split:
    try:
        return read_split(dataset, settings.split, settings.fold, unlabelled=True)
    except ReCoKDError as error:
        more.append(Finding("split", str(error)))
        return Split(dataset.cases, ())


def table(check: Check) -> str:
    """For people: a row for each case, then all findings, the worst first."""
    head = ("case", "part", "annotated", "voxels (k, j, i)", "mm (k, j, i)", "findings")
    rows = [head, *(_row(case) for case in check.cases)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    found = sorted(check.all_findings(), key=lambda entry: not entry[1].spoils)
    lines += [""] if found else []
    lines += [f"{'ERROR' if finding.spoils else 'warning'}  {line(name, finding)}" for name, finding in found]
    errors = sum(finding.spoils for _, finding in found)
    lines += ["", f"{len(check.cases)} cases, {errors} errors, {len(found) - errors} warnings"]
    return "\n".join(lines)


def _row(case: CheckedCase) -> tuple[str, ...]:
    shape = "" if case.shape is None else " x ".join(map(str, case.shape))
    spacing = "" if case.spacing is None else " x ".join(f"{mm:.3g}" for mm in case.spacing)
    kinds = ", ".join(dict.fromkeys(f.kind.upper() if f.spoils else f.kind for f in case.findings))
    return case.identifier, case.part, case.annotated, shape, spacing, kinds or "-"


def to_dict(check: Check) -> dict[str, Any]:
    """JSON values."""
    return {
        "format": FORMAT,
        "spoiled": check.spoiled,
        "classes": [segment.name for segment in check.label_set.segments],
        "findings": [_finding(finding) for finding in check.findings],
        "cases": [
            {
                "case": case.identifier,
                "part": case.part,
                "annotated": case.annotated,
                "shape": case.shape,
                "spacing": case.spacing,
                "intensities": case.intensities,
                "voxels": dict(case.voxels),
                "patient": case.patient,
                "checksum": case.checksum,
                "found_in": str(case.place),
                "images": [str(path.resolve()) for path in case.place.images],
                "segmentation": None if case.place.segmentation is None else str(case.place.segmentation.resolve()),
                "findings": [_finding(finding) for finding in case.findings],
            }
            for case in check.cases
        ],
    }


def _finding(finding: Finding) -> dict[str, Any]:
    return {"kind": finding.kind, "spoils": finding.spoils, "message": finding.message}


def write_csv(check: Check, path: Path) -> None:
    """A row for each case; a column of voxels for each class, empty where it was not annotated.

    Raises:
        OutputError: The file exists, or cannot be written.
    """
    classes = [segment.name for segment in check.label_set.segments]
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        head = ["case", "part", "annotated", "k", "j", "i", "mm_k", "mm_j", "mm_i"]
        writer.writerow([*head, *(f"voxels {name}" for name in classes), "errors", "warnings", "found in"])
        for case in check.cases:
            spacing = ["", "", ""] if case.spacing is None else [f"{mm:.6g}" for mm in case.spacing]
            writer.writerow(
                [
                    *(case.identifier, case.part, case.annotated),
                    *(case.shape or ("", "", "")),
                    *spacing,
                    *(case.voxels.get(name, "") for name in classes),
                    *(
                        " ".join(f"{f.kind}: {f.message}" for f in case.findings if f.spoils is spoils)
                        for spoils in (True, False)
                    ),
                    str(case.place),
                ]
            )


def write_sheets(check: Check, path: Path) -> list[Path]:
    """Pictures of all cases: an axial slice of each where most of its structures are, framed by what was found.

    Many cases take several files, numbered after the first.

    Raises:
        OutputError: A file exists, or cannot be written.
        MissingDependencyError: Matplotlib is not installed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    written = []
    for number, start in enumerate(range(0, len(check.cases), _CASES_A_SHEET)):
        target = path if not number else path.with_name(f"{path.stem}-{number + 1}{path.suffix}")
        cases = check.cases[start : start + _CASES_A_SHEET]
        rows = math.ceil(len(cases) / _COLUMNS)
        with atomic_file(target) as temporary:
            figure = Figure(figsize=(_COLUMNS * _TILE, rows * (_TILE + 0.42) + 0.3), dpi=100, facecolor="white")
            FigureCanvasAgg(figure)
            _draw(figure, cases, check.label_set, rows)
            figure.savefig(temporary, format="png", facecolor="white")
        written.append(target)
    return written


def _draw(figure: Any, cases: Sequence[CheckedCase], label_set: LabelSet, rows: int) -> None:
    height = rows * (_TILE + 0.42) + 0.3
    for index, case in enumerate(cases):
        column, row = index % _COLUMNS, index // _COLUMNS
        left, top = column * _TILE + 0.06, row * (_TILE + 0.42) + 0.42
        side = _TILE - 0.12
        place = (
            left / (_COLUMNS * _TILE),
            1 - (top + side) / height,
            side / (_COLUMNS * _TILE),
            side / height,
        )
        ax = figure.add_axes(place)
        _draw_case(ax, case, label_set)
        color = _BAD if case.bad else _DOUBTFUL if case.findings else _GOOD
        for spine in ax.spines.values():
            spine.set_visible(True)
            spine.set_color(color)
            spine.set_linewidth(2.5 if case.findings else 0.8)
        name = case.identifier if len(case.identifier) <= 28 else f"…{case.identifier[-27:]}"
        annotated = {"whole": "", "in part": ", in part", "not": ", not annotated"}[case.annotated]
        ax.text(0, 1.10, name, transform=ax.transAxes, fontsize=6.5, weight="bold", va="bottom")
        kinds = ", ".join(dict.fromkeys(finding.kind for finding in case.findings))
        under = kinds or f"{case.part}{annotated}"
        ax.text(0, 1.02, under, transform=ax.transAxes, fontsize=6.5, color=color, va="bottom")
    names = [(segment.name, segment.color) for segment in label_set.segments[:12]]
    for index, (name, tint) in enumerate(names):
        figure.text(0.01 + index * 0.99 / max(6, len(names)), 0.1 / height, f"■ {name}", color=tint, fontsize=8)


def _draw_case(ax: Any, case: CheckedCase, label_set: LabelSet) -> None:
    ax.set_facecolor("black" if case.thumbnail else "#f3f4f6")
    if case.thumbnail is None:
        ax.set_xticks([])
        ax.set_yticks([])
        ax.text(0.5, 0.5, "unreadable", ha="center", va="center", fontsize=9, color=_BAD, transform=ax.transAxes)
        return
    image, labels = case.thumbnail.image, case.thumbnail.labels
    field = 1.04 * max(n * mm for n, mm in zip(image.shape[1:], image.spacing[1:], strict=True))
    draw_slice(ax, PLANES[0], image, labels, label_set.segments, (0, 0, 0), grey_window(image, labels), field)
