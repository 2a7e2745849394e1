"""Which distillation method makes the best student: trains the declared runs and collects them into one table.

    python Testing/benchmarks/distillation.py train --folder runs --data DATA   # stop it and call it again at any time
    python Testing/benchmarks/distillation.py table --folder runs               # also while it trains

Several processes or machines may share the folder: each takes a run that nobody is at. The folder can be copied
and gone on with elsewhere.
"""

from __future__ import annotations

import argparse
import csv
import io
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats

from distillation_runs import (
    DECLARED,
    METHODS,
    RESULT,
    DeclaredRun,
    Method,
    Setting,
    add_arguments,
    chosen,
    results,
)
from distillation_training import groups, measure_teacher, train
from figures import Curve, draw_comparison, draw_learning
from ReCoKDLib.errors import ReCoKDError
from ReCoKDLib.files import read_json, write_json, write_text
from ReCoKDTrainingLib.evaluation import EvaluationResult
from ReCoKDTrainingLib.progress import Progress

SHOWN = ("plain", "logits, eta 3", "reco", "plain, from teacher", "logits, eta 3, from teacher")
"""Methods whose learning is drawn."""


@dataclass(frozen=True)
class Row:
    """One method at one width, over its seeds.

    Attributes:
        name: what the runs have in common.
        seeds: of the finished runs.
        means: by metric or segment, the mean over the cases of each seed.
        parameters, flops: of the student; the operations are those of one patch.
        seconds, processor: wall-clock and processor seconds of a step by itself, median over the seeds.
        gain: mean over the cases of the difference to the student it is compared with, each case averaged over the
            common seeds.
        gain_sd: standard deviation of that over the cases.
        better: in how many cases it is better.
        wilcoxon, t_test: two-sided p of the paired tests over the cases. The seeds are no part of them.
        compared: over how many seeds.
        other: the row that it is compared with.
    """

    name: str
    seeds: tuple[int, ...]
    means: Mapping[str, tuple[float, ...]]
    parameters: int
    flops: int
    seconds: float
    processor: float
    gain: float = math.nan
    gain_sd: float = math.nan
    better: int = 0
    cases: int = 0
    wilcoxon: float = math.nan
    t_test: float = math.nan
    compared: int = 0
    other: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values; numbers that are none become null."""
        values: dict[str, Any] = {"name": self.name, "seeds": list(self.seeds)}
        for key, means in self.means.items():
            values[key] = _known(statistics.fmean(means))
            values[f"{key} sd over seeds"] = _known(statistics.stdev(means)) if len(means) > 1 else None
        rest = ("parameters", "flops", "better", "cases", "compared", "other")
        values |= {key: getattr(self, key) for key in rest}
        numbers = ("seconds", "processor", "gain", "gain_sd", "wilcoxon", "t_test")
        return values | {key: _known(getattr(self, key)) for key in numbers}


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def case_dice(result: Mapping[str, Any]) -> npt.NDArray[np.float64]:
    """(case,): mean Dice of the segments that a case or its prediction has."""
    measured = EvaluationResult.from_dict(result["evaluation"])
    return np.nanmean([measured.values("dice", segment) for segment in measured.segments], axis=0)  # type: ignore[no-any-return]


def paired(method: Mapping[int, Any], other: Mapping[int, Any]) -> dict[str, Any]:
    """A method against another, case by case; both by seed. Nothing where no seed is common."""
    common = sorted(set(method) & set(other))
    if not common:
        return {}
    ours, theirs = (np.mean([case_dice(runs[seed]) for seed in common], axis=0) for runs in (method, other))
    difference = ours - theirs
    known: dict[str, Any] = {
        "gain": float(difference.mean()),
        "better": int((difference > 0).sum()),
        "cases": len(difference),
        "compared": len(common),
    }
    if len(difference) > 1 and difference.any():
        known["gain_sd"] = float(difference.std(ddof=1))
        known["wilcoxon"] = float(stats.wilcoxon(difference).pvalue)
        known["t_test"] = float(stats.ttest_1samp(difference, 0).pvalue)
    return known


def _means(measured: EvaluationResult) -> dict[str, float]:
    return {
        "Dice": measured.mean("dice"),
        **{f"Dice {segment}": measured.mean("dice", segment) for segment in measured.segments},
        "HD95, mm": measured.mean("hd95"),
        "surface Dice": measured.mean("surface_dice"),
    }


def table_rows(found: Mapping[str, Mapping[str, Any]], against: str = "plain") -> list[Row]:
    """One row for each method, width, number of steps and of labels, in the order of the declared list.

    Each is compared with the method ``against`` of the same width, steps and labels; where nobody annotated, with that
    of all labels, as there is no plain student without any.
    """
    groups: dict[str, dict[int, Mapping[str, Any]]] = {}
    first: dict[str, DeclaredRun] = {}
    for run in DECLARED:
        if run.name in found:
            groups.setdefault(run.row, {})[run.seed] = found[run.name]
            first.setdefault(run.row, run)
    rows = []
    for name, by_seed in groups.items():
        run, runs = first[name], list(by_seed.values())
        other = DeclaredRun(against, run.width, 0, run.steps, run.labelled or None).row
        tests = paired(by_seed, groups.get(other, {})) if name != other else {}
        means = [_means(EvaluationResult.from_dict(result["evaluation"])) for result in runs]
        rows.append(
            Row(
                name,
                tuple(by_seed),
                {key: tuple(m[key] for m in means) for key in means[0]},
                runs[0]["parameters"],
                runs[0]["flops"],
                statistics.median(result["seconds_per_step"] for result in runs),
                statistics.median(result["processor_seconds_per_step"] for result in runs),
                other=other if tests else "",
                **tests,
            )
        )
    return rows


def markdown(rows: Sequence[Row], teacher: Mapping[str, Any] | None, against: str = "plain") -> str:
    """The table for people: Dice x 100; ± is the standard deviation over the seeds."""
    metrics = list(rows[0].means) if rows else []
    head = [
        "student",
        "seeds",
        *metrics,
        f"gain over {against}",
        "better",
        "Wilcoxon p",
        "t p",
        "parameters",
        "GFLOP",
        "s a step",
    ]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    if teacher is not None and metrics:
        means = _means(EvaluationResult.from_dict(teacher["evaluation"]))
        shown = [_shown(key, (means[key],)) for key in metrics]
        size = [f"{teacher['parameters']:,}", f"{teacher['flops'] / 1e9:.2f}", ""]
        lines.append(f"| {' | '.join(['teacher', '', *shown, '', '', '', '', *size])} |")
    for row in rows:
        shown = [_shown(key, row.means[key]) for key in metrics]
        tests = ["", "", "", ""]
        if row.compared:
            tests = [f"{100 * row.gain:+.2f} ± {100 * row.gain_sd:.2f}", f"{row.better} of {row.cases}"]
            tests += [f"{row.wilcoxon:.2g}", f"{row.t_test:.2g}"]
        size = [f"{row.parameters:,}", f"{row.flops / 1e9:.2f}", f"{row.seconds:.2f}"]
        lines.append(f"| {' | '.join([row.name, str(len(row.seeds)), *shown, *tests, *size])} |")
    return "\n".join(lines) + "\n"


def _shown(metric: str, values: Sequence[float]) -> str:
    scale, digits = (1, 2) if "HD95" in metric else (100, 2)
    spread = f" ± {scale * statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{scale * statistics.fmean(values):.{digits}f}{spread}"


def learns_from(method: Method) -> str:
    """What its losses want of it, in words."""
    kinds = {"logits" if loss == "logits" else "features" for loss in method.losses}
    return " and ".join(sorted(kinds)) or "labels alone"


def learning(found: Mapping[str, Mapping[str, Any]]) -> list[Curve]:
    """How the x1/8 students of 3,000 steps and all annotations learnt."""
    curves = []
    for run in DECLARED:
        if run.name not in found or (run.width, run.steps, run.labelled) != (3, 3000, None):
            continue
        result, method = found[run.name], METHODS[run.method]
        losses = [epoch["segmentation"] for epoch in result["history"]]
        dice = EvaluationResult.from_dict(result["evaluation"]).mean("dice")
        name = run.method if run.method in SHOWN else ""
        curves.append(Curve(name, learns_from(method), method.from_teacher, losses, dice))
    return curves


def write_tables(folder: Path, against: str = "plain") -> str:
    """``table.md``, ``.csv``, ``.json`` and ``.png`` of what is finished, and ``learning.png``; the first is given
    back.
    """
    found = results(folder)
    rows = table_rows(found, against)
    if curves := learning(found):
        draw_learning(curves, folder / "learning.png")
    path = folder / "teacher" / RESULT
    teacher = read_json(path) if path.is_file() else None
    text = markdown(rows, teacher, against)
    if rows and teacher is not None:
        dice = {row.name: row.means["Dice"] for row in rows}
        draw_comparison(dice, EvaluationResult.from_dict(teacher["evaluation"]).mean("dice"), folder / "table.png")
    values = [row.to_dict() for row in rows]
    write_json(folder / "table.json", values, overwrite=True)
    write_text(folder / "table.md", text, overwrite=True)
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(dict.fromkeys(key for row in values for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(values)
    write_text(folder / "table.csv", stream.getvalue(), overwrite=True)
    return text


def train_all(runs: Sequence[DeclaredRun], setting: Setting, progress: Progress, together: int = 1) -> int:
    """Train what is not finished, group by group; how many failed. The tables are renewed after each group.

    Raises:
        ReCoKDError: a result in the folder is of other losses than its name stands for.
    """
    failed = 0
    results(setting.folder)
    measure_teacher(setting, progress)
    for group in groups(runs, setting, together):
        failed += train(group, setting, progress)
        write_tables(setting.folder)
    return failed


def main(argv: Sequence[str] | None = None) -> int:
    """Train, or collect what is there."""
    try:
        return _main(argv)
    except ReCoKDError as error:
        print(error, file=sys.stderr)
        return 2


def _main(argv: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("train", "table", "list"))
    parser.add_argument("--folder", type=Path, default=Path("distillation"), help="of all runs")
    add_arguments(parser)
    parser.add_argument("--only", default="", help="words, one of which a run's name has: x8-reco,plain")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--workers", type=int, default=0, help="processes that prepare patches")
    parser.add_argument("--together", type=int, default=4, help="runs of one seed that share a process and a teacher")
    parser.add_argument("--against", choices=METHODS, default="plain", metavar="METHOD", help="in the table")
    given = parser.parse_args(argv)
    runs = chosen(DECLARED, given.only)
    if given.task == "table":
        print(write_tables(given.folder, given.against), end="")
        return 0
    if given.task == "list":
        for run in runs:
            state = "finished" if (given.folder / run.name / RESULT).is_file() else "to do"
            print(f"{run.name}: {state}")
        return 0
    torch.set_num_interop_threads(1)
    setting = Setting.of_arguments(
        given, given.folder, device=given.device, precision=given.precision, workers=given.workers
    )
    with Progress("bar") as progress:
        return min(1, train_all(runs, setting, progress, given.together))


if __name__ == "__main__":
    sys.exit(main())
