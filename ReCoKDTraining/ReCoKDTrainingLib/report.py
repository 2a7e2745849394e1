"""The report of a run: one HTML file with everything in it, to be opened without a network.

It is made to be passed on: cases have numbers instead of names, and of files only the last part of the path is shown.
"""

from __future__ import annotations

import base64
import html
import math
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from ReCoKDLib.files import read_json, write_text
from ReCoKDLib.package import ModelPackage

from .comparison import Comparison, SharedErrors
from .evaluation import METRICS, EvaluationResult
from .history import CURVES, Row, best_epoch, draw_curves
from .run_folder import ENVIRONMENT, EVALUATION
from .runs import Run
from .stopwatch import SECONDS, describe_split, logged_split
from .validation import DICE
from .worst_cases import draw_worst_case

REPORT = "report.html"
_ROWS = 12  # of the table of losses; the curves show all epochs

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 66rem; padding: 0 1rem; color: #1b1f24;
       background: #f3f4f6; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; margin: 0 0 .6rem; }
h3 { font-size: 1rem; margin: 1rem 0 .3rem; } .note { color: #5c6670; }
section { background: white; border: 1px solid #d8dce2; border-radius: .5rem; padding: 1rem 1.2rem; margin: 1rem 0;
          overflow-x: auto; }
table { border-collapse: collapse; } th, td { padding: .15rem .9rem .15rem 0; text-align: left; vertical-align: top; }
th { border-bottom: 1px solid #b9c0c8; font-weight: 600; } td.number, th.number { text-align: right; }
td.number { white-space: nowrap; }
td { overflow-wrap: anywhere; } img { max-width: 100%; height: auto; }
"""


def write_report(run: Run, package: ModelPackage, comparison: Comparison | None) -> Path:
    """Write ``report.html`` and the last ``curves.png`` into the run folder.

    Args:
        run: The finished run.
        package: Its model.
        comparison: What was measured, and is in ``evaluation/``; None without held-out cases.

    Raises:
        OutputError: They cannot be written.
    """
    folder = run.settings.output
    history = run.trainer.history
    card = package.card
    sections = [_summary(run, package, comparison)]
    if comparison is not None:
        sections.append(_scores(comparison, folder / EVALUATION))
        if comparison.shared:
            sections.append(_bias(comparison))
        if comparison.worst:
            sections.append(_worst(comparison))
    draw_curves(history, folder / CURVES)
    sections += [_training(run, history, folder / CURVES), _facts(run, package)]
    date = card.training.date
    text = "\n".join(
        (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width">',
            f"<title>Training report: {_text(card.name)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>",
            f"<h1>{_text(card.name)}</h1>",
            f"<p>{_text(card.description)} <span class='note'>{_text(date)}. Research use only, not a medical device. "
            "Cases are numbered in the order of the held-out cases in split.json.</span></p>",
            *sections,
            "</body>\n</html>\n",
        )
    )
    write_text(folder / REPORT, text, overwrite=True)
    return folder / REPORT


def _text(value: object) -> str:
    return html.escape(str(value))


def _section(title: str, *parts: str) -> str:
    return "\n".join((f"<section>\n<h2>{_text(title)}</h2>", *parts, "</section>"))


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], text_columns: int = 1) -> str:
    """Cells are text; those after the first ``text_columns`` are set as numbers."""

    def line(tag: str, cells: Sequence[str]) -> str:
        kinds = ("" if place < text_columns else " class='number'" for place in range(len(cells)))
        cells_html = (f"<{tag}{kind}>{_text(cell)}</{tag}>" for kind, cell in zip(kinds, cells, strict=True))
        return "<tr>" + "".join(cells_html) + "</tr>"

    return "\n".join(("<table>", line("th", header), *(line("td", row) for row in rows), "</table>"))


def _image(path: Path, alt: str) -> str:
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return f"<p><img alt='{_text(alt)}' src='data:image/png;base64,{data}'></p>"


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def _percent(value: float) -> str:
    return "–" if not math.isfinite(value) else f"{100 * value:.1f} %"


def _megabytes(size: int | None) -> str:
    return "–" if size is None else f"{size / 2**20:.0f}"


def _summary(run: Run, package: ModelPackage, comparison: Comparison | None) -> str:
    """Each model in a line: size, quality, time, memory."""
    models = {package.card.name: package}
    if comparison is not None and comparison.teacher_name is not None and run.teacher is not None:
        models = {comparison.teacher_name: run.teacher, **models}
    rows = []
    for name, model in models.items():
        cells = [name, model.card.role, f"{model.card.parameters:,}"]
        if comparison is not None:
            values = comparison.results[name].summary()
            means = [_number(values["mean"][metric]) for metric in METRICS]
            cells += [*means, _number(values["median_seconds"], 2), _megabytes(values["peak_memory_bytes"])]
        rows.append(cells)
    header = ["Model", "", "Parameters"]
    note = ""
    if comparison is not None:
        tolerance = comparison.student.tolerance
        header += ["Dice", "HD95, mm", f"Surface Dice, {tolerance:g} mm", "Seconds a case", "Memory, MB"]
        cases = len(comparison.student.cases)
        note = (
            f"<p class='note'>Held-out cases: {cases}, on {_text(comparison.student.device)}; means over cases, then "
            "over structures. Seconds are the median; memory is the largest peak of the GPU, or on a CPU of this whole "
            "process, training included. "
        )
        if run.settings.ship == "best":
            note += "The student's weights were chosen by validation on such cases, which flatters them. "
        note += "</p>"
    else:
        note = "<p class='note'>There are no held-out cases: nothing was measured.</p>"
    title = "Teacher and student" if len(models) > 1 else "Model"
    return _section(title, _table(header, rows, 2), note)


def _scores(comparison: Comparison, evaluation: Path) -> str:
    rows = []
    for segment in comparison.student.segments:
        for name, result in comparison.results.items():
            rows.append([segment, name, *_spreads(result, segment)])
    tolerance = comparison.student.tolerance
    header = ["Structure", "Model", "Cases", "Dice", "HD95, mm", "HD95 infinite", f"Surface Dice, {tolerance:g} mm"]
    picture = _image(evaluation / "evaluation.png", "Dice, HD95 and surface Dice of every held-out case")
    note = (
        "<p class='note'>Mean ± standard deviation over the cases; HD95 of cases where it is finite, the others "
        "(structure in one of both only) are counted.</p>"
    )
    return _section("Structures", _table(header, rows, 2), note, picture)


def _spreads(result: EvaluationResult, segment: str) -> list[str]:
    spread = result.summary()["segments"][segment]
    shown = {
        metric: _number(values["mean"]) + ("" if values["sd"] is None else f" ± {values['sd']:.3f}")
        for metric, values in spread.items()
    }
    infinite = str(spread["hd95"]["infinite"])
    return [str(spread["dice"]["cases"]), shown["dice"], shown["hd95"], infinite, shown["surface_dice"]]


def _bias(comparison: Comparison) -> str:
    header = [
        "Structure",
        "Teacher: too much",
        "too little",
        "volume bias",
        "Student: too much",
        "too little",
        "volume bias",
        "Student's errors that are the teacher's too",
        "Correlation of Dice",
    ]
    return _section(
        "What the student may have inherited",
        "<p>The teacher's own errors on the held-out cases, as parts of the structure's volume in the reference, and "
        "how many of the student's wrong voxels are wrong in the teacher as well, in the same direction. A bias of the "
        "same sign in both, with many shared errors, is one that the student may have learned; labels alone, or other "
        "teachers, would show it. Errors at borders are shared by any two models that draw them alike.</p>",
        _table(header, (_bias_row(entry) for entry in comparison.shared)),
        "<p class='note'>Correlation over the cases: near 1 where both find the same cases hard.</p>",
    )


def _bias_row(entry: SharedErrors) -> list[str]:
    cells = [entry.segment]
    for errors in (entry.teacher, entry.student):
        cells += [_percent(errors.too_much), _percent(errors.too_little), f"{100 * errors.bias:+.1f} %"]
    return [*cells, _percent(entry.inherited), _number(entry.dice_correlation, 2)]


def _worst(comparison: Comparison) -> str:
    parts = [
        "<p class='note'>Slices through the middle of the student's errors; radiological convention: the patient's "
        "right is on the left.</p>"
    ]
    with tempfile.TemporaryDirectory() as folder:
        for case in comparison.worst:
            path = Path(folder) / f"{case.number}.png"
            draw_worst_case(case, comparison.student_name, path)
            parts.append(f"<h3>Held-out case {case.number}: mean Dice {case.dice:.3f}</h3>")
            parts.append(_image(path, f"Held-out case {case.number}: reference and models"))
    return _section("The worst cases", *parts)


def _training(run: Run, history: Sequence[Row], curves: Path) -> str:
    hidden = ("gradient norm/", f"{DICE} ", SECONDS)
    names = [n for n in dict.fromkeys(n for row in history for n in row) if not n.startswith(hidden)]
    names = [name for name in names if "pairs" not in name]
    chosen = sorted({round(place * (len(history) - 1) / (_ROWS - 1)) for place in range(_ROWS)}) if history else []
    rows = [[f"{history[place][name]:.4g}" if name in history[place] else "" for name in names] for place in chosen]
    notes = []
    best = best_epoch(history)
    if best is not None and run.trainer.validation is not None:
        dice = history[best - 1][DICE]
        count = len(run.trainer.validation.cases)
        notes.append(f"Best validation: Dice {_number(dice)} after epoch {best}, on {count} held-out cases.")
    if run.trainer.stopped_early:
        notes.append(f"Training stopped early after epoch {run.trainer.epoch} of {run.trainer.schedule.epochs}.")
    split = next((split for row in reversed(history) if (split := logged_split(row))), {})
    if split:
        notes.append(describe_split(split))
    if run.trainer.optimisation.parts > 1:
        notes.append(
            f"For want of memory each batch went through in {run.trainer.optimisation.parts} parts whose gradients "
            "were added up; losses over a whole batch are means over its parts."
        )
    table = _table(names, rows, 0) if rows else ""
    return _section("Training", _image(curves, "Losses over time"), f"<p>{_text(' '.join(notes))}</p>", table)


def _facts(run: Run, package: ModelPackage) -> str:
    """Data, versions, configuration."""
    folder = run.settings.output
    made_with = read_json(folder / ENVIRONMENT)
    split = run.split
    facts = {
        "Dataset": run.dataset.name,
        "Cases": f"{len(split.training)} for training, {len(split.validation)} held out",
        "Fingerprint of the training cases": run.fingerprint.sha256,
        "Model package": f"{package.card.name}, checksum {package.checksum}",
        "Git revision": made_with["git revision"] or "not known (no git checkout)",
        "System": f"{made_with['system']}, {made_with['device']}, {made_with['threads']} threads",
        "Versions": ", ".join(f"{name} {version}" for name, version in made_with["versions"].items()),
    }
    configuration = {
        # Folders may be named after people; the last part of a path says enough.
        name: _without_folder(value)
        for name, value in run.settings.configuration.items()
        if name != "dataset"  # named above; scenes are often called after patients
    }
    return _section(
        "How it was made",
        _table(("", ""), facts.items(), 2),
        "<h3>Configuration</h3>",
        _table(("Parameter", "Value"), ((name, str(value)) for name, value in configuration.items()), 2),
    )


def _without_folder(value: object) -> object:
    """Only the last part of a path."""
    if isinstance(value, list):
        return ", ".join(str(_without_folder(each)) for each in value)
    return value.name if isinstance(value, Path) else value
