"""The declared runs of the comparison of distillation methods, and the settings that each is trained with."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ReCoKDLib.errors import ReCoKDError
from ReCoKDLib.files import make_once, read_json, write_json
from ReCoKDTrainingLib.connectors import ConnectorOptions
from ReCoKDTrainingLib.run_settings import RunSettings
from ReCoKDTrainingLib.training_data import DataSettings

RESULT = "result.json"
STEPS_PER_EPOCH = 100
TEACHER = "hippocampus-teacher.recokd.zip"
REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Method:
    """Distillation losses with their eta, their options, how connectors start and learn; whether cases that nobody
    annotated are trained on, with the teacher's labels; whether the student starts with channels of the teacher.
    """

    losses: Mapping[str, float] = field(default_factory=dict)
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    ramp: float = 0.6
    connectors: ConnectorOptions = field(default_factory=ConnectorOptions)
    unlabelled: bool = True
    from_teacher: bool = False


FITTED = ConnectorOptions("fitted", 10)
TUNED = {"reco": {"uniform": True, "masks": "area", "context": "affinity"}}
"""ReCo-KD's options that were each better than its defaults with one seed."""
METHODS: dict[str, Method] = {
    "plain": Method(unlabelled=False),
    "teacher's labels": Method(),  # and nothing else of it
    "logits": Method({"logits": 1}),
    "logits, no ramp": Method({"logits": 1}, ramp=0),
    "logits, eta 3": Method({"logits": 3}),
    "logits, eta 10": Method({"logits": 10}),
    "logits by class": Method({"logits": 1}, {"logits": {"by_class": True}}),
    "logits by class, eta 0.3": Method({"logits": 0.3}, {"logits": {"by_class": True}}),
    "reco": Method({"reco": 1}),
    # The others with weights that pull at the start, over the whole encoder, half to eight times as hard as the
    # segmentation loss (logits: three times); published ones where they do: distillation_costs.py.
    "fitnet": Method({"fitnet": 1}),
    "at": Method({"at": 1}),
    "cwd": Method({"cwd": 1}),
    "skd": Method({"skd": 10}, {"skd": {"scale": 0.25}}),
    "ifvd": Method({"ifvd": 5}),
    "ifvd, eta 1": Method({"ifvd": 1}),
    "cirkd": Method({"cirkd": 1}),
    "cirkd, logits, eta 3": Method({"cirkd": 1, "logits": 3}),
    "mgd": Method({"mgd": 20}),
    "emkd": Method({"emkd": 0.3, "logits": 0.1}, {"logits": {"temperature": 4}}),
    "dprd": Method({"dprd": 0.5}),
    "reco+logits": Method({"reco": 1, "logits": 1}),
    # what each part of ReCo-KD does alone
    "reco, fg": Method({"reco": 1}, {"reco": {"bg": 0, "att": 0, "ctx": 0}}),
    "reco, bg": Method({"reco": 1}, {"reco": {"fg": 0, "att": 0, "ctx": 0}}),
    "reco, att": Method({"reco": 1}, {"reco": {"fg": 0, "bg": 0, "ctx": 0}}),
    "reco, ctx": Method({"reco": 1}, {"reco": {"fg": 0, "bg": 0, "att": 0}}),
    # candidates, in the spirit of the method
    "reco, eta 0.3": Method({"reco": 0.3}),
    "reco, eta 0.1": Method({"reco": 0.1}),
    "reco, eta 0.01": Method({"reco": 0.01}),  # the authors'
    "reco, eta 0.3, logits": Method({"reco": 0.3, "logits": 1}),
    "reco, eta 0.3, logits, eta 3": Method({"reco": 0.3, "logits": 3}),
    "reco, first half, logits": Method({"reco": 1, "logits": 1}, {"reco": {"until": 0.5}}),
    "reco, first half, logits, no ramp": Method({"reco": 1, "logits": 1}, {"reco": {"until": 0.5}}, ramp=0),
    "reco, uniform stages": Method({"reco": 1}, {"reco": {"uniform": True}}),
    "reco, decoder too": Method({"reco": 1}, {"reco": {"decoder": True}}),
    "reco, decoder too, logits": Method({"reco": 1, "logits": 1}, {"reco": {"decoder": True}}),
    "reco, area": Method({"reco": 1}, {"reco": {"masks": "area"}}),
    "reco, affinity": Method({"reco": 1}, {"reco": {"context": "affinity"}}),
    "reco, fitted": Method({"reco": 1}, connectors=FITTED),
    "reco, normalised": Method({"reco": 0.3}, {"reco": {"normalise": "ema"}}),
    "reco, tuned": Method({"reco": 1}, TUNED, connectors=FITTED),
    "reco, tuned, logits, eta 3": Method({"reco": 1, "logits": 3}, TUNED, connectors=FITTED),
    # students that start with channels of the teacher: weight selection
    "plain, from teacher": Method(unlabelled=False, from_teacher=True),
    "logits, eta 3, from teacher": Method({"logits": 3}, from_teacher=True),
    "reco, from teacher": Method({"reco": 1}, from_teacher=True),
    "reco, eta 0.3, logits, eta 3, from teacher": Method({"reco": 0.3, "logits": 3}, from_teacher=True),
}


