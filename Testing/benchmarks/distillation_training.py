"""Trains declared runs and measures them; those of one seed side by side, with the patches and the teacher of one.

Runs of one seed and one set of labels see the same patches in the same order, whatever their method and width. A patch
is augmented, and what the teacher says of it computed, for the first of them and kept for the others, so each of these
costs its student alone. The weights are bit for bit those of a run trained by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from distillation_costs import first_batch, one_step, seconds
from distillation_runs import RESULT, DeclaredRun, Setting, run_settings
from ReCoKDLib.errors import ReCoKDError
from ReCoKDLib.files import write_json
from ReCoKDLib.networks import build_network, count_parameters
from ReCoKDLib.package import ModelPackage
from ReCoKDLib.plan import Int3, Plan
from ReCoKDLib.prediction import Predictor
from ReCoKDTrainingLib.datasets import NnunetRawDataset, read_split
from ReCoKDTrainingLib.evaluation import EvaluationResult, evaluate_cases
from ReCoKDTrainingLib.finish import Presentation, package_run
from ReCoKDTrainingLib.losses.base import NetworkOutputs
from ReCoKDTrainingLib.model_fit import for_evaluation
from ReCoKDTrainingLib.progress import Progress
from ReCoKDTrainingLib.recorders import Recorder
from ReCoKDTrainingLib.run_folder import PLAN
from ReCoKDTrainingLib.runs import Run, prepare_run
from ReCoKDTrainingLib.sampling import PatchDataset
from ReCoKDTrainingLib.trainer import Trainer


class SharedTeacher:
    """A teacher's recorder for several students: what it gave for the last patches is given again, not computed.

    Args:
        recorder: Runs the teacher.
        with_logits: Whether any of the students wants its logits; the pass that is shared has them then.

    Attributes:
        passes: How often the teacher ran.
    """

    def __init__(self, recorder: Recorder, with_logits: bool) -> None:
        self.recorder = recorder
        self.with_logits = with_logits
        self.passes = 0
        self._images: Tensor | None = None
        self._outputs = NetworkOutputs((), ())

    @property
    def decoder(self) -> bool:
        """The recorder's."""
        return self.recorder.decoder

    def channels(self, network: nn.Module) -> tuple[int, ...]:
        """The recorder's."""
        return self.recorder.channels(network)

    def strides(self, network: nn.Module) -> tuple[Int3, ...]:
        """The recorder's."""
        return self.recorder.strides(network)

    def shared_weight(self, network: nn.Module, stage: int) -> nn.Parameter:
        """The recorder's."""
        return self.recorder.shared_weight(network, stage)

    def run(self, network: nn.Module, images: Tensor, with_logits: bool) -> NetworkOutputs:
        """Of (B, C, D, H, W), for all stages and heads; ``network`` is the same each time."""
        if self._images is None or not torch.equal(images, self._images):
            self._outputs = self.recorder.run(network, images, self.with_logits)
            self._images = images
            self.passes += 1
        return self._outputs if with_logits else NetworkOutputs(self._outputs.features, ())


class SharedPatches(PatchDataset):
    """Patches for several students: the last few are given again, not made again.

    Args:
        patches: Makes them.
        kept: How many.
    """

    def __init__(self, patches: PatchDataset, kept: int) -> None:
        self.__dict__.update(patches.__dict__)
        self.made = lru_cache(kept)(patches.__getitem__)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Image and labels, as of the patches."""
        return self.made(index)


@dataclass(frozen=True)
class _Training:
    """A run that takes its turns."""

    declared: DeclaredRun
    run: Run
    steps: Iterator[int]


class _OwnProgress(Progress):
    """Of one run among several: what it says goes to the common log, under the run's name, and to its own."""

    def __init__(self, name: str, common: Progress) -> None:
        super().__init__("bar", common.stop, silent=True)
        self.name = name
        self.common = common

    def say(self, text: str) -> None:
        self.common.say(f"{self.name}: {text}")
        if self.journal is not None:
            self.journal.line(text)


def groups(runs: Sequence[DeclaredRun], setting: Setting, together: int) -> list[list[DeclaredRun]]:
    """What is not finished yet, in groups of at most ``together`` runs that see the same patches."""
    kin: dict[tuple[int, int | None], list[DeclaredRun]] = {}
    for run in runs:
        if not (setting.folder / run.name / RESULT).is_file():
            kin.setdefault((run.seed, run.labelled), []).append(run)
    return [some[first : first + together] for some in kin.values() for first in range(0, len(some), together)]


def train(runs: Sequence[DeclaredRun], setting: Setting, progress: Progress) -> int:
    """Train and measure runs that see the same patches, but for those that another process is at.

    Killed at any time, each goes on from its last whole epoch when it is called again. One that fails, because its
    inputs are wrong or its loss is no number any more, is told and keeps no other from going on.

    Returns:
        How many failed.
    """
    setting.folder.mkdir(parents=True, exist_ok=True)
    failed = 0
    with ExitStack() as locks:
        trainings = []
        for declared in runs:
            try:
                locks.enter_context(FileLock(setting.folder / f"{declared.name}.lock", blocking=False))
                if not (setting.folder / declared.name / RESULT).is_file():
                    trainings.append(_begun(declared, setting, _OwnProgress(declared.name, progress)))
            except Timeout:
                progress.say(f"{declared.name}: another process is at it")
            except ReCoKDError as error:
                failed += 1
                progress.say(f"{declared.name} failed: {error}")
        share_teacher([training.run for training in trainings])
        share_patches([training.run for training in trainings])
        while trainings:
            behind = min(trainings, key=lambda training: training.run.trainer.step)
            try:
                if next(behind.steps, None) is not None:
                    continue
                _measure(behind, setting)
            except ReCoKDError as error:
                failed += 1
                progress.say(f"{behind.declared.name} failed: {error}")
            trainings.remove(behind)
    return failed


