"""Evaluations on paper: JSON and CSV with every value, a table in Markdown, and a figure.

Several models are shown side by side, in the order they are given.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from ReCoKDLib.errors import DatasetError
from ReCoKDLib.files import atomic_file, require_new, write_json, write_text

from .evaluation import FORMAT, METRICS, EvaluationResult
from .evaluation_figure import draw

_FILES = ("evaluation.json", "evaluation.csv", "evaluation.md", "evaluation.png")
_COLUMNS = (
    "model",
    "case",
    "segment",
    "present",
    "dice",
    "hd95_mm",
    "surface_dice",
    "reference_ml",
    "prediction_ml",
    "seconds",
    "peak_memory_bytes",
)


def require_new_reports(folder: Path, overwrite: bool = False) -> tuple[Path, ...]:
    """Check before any work is done that the reports can be written; their files.

    Raises:
        OutputError: One exists and ``overwrite`` is False, or the folder cannot be written.
    """
    paths = tuple(Path(folder) / name for name in _FILES)
    for path in paths:
        require_new(path, overwrite)
    return paths


def write_reports(
    results: Mapping[str, EvaluationResult], folder: Path, *, overwrite: bool = False
) -> tuple[Path, ...]:
    """Write ``evaluation.json``, ``.csv`` (a row for each model, case and segment), ``.md`` and ``.png``.

    Args:
        results: By model name; all of the same cases and segments.
        folder: Made if need be.
        overwrite: Replace earlier reports.

    Returns:
        The files.

    Raises:
        DatasetError: There is no result, or the models were evaluated on different cases or segments.
        OutputError: A file exists and ``overwrite`` is False, or it cannot be written.
    """
    _require_comparable(results)
    paths = require_new_reports(folder, overwrite)
    json_path, csv_path, table_path, picture_path = paths
    values = {"format": FORMAT, "models": {name: result.to_dict() for name, result in results.items()}}
    write_json(json_path, values, overwrite)
    write_text(csv_path, rows_csv(results), overwrite)
    write_text(table_path, markdown_table(results), overwrite)
    with atomic_file(picture_path, overwrite) as temporary:
        draw(results, temporary)
    return paths


def _require_comparable(results: Mapping[str, EvaluationResult]) -> None:
    if not results:
        raise DatasetError("There is no evaluation to write. Name at least one model.")
    names = list(results)
    first = results[names[0]]
    for name in names[1:]:
        other = results[name]
        for what, ours, theirs in (
            ("cases", [c.identifier for c in first.cases], [c.identifier for c in other.cases]),
            ("segments", list(first.segments), list(other.segments)),
            ("tolerances", [first.tolerance], [other.tolerance]),
        ):
            if ours != theirs:
                raise DatasetError(
                    f"The models {names[0]} and {name} were evaluated on different {what}. "
                    "Evaluate them together, on one dataset and split."
                )


def rows_csv(results: Mapping[str, EvaluationResult]) -> str:
    """One row for each model, case and segment; empty fields where a value is undefined, ``inf`` where infinite."""
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for model, result in results.items():
        for case in result.cases:
            for score in case.scores:
                numbers = (score.dice, score.hd95, score.surface_dice, score.reference_ml, score.prediction_ml)
                writer.writerow(
                    [
                        model,
                        case.identifier,
                        score.segment,
                        score.present,
                        *("" if math.isnan(n) else f"{n:.6g}" for n in numbers),
                        f"{case.seconds:.4g}",
                        "" if case.peak_memory is None else case.peak_memory,
                    ]
                )
    return stream.getvalue()


def markdown_table(results: Mapping[str, EvaluationResult]) -> str:
    """Mean ± standard deviation of each metric, a row for each model and segment and one for the mean of segments.

    Cases whose HD95 is infinite are outside its mean and counted in brackets.
    """
    tolerance = next(iter(results.values())).tolerance
    header = ("Model", "Segment", "Cases", "Dice", "HD95, mm", f"Surface Dice, {tolerance:g} mm", "Seconds")
    lines = [_row(header), _row(["---", "---", *["---:"] * 5])]
    for model, result in results.items():
        summary = result.summary()
        for segment, metrics in summary["segments"].items():
            cells = [
                _spread(metrics["dice"]["mean"], metrics["dice"]["sd"], 3),
                _spread(metrics["hd95"]["mean"], metrics["hd95"]["sd"], 2),
                _spread(metrics["surface_dice"]["mean"], metrics["surface_dice"]["sd"], 3),
            ]
            if metrics["hd95"]["infinite"]:
                cells[1] += f" ({metrics['hd95']['infinite']} infinite)"
            lines.append(_row([model, segment, str(metrics["dice"]["cases"]), *cells, ""]))
        means = [
            _spread(summary["mean"][metric], None, digits) for metric, digits in zip(METRICS, (3, 2, 3), strict=True)
        ]
        seconds = "" if summary["median_seconds"] is None else f"{summary['median_seconds']:.3g}"
        lines.append(_row([model, "**mean**", str(summary["cases"]), *(f"**{m}**" for m in means), seconds]))
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _spread(mean: float | None, sd: float | None, digits: int) -> str:
    if mean is None:
        return "–"
    return f"{mean:.{digits}f}" + ("" if sd is None else f" ± {sd:.{digits}f}")