@dataclass(frozen=True)
class DeclaredRun:
    """One row's run.

    Attributes:
        method: a name of ``METHODS``.
        width: the student's t, 1 / 2^t of the teacher's channels.
        seed: of initialisation, sampling and augmentation.
        steps: a multiple of ``STEPS_PER_EPOCH``.
        labelled: how many training cases have labels; None: all. The others are for the teacher alone, and the plain
            student never sees them.
    """

    method: str
    width: int = 3
    seed: int = 0
    steps: int = 3000
    labelled: int | None = None

    @property
    def row(self) -> str:
        """What it has in common with the runs of other seeds."""
        labelled = "" if self.labelled is None else f", {self.labelled} labelled"
        return f"x1/{2**self.width} {self.method}, {self.steps} steps{labelled}"

    @property
    def name(self) -> str:
        """Of its folder."""
        labelled = "" if self.labelled is None else f"-{self.labelled}labelled"
        method = self.method.replace(", ", "-").replace(" ", "-").replace("'", "")
        return f"x{2**self.width}-{method}-{self.steps}{labelled}-s{self.seed}"


MOST_TELLING = ("plain", "logits", "reco", "reco+logits")
OTHERS = ("fitnet", "cwd", "at", "ifvd", "skd", "cirkd", "emkd", "mgd", "dprd")
PARTS = ("reco, fg", "reco, bg", "reco, att", "reco, ctx")
FROM_TEACHER = tuple(name for name, method in METHODS.items() if method.from_teacher)
LOGITS = tuple(name for name in METHODS if name.startswith(("logits, ", "logits by")) and name not in FROM_TEACHER)
CANDIDATES = tuple(name for name in METHODS if name.startswith("reco, ") and name not in (*PARTS, *FROM_TEACHER))
DECLARED: tuple[DeclaredRun, ...] = (
    *(DeclaredRun(method, seed=seed) for seed in range(3) for method in MOST_TELLING),
    *(DeclaredRun(method) for method in OTHERS),
    *(DeclaredRun("cirkd", seed=seed) for seed in (1, 2)),  # the best of them but MGD, which takes five times as long
    *(DeclaredRun(method) for method in ("ifvd, eta 1", "cirkd, logits, eta 3")),
    *(DeclaredRun(method) for method in LOGITS),
    *(DeclaredRun(method, width=2) for method in MOST_TELLING),
    DeclaredRun("logits", width=1, steps=1500),
    *(DeclaredRun("logits, eta 3", seed=seed) for seed in (1, 2)),
    DeclaredRun("logits, eta 3", width=2),
    *(DeclaredRun(method) for method in FROM_TEACHER),
    *(DeclaredRun(method) for method in PARTS),
    *(DeclaredRun(method) for method in CANDIDATES),
    *(DeclaredRun(method, seed=seed) for method in ("reco, area", "reco, tuned") for seed in (1, 2)),
    *(DeclaredRun(method, steps=6000) for method in ("plain", "logits, eta 3", "reco", "plain, from teacher")),
    *(DeclaredRun(method, seed=seed, steps=6000) for seed in (1, 2) for method in ("plain", "logits, eta 3")),
    *(DeclaredRun(method, labelled=n) for n in (10, 20, 40) for method in (*MOST_TELLING, "teacher's labels")),
    *(DeclaredRun(method, seed=1, labelled=10) for method in ("plain", "logits", "reco", "teacher's labels")),
    *(DeclaredRun("logits", seed=seed, labelled=0) for seed in (0, 1)),
    DeclaredRun("logits", width=2, labelled=0),
)
"""In the order in which they are trained; with all 160 cases labelled it is the first row of a method."""


