"""Why a student learns what it learns from its teacher: gradients, features, adapters, and where it goes wrong.

    python Testing/benchmarks/diagnosis.py follow --method reco --steps 600 --folder FOLDER --data DATA
    python Testing/benchmarks/diagnosis.py features --runs x8-reco-3000-s0 --folder FOLDER --data DATA
    python Testing/benchmarks/diagnosis.py directions --runs x8-reco+logits-3000-s0 --folder FOLDER --data DATA
    python Testing/benchmarks/diagnosis.py structures --runs x8-plain-3000-s0 --folder FOLDER --data DATA
    python Testing/benchmarks/diagnosis.py errors --runs x8-plain-3000-s0,x8-reco-3000-s0 --folder FOLDER --data DATA

``follow`` trains a short run and measures after every epoch; the others look at runs of the comparison: ``features``
how close their features are to the teacher's, ``directions`` whether what each distillation term wants is what the
labels want, ``structures`` what they draw and in how many pieces, ``errors`` where they are wrong. Each writes a JSON
file; ``follow``, ``structures`` and ``errors`` draw pictures too.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from diagnosis_errors import census, error_table
from diagnosis_measures import (
    agreements,
    drawn_labels,
    drawn_structures,
    gradients_by_stage,
    least_unexplained,
    movements,
    probe,
    similarities,
    told_apart,
    unexplained,
    unexplained_by_rank,
)
from distillation_runs import DECLARED, DeclaredRun, Setting, add_arguments, run_settings
from figures import draw_errors, draw_following, draw_slices
from ReCoKDLib.files import write_json
from ReCoKDLib.preprocessing import OUTSIDE
from ReCoKDTrainingLib.progress import Progress
from ReCoKDTrainingLib.recorders import recorder_for
from ReCoKDTrainingLib.runs import Run, prepare_run

CASES = 40
"""Validation cases that are looked at, at most; ``follow`` looks at some things in fewer."""
SHOWN = 3
"""Of these in pictures of slices."""


class Follower(Progress):
    """Measures whenever the trainer tells of an epoch, and writes ``following.json``, ``following.png`` and
    ``slices.png`` anew.

    Args:
        title: above the picture.
    """

    def __init__(self, title: str) -> None:
        super().__init__("bar")
        self.title = title
        self.measured: list[dict[str, Any]] = []
        self.drawn: dict[str, Tensor] = {}
        self.run: Run | None = None

    def begin(self, run: Run, cases: int) -> None:
        """Keep the adapters' first weights, and measure."""
        self.run = run
        self.cases = cases
        images, labels = probe(run, CASES, self)
        labels[labels == OUTSIDE] = 0
        self.images, self.labels = images.to(run.trainer.device), labels.to(run.trainer.device)
        architecture = run.plan.architecture
        self.recorder = recorder_for(architecture, decoder=architecture.backbone.encoder_returns_stages)
        distiller = run.trainer.distiller
        self.adapters = nn.ModuleDict({"connectors": distiller.connectors, "losses": distiller.losses})
        self.start = {name: value.clone() for name, value in self.adapters.state_dict().items()}
        self.measure()

    def say(self, text: str) -> None:
        """As ever, and measure after an epoch."""
        super().say(text)
        if self.run is not None and text.startswith("epoch "):
            self.measure()

    def measure(self) -> None:
        """One more entry of ``measured``."""
        assert self.run is not None
        trainer, output = self.run.trainer, self.run.settings.output
        few = self.images[: self.cases]
        annotated, drawn = self.labels.cpu(), drawn_labels(trainer.distiller, self.images)
        self.drawn[f"after epoch {trainer.epoch}"] = drawn[:SHOWN]
        self.measured.append(
            {
                "epoch": trainer.epoch,
                "cka": similarities(trainer.distiller, few),
                "unexplained": unexplained(trainer.distiller, few),
                "least unexplained": least_unexplained(trainer.distiller, few),
                "told apart": told_apart(trainer.distiller, self.recorder, self.images, self.labels),
                "structures": drawn_structures(drawn, annotated),
                "gradients": gradients_by_stage(trainer.distiller, self.images[:2], self.labels[:2]),
                "movements": movements(self.adapters, self.start),
                "losses": trainer.history[-1] if trainer.history else {},
            }
        )
        write_json(output / "following.json", {"run": self.title, "epochs": self.measured}, overwrite=True)
        draw_following(self.measured, self.title, output / "following.png")
        epochs = list(self.drawn)
        fitting = [epochs[k] for k in np.unique(np.linspace(0, len(epochs) - 1, 8).round().astype(int))]
        shown = {"annotation": annotated[:SHOWN], **{epoch: self.drawn[epoch] for epoch in fitting}}
        draw_slices(self.images[:SHOWN], shown, self.run.plan.spacing, output / "slices.png")


def follow(declared: DeclaredRun, setting: Setting, cases: int = 6) -> Path:
    """Train a run into a new folder; ``following.json`` and ``following.png`` there tell what happens."""
    follower = Follower(declared.row)
    run = prepare_run(run_settings(declared, setting), follower)
    follower.begin(run, cases)
    run.trainer.run()
    return run.settings.output / "following.png"


