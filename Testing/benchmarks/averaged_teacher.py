"""Would a teacher in its last-epochs average be a better one? Trains it on and measures means of its last weights.

    python Testing/benchmarks/averaged_teacher.py --folder FOLDER --data DATA

Prints a table, also as ``averaged.json``. Each mean is a model package in FOLDER, a teacher for ``distillation.py``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distillation_runs import DeclaredRun, Setting, add_arguments, run_settings
from ReCoKDLib.files import write_json
from ReCoKDLib.package import ModelPackage
from ReCoKDLib.prediction import Predictor
from ReCoKDTrainingLib.evaluation import evaluate_cases
from ReCoKDTrainingLib.finish import Presentation, package_run
from ReCoKDTrainingLib.progress import Progress
from ReCoKDTrainingLib.runs import prepare_run

COUNTS = (1, 2, 5, 10)
"""How many of the last epochs' weights are averaged."""


def mean_weights(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of weights of one network, summed in double precision (Izmailov et al., arXiv 1803.05407)."""
    return {
        name: torch.stack([state[name].double() for state in states]).mean(0).to(first.dtype)
        for name, first in states[0].items()
    }


def train_on(setting: Setting, epochs: int, learning_rate: float, seed: int) -> list[dict[str, Any]]:
    """Train the setting's teacher further, and package and measure the means of the last epochs' weights.

    Returns:
        For each of ``COUNTS`` that the epochs suffice for: epochs, mean Dice of all and of each segment, package.
    """
    plain = run_settings(DeclaredRun("plain", 0, seed, epochs * setting.steps_per_epoch), setting)
    settings = replace(plain, output=setting.folder, teacher=None, initial=setting.teacher, learning_rate=learning_rate)
    with Progress("bar") as progress:
        run = prepare_run(settings, progress)
        network = run.trainer.distiller.student
        states: list[dict[str, Tensor]] = []
        for step in run.trainer.steps():
            if step % setting.steps_per_epoch == 0:
                states.append({name: value.clone() for name, value in network.state_dict().items()})
        rows = []
        for count in COUNTS:
            if count > len(states):
                continue
            network.load_state_dict(mean_weights(states[-count:]))
            what = f"Mean of the weights after each of the last {count} epochs."
            package = package_run(run, Presentation(name=f"teacher-mean-of-{count}", description=what))
            predictor = Predictor.from_package(ModelPackage.open(package), setting.device)
            measured = evaluate_cases(run.split.validation, predictor)
            each = {segment: measured.mean("dice", segment) for segment in measured.segments}
            rows.append({"epochs": count, "Dice": measured.mean("dice"), **each, "package": package.name})
    write_json(setting.folder / "averaged.json", rows, overwrite=True)
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Train and tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("averaged"), help="new, for the run")
    add_arguments(parser)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--learning-rate", type=float, default=0.005)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="auto")
    given = parser.parse_args(argv)
    setting = Setting.of_arguments(given, given.folder, device=given.device)
    for row in train_on(setting, given.epochs, given.learning_rate, given.seed):
        shown = [f"{key} {value:.4f}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()]
        print("  ".join(shown))
    return 0


if __name__ == "__main__":
    sys.exit(main())