@dataclass(frozen=True)
class Setting:
    """What is the same for every row.

    Attributes:
        dataset: nnU-Net's raw layout.
        split: training and validation cases.
        teacher: model package.
        folder: one folder a run is made in it.
        steps_per_epoch: the schedule changes between epochs.
        device: where to train and to measure.
        precision: auto, bf16 or off; runs that go on elsewhere need one that is the same there.
        workers: processes that prepare patches; 0: none but this one.
    """

    dataset: Path
    split: Path
    teacher: Path
    folder: Path
    steps_per_epoch: int = STEPS_PER_EPOCH
    batch_size: int = 2
    mirror_axes: tuple[int, ...] = (2,)
    device: str = "auto"
    precision: str = "auto"
    workers: int = 0

    @classmethod
    def of_arguments(cls, given: argparse.Namespace, folder: Path, **more: Any) -> Setting:
        """What :func:`add_arguments` was given."""
        split = REPOSITORY / "Resources" / "split_hippocampus.json"
        return cls(given.data / "Dataset004_Hippocampus", split, given.teacher, folder, **more)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where data and teacher are."""
    parser.add_argument("--data", type=Path, default=REPOSITORY.parent / "shared" / "data")
    parser.add_argument("--teacher", type=Path, default=REPOSITORY / "Resources" / "Teachers" / TEACHER)


def run_settings(run: DeclaredRun, setting: Setting) -> RunSettings:
    """The same teacher, patches, schedule and selection of weights for every run; only losses and start differ.

    Raises:
        ReCoKDError: the steps are no whole number of epochs.
    """
    if run.steps % setting.steps_per_epoch:
        raise ReCoKDError(f"{run.steps} steps are no multiple of {setting.steps_per_epoch}, the steps of an epoch.")
    method = METHODS[run.method]
    return RunSettings(
        data=_data(run, setting),
        output=setting.folder / run.name,
        teacher=setting.teacher,
        width=run.width,
        losses=method.losses,
        loss_options=method.options,
        ramp=method.ramp,
        connectors=method.connectors,
        initial=setting.teacher if method.from_teacher else None,
        mirror_axes=setting.mirror_axes,
        cache=setting.folder / "preprocessed",
        epochs=run.steps // setting.steps_per_epoch,
        steps_per_epoch=setting.steps_per_epoch,
        batch_size=setting.batch_size,
        seed=run.seed,
        device=setting.device,
        precision=setting.precision,
        workers=setting.workers,
    )


def _data(run: DeclaredRun, setting: Setting) -> DataSettings:
    """All cases and their split, or a copy in which only the first ``labelled`` training cases have labels."""
    if run.labelled is None:
        return DataSettings((setting.dataset,), split=setting.split)
    split = read_json(setting.split)
    known = split["train"][: run.labelled]
    path = setting.folder / f"split-{run.labelled}.json"
    write_json(path, {"train": known, "val": split["val"]}, overwrite=True)
    if not METHODS[run.method].unlabelled:
        return DataSettings((setting.dataset,), split=path)
    dataset = setting.folder / f"{setting.dataset.name}-{run.labelled}-labelled"
    if not dataset.is_dir():

        def copy(folder: Path) -> None:
            shutil.copytree(setting.dataset, folder, dirs_exist_ok=True)
            for case in split["train"][run.labelled :]:
                for label_map in (folder / "labelsTr").glob(f"{case}.*"):
                    label_map.unlink()

        make_once(dataset, copy)
    return DataSettings((dataset,), split=setting.split)


def chosen(runs: Iterable[DeclaredRun], only: str) -> list[DeclaredRun]:
    """Those whose name contains one of the comma-separated words; all of them for no word."""
    words = [word for word in only.split(",") if word]
    return [run for run in runs if not words or any(word in run.name for word in words)]


def results(folder: Path) -> dict[str, dict[str, Any]]:
    """By the run's name, every result that there is, in the order of the declared list.

    Raises:
        ReCoKDError: one is of other losses or options, or of another start, than the run is declared with now.
    """
    found = {}
    for run in DECLARED:
        path = folder / run.name / RESULT
        if not path.is_file():
            continue
        result = found[run.name] = read_json(path)
        method = METHODS[run.method]
        from_teacher = result.get("from_teacher", False)  # results from before there was a choice have none
        if (result["losses"], result["options"], from_teacher) != (method.losses, method.options, method.from_teacher):
            start = ", from teacher" if from_teacher else ""
            raise ReCoKDError(
                f"The result in {path.parent} is of another method than '{run.method}' stands for now: "
                f"{result['losses']}, {result['options']}{start}. Move that folder elsewhere, or rename the method."
            )
    return found