def share_teacher(runs: Sequence[Run]) -> SharedTeacher | None:
    """Let one teacher, the first run's, speak for all that have one; None where none has."""
    distillers = [run.trainer.distiller for run in runs if run.trainer.distiller.teacher is not None]
    if not distillers:
        return None
    with_logits = any(distiller.needs_teachers_logits for distiller in distillers)
    most = max((distiller.teacher_recorder for distiller in distillers), key=lambda recorder: recorder.decoder)
    shared = SharedTeacher(most, with_logits)
    for distiller in distillers:
        distiller.teacher = distillers[0].teacher
        distiller.teacher_recorder = shared
    return shared


def share_patches(runs: Sequence[Run]) -> SharedPatches | None:
    """Let one run's patches be those of all that train on its cases; None where processes of its own make them.

    With few labels the plain students train on fewer cases than the others.
    """
    if not runs or runs[-1].trainer.workers:
        return None
    last = runs[-1].trainer
    shared = SharedPatches(last.patches, 2 * last.schedule.batch_size)  # nobody is two batches ahead
    for run in runs:
        if run.trainer.settings["meaning of the labels"] == last.settings["meaning of the labels"]:
            run.trainer.patches = shared
    return shared


def _begun(declared: DeclaredRun, setting: Setting, progress: Progress) -> _Training:
    progress.say("begins")
    settings = run_settings(declared, setting)
    run = prepare_run(settings, progress, resume=(settings.output / PLAN).is_file())
    return _Training(declared, run, iter(() if run.trainer.finished else run.trainer.steps()))


def _measure(training: _Training, setting: Setting) -> None:
    """The finished student on the held-out cases, as a user would run its package."""
    declared, run = training.declared, training.run
    package = package_run(run, Presentation(name=declared.name.replace("+", "-")))
    measured = evaluate_cases(run.split.validation, Predictor.from_package(ModelPackage.open(package), setting.device))
    write_json(setting.folder / declared.name / RESULT, _result(declared, run, measured), overwrite=True)


def _result(declared: DeclaredRun, run: Run, measured: EvaluationResult) -> dict[str, Any]:
    trainer = run.trainer
    wall, processor = cost_of_a_step(trainer)
    return {
        "method": declared.method,
        "width": declared.width,
        "seed": declared.seed,
        "steps": declared.steps,
        "labelled": declared.labelled,
        "losses": dict(run.settings.losses),
        "options": {name: dict(options) for name, options in run.settings.loss_options.items()},
        "ramp": run.settings.ramp,
        "connectors": asdict(run.settings.connectors),
        "from_teacher": run.initial is not None,
        "parameters": count_parameters(trainer.distiller.student),
        "flops": patch_flops(run.plan, run.dataset.label_set.number_of_heads),
        "seconds_per_step": wall,
        "processor_seconds_per_step": processor,
        "precision": trainer.settings["precision"],
        "device": str(trainer.device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "history": trainer.history,
        "evaluation": measured.to_dict(),
    }


def cost_of_a_step(trainer: Trainer) -> tuple[float, float]:
    """Wall-clock and processor seconds of a step with a teacher of its own; the weights move a little."""
    distiller = trainer.distiller
    shared = distiller.teacher_recorder
    if isinstance(shared, SharedTeacher):
        distiller.teacher_recorder = shared.recorder
    try:
        images, labels = first_batch(trainer)
        return seconds(lambda: one_step(trainer, images, labels))
    finally:
        distiller.teacher_recorder = shared


def patch_flops(plan: Plan, heads: int) -> int:
    """Floating-point operations of the network for one patch; a multiplication and an addition are two."""
    network: nn.Module = build_network(plan.architecture, plan.channels, heads)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network(torch.zeros(1, plan.channels, *plan.patch_size))
    return int(counter.get_total_flops())


def measure_teacher(setting: Setting, progress: Progress) -> None:
    """The teacher on the same cases, once."""
    path = setting.folder / "teacher" / RESULT
    if path.is_file():
        return
    package = ModelPackage.open(setting.teacher)
    dataset = for_evaluation(package, NnunetRawDataset(setting.dataset))
    cases = read_split(dataset, setting.split).validation
    progress.stage("Evaluating the teacher", 1000)
    predictor = Predictor.from_package(package, setting.device)
    measured = evaluate_cases(cases, predictor, label_set=dataset.label_set, progress=progress.fraction)
    heads = package.label_set.number_of_heads
    network = build_network(package.plan.architecture, package.plan.channels, heads, deep_supervision=True)
    content = {
        "parameters": count_parameters(network),
        "flops": patch_flops(package.plan, heads),
        "evaluation": measured.to_dict(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, content, overwrite=True)
