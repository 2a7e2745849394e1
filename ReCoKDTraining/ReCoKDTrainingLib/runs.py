"""A training run from its settings: data, plan, networks, losses, schedule and run folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ReCoKDLib.files import read_json, write_json
from ReCoKDLib.labels import LabelSet
from ReCoKDLib.package import ModelPackage
from ReCoKDLib.plan import Plan

from .agreement import from_first
from .augmentation import augments_on
from .batches import default_workers
from .building import distiller_for, initial_weights, plan_for, require_held_out
from .cache import Loaded, preprocess_cases
from .checkpoints import FOLDER as CHECKPOINTS
from .checkpoints import Checkpoints, remove_leftovers
from .class_matching import ClassMap
from .compiling import compile_teacher
from .datasets import Dataset, Split
from .environment import environment
from .fingerprint import Fingerprint
from .inspection import CheckedData, checked_data, remember
from .journal import Journal
from .model_fit import as_task, match_model
from .precision import autocast_dtype
from .processes import own_device, share_of_batch
from .progress import Progress
from .resuming import differences, require_same
from .run_folder import CONFIGURATION, ENVIRONMENT, FINGERPRINT, PLAN, PREPROCESSED, SPLIT, check_folder
from .run_settings import RunSettings
from .sampling import PatchDataset
from .schedule import Schedule
from .torchrun import place
from .trainer import Trainer
from .training_data import open_cases, unlabelled
from .validation import Validation, spread_out


@dataclass(frozen=True)
class Run:
    """A run that is set up: everything that the trainer and the model's card need.

    Attributes:
        settings: What was asked for.
        dataset: With the labels that are learned.
        split: Training and held-out cases.
        fingerprint: Of the training cases.
        plan: Of the network that is trained.
        teacher: What it is distilled from.
        classes: From the teacher's classes to those that are learned.
        initial: Where its weights came from.
        trainer: Ready to run.
    """

    settings: RunSettings
    dataset: Dataset
    split: Split
    fingerprint: Fingerprint
    plan: Plan
    teacher: ModelPackage | None
    classes: ClassMap | None
    initial: ModelPackage | None
    trainer: Trainer


def prepare_run(settings: RunSettings, progress: Progress, resume: bool = False, anyway: bool = False) -> Run:
    """Read and check everything, preprocess, build networks and losses; load the newest checkpoint when resuming.

    Args:
        settings: What is asked.
        progress: Where to tell; gets the run's journal as soon as all inputs are right.
        resume: Go on with the run in the folder.
        anyway: Also where its settings or data were others.

    Raises:
        ReCoKDError: Any of the inputs is wrong. Nothing is written then but an empty run folder, save where the
            checkpoint of a run that is resumed does not fit it.
    """
    from_first(lambda: check_folder(settings.output, resume))
    teacher = None if settings.teacher is None else ModelPackage.open(settings.teacher)
    loaded: dict[str, Loaded] = {}  # of the first process

    def checked() -> CheckedData:
        everything = open_cases(settings.data, None if teacher is None else as_task(teacher))
        earlier = settings.output if resume else None
        data, in_memory = checked_data(everything, settings.data, teacher is not None, earlier, progress)
        loaded.update(in_memory)
        return data

    data = from_first(checked)
    dataset, split, fingerprint = data.dataset, data.split, data.fingerprint
    require_held_out(settings, split)
    classes = None if teacher is None else match_model(teacher, dataset, dataset.synonyms)
    initial = initial_weights(settings, dataset)
    plan = plan_for(settings, dataset, fingerprint, teacher)
    schedule = Schedule(
        epochs=settings.epochs,
        steps_per_epoch=settings.steps_per_epoch,
        batch_size=settings.batch_size or plan.batch_size,
        learning_rate=settings.learning_rate,
        seed=settings.seed,
    )
    share_of_batch(schedule.batch_size)  # can it be divided?
    device = own_device(settings.device)
    dtype = autocast_dtype(device, settings.precision)
    distiller = distiller_for(settings, plan, dataset, split, teacher, classes, initial, device, dtype).to(device)
    orientation = fingerprint.orientation if teacher is None else teacher.card.orientation
    facts = {
        "data": {case.identifier: case.sha256[:16] for case in fingerprint.cases},
        "cases": [case.identifier for case in split.training],  # sampling goes by their order
        "held-out cases": [case.identifier for case in split.validation],
        "channels": list(dataset.channel_names),
        "classes": dataset.label_set.to_dataset_json(),
        "meaning of the labels": {case.identifier: case.meaning()[:16] for case in split.training},
        "plan": plan.to_nnunet(),
        "orientation": orientation,
        "teacher": None if teacher is None else teacher.checksum,
        "initial": None if initial is None else initial.checksum,
        "labels": list(settings.data.labels) or None,
        "unlabelled weight": settings.data.unlabelled_weight if unlabelled(split.training) else None,
        "mirror axes": list(settings.mirror_axes),
        "losses": dict(settings.losses),
        "loss options": {name: dict(options) for name, options in settings.loss_options.items()},
        "ramp": settings.ramp,
        "connectors": asdict(settings.connectors),
        "precision": str(dtype),
        "schedule": asdict(schedule),
    }
    # A run killed before its first checkpoint has none yet.
    state = Checkpoints(settings.output).newest(progress.say) if resume else None
    if state is not None:
        require_same(state["settings"], facts, anyway, progress.say)
    if place().first:
        progress.journal = Journal(settings.output)
        progress.journal.state("preparing")
        if state is not None and (settings.output / ENVIRONMENT).is_file():
            for change in differences(read_json(settings.output / ENVIRONMENT), environment(device)):
                progress.say(f"Goes on with another environment: {change}.")
        if resume:
            remove_leftovers(settings.output, settings.output / CHECKPOINTS, settings.output / PREPROCESSED)
        if state is None or anyway:
            _describe(settings, fingerprint, plan, facts, device)
        if data.checksum:
            remember(data, settings.output)

    progress.stage("Preprocessing", len(split.training), part=(0.02, 0.05))
    cases = from_first(
        lambda: preprocess_cases(
            split.training,
            plan,
            dataset.label_set,
            settings.cache or settings.output / PREPROCESSED,
            orientation=orientation,
            contents={case.identifier: case.sha256 for case in fingerprint.cases},
            loaded=loaded,
            progress=progress.fraction,
        )
    )
    loaded.clear()
    trainer = Trainer(
        schedule,
        distiller,
        PatchDataset(
            cases,
            plan,
            dataset.label_set,
            settings.seed,
            schedule.samples,
            settings.mirror_axes,
            unlabelled_weight=settings.data.unlabelled_weight,
            on_device=augments_on(device, settings.augmentation),
        ),
        settings.output,
        device=device,
        settings=facts,
        workers=default_workers() if settings.workers < 0 else settings.workers,
        progress=progress,
        validation=_validation(settings, split, plan, dataset.label_set, orientation, device),
        checkpoint_minutes=settings.checkpoint_minutes,
    )
    if settings.compile_teacher:
        share = share_of_batch(schedule.batch_size)
        shape = (share, plan.channels, *plan.patch_size)
        progress.stage("Compiling the teacher", 1, part=(0.05, 0.05))
        compile_teacher(distiller, torch.zeros(shape, device=device), progress.say)
    if state is not None:
        trainer.load(state)
        progress.say(f"Goes on after step {trainer.step} of {schedule.steps}.")
    return Run(settings, dataset, split, fingerprint, plan, teacher, classes, initial, trainer)


def _describe(
    settings: RunSettings, fingerprint: Fingerprint, plan: Plan, facts: Mapping[str, Any], device: torch.device
) -> None:
    """The files of the run folder that say what the run is."""
    write_json(settings.output / FINGERPRINT, fingerprint.to_dict(), overwrite=True)
    write_json(settings.output / CONFIGURATION, _plain(settings.configuration), overwrite=True)
    write_json(settings.output / ENVIRONMENT, environment(device), overwrite=True)
    write_json(settings.output / SPLIT, {"train": facts["cases"], "val": facts["held-out cases"]}, overwrite=True)
    write_json(settings.output / PLAN, plan.to_nnunet(), overwrite=True)


def _validation(
    settings: RunSettings,
    split: Split,
    plan: Plan,
    label_set: LabelSet,
    orientation: str | None,
    device: torch.device,
) -> Validation | None:
    cases = spread_out(split.validation, settings.validation_cases)
    if settings.validate_every <= 0 or not cases:
        return None
    return Validation(cases, plan, label_set, orientation, device, settings.validate_every, settings.patience)


def _plain(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON can hold it."""
    texts = {name: [str(v) for v in value] for name, value in configuration.items() if isinstance(value, list)}
    return {name: str(v) if isinstance(v, Path) else v for name, v in configuration.items()} | texts