def errors(declared: Sequence[DeclaredRun], setting: Setting) -> Path:
    """Write ``errors.json`` and ``errors.png`` into the folder of the comparison; the runs must have begun there."""
    with Progress("bar") as progress:
        runs = {run.name: prepare_run(run_settings(run, setting), progress, resume=True) for run in declared}
        for run in runs.values():
            run.trainer.distiller.eval()
        table = error_table(census(runs, progress))
    write_json(setting.folder / "errors.json", table, overwrite=True)
    draw_errors(table, list(runs), setting.folder / "errors.png")
    return setting.folder / "errors.png"


def _begun(
    declared: Sequence[DeclaredRun], setting: Setting, cases: int
) -> Iterator[tuple[DeclaredRun, Run, Tensor, Tensor]]:
    """Each of the comparison's runs at its last checkpoint, with images and labels of :func:`probe` on its device."""
    with Progress("bar") as progress:
        for run in declared:
            prepared = prepare_run(run_settings(run, setting), progress, resume=True)
            images, labels = (of.to(prepared.trainer.device) for of in probe(prepared, cases, progress))
            yield run, prepared, images, labels.clamp_min(0)


def directions(declared: Sequence[DeclaredRun], setting: Setting, cases: int = CASES) -> str:
    """For each run and term the cosines of :func:`agreements` with the segmentation loss, also as ``directions.json``.

    Raises:
        ReCoKDError: fewer than two validation cases.
    """
    rows: list[dict[str, Any]] = []
    for run, prepared, images, labels in _begun(declared, setting, cases):
        for term, cosines in agreements(prepared.trainer.distiller, images, labels, "segmentation").items():
            places = [*(f"stage {k}" for k in range(len(cosines) - 1)), "decoder"]
            read = zip(places, cosines, strict=True)
            rows.append({"run": run.name, "term": term, **{place: cosine or None for place, cosine in read}})
    return _told(rows, setting.folder / "directions.json")


def features(declared: Sequence[DeclaredRun], setting: Setting, cases: int = 6) -> str:
    """For each run and stage CKA, and what the connector, the best, and the best of all leave, also as
    ``features.json``.
    """
    rows: list[dict[str, Any]] = []
    for run, prepared, images, _ in _begun(declared, setting, cases):
        distiller = prepared.trainer.distiller.eval()
        present, best = unexplained(distiller, images), least_unexplained(distiller, images)
        rank = unexplained_by_rank(distiller, images)
        rows += [
            {
                "run": run.name,
                "epoch": prepared.trainer.epoch,
                "stage": k,
                "CKA": cka,
                "P F_S leaves": present.get(str(k)),
                "the best P leaves": best[str(k)],
                "with the best F_S": rank[str(k)],
            }
            for k, cka in enumerate(similarities(distiller, images))
        ]
    return _told(rows, setting.folder / "features.json")


def structures(declared: Sequence[DeclaredRun], setting: Setting) -> str:
    """For each run and structure what :func:`drawn_structures` tells, also as ``structures.json``; what the runs
    draw as ``structures.png``.
    """
    rows: list[dict[str, Any]] = []
    shown: dict[str, Tensor] = {}
    for run, prepared, images, labels in _begun(declared, setting, CASES):
        annotated, drawn = labels.cpu(), drawn_labels(prepared.trainer.distiller.eval(), images)
        found = drawn_structures(drawn, annotated)
        rows += [{"run": run.name, "epoch": prepared.trainer.epoch, **structure} for structure in found]
        shown |= {"annotation": annotated[:SHOWN], run.name: drawn[:SHOWN]}
    draw_slices(images[:SHOWN], shown, prepared.plan.spacing, setting.folder / "structures.png")
    return _told(rows, setting.folder / "structures.json")


def _told(rows: Sequence[Mapping[str, Any]], path: Path) -> str:
    """A markdown table of the rows, which are written as JSON too."""
    write_json(path, list(rows), overwrite=True)
    head = list(dict.fromkeys(key for row in rows for key in row))
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row in rows:
        values = [row.get(key) for key in head]
        shown = ["" if v is None else f"{v:.2f}" if isinstance(v, float) else str(v) for v in values]
        lines.append(f"| {' | '.join(shown)} |")
    return "\n".join(lines)


LOOKS: dict[str, Callable[[Sequence[DeclaredRun], Setting], str | Path]] = {
    "features": features,
    "directions": directions,
    "structures": structures,
    "errors": errors,
}
"""What can be done with runs of the comparison."""


def main(argv: Sequence[str] | None = None) -> int:
    """Follow a run, or look at what others have become."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("follow", *LOOKS))
    parser.add_argument("--folder", type=Path, default=Path("distillation"), help="of all runs")
    add_arguments(parser)
    parser.add_argument("--method", default="reco", help="to follow")
    parser.add_argument("--width", type=int, default=3)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--steps-per-epoch", type=int, default=100)
    parser.add_argument("--runs", default="", help="names of runs in the folder, comma-separated")
    parser.add_argument("--device", default="auto")
    given = parser.parse_args(argv)
    setting = Setting.of_arguments(given, given.folder, steps_per_epoch=given.steps_per_epoch, device=given.device)
    if given.task == "follow":
        print(follow(DeclaredRun(given.method, given.width, steps=given.steps), setting))
        return 0
    names = given.runs.split(",")
    runs = [run for run in DECLARED if run.name in names]
    unknown = sorted({*names} - {run.name for run in runs})
    if unknown:
        parser.error(f"--runs: no run is called {' or '.join(map(repr, unknown))}")
    print(LOOKS[given.task](runs, setting))
    return 0


if __name__ == "__main__":
    sys.exit(main())
