"""A training run from its settings: data, plan, networks, losses, schedule and run folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from ReCoKDLib.card import Card
from ReCoKDLib.errors import DatasetError, InputError, OutputError, PackageError, ReCoKDError
from ReCoKDLib.files import read_json, require_new, write_json
from ReCoKDLib.labels import LabelSet
from ReCoKDLib.networks import build_network, load_weights
from ReCoKDLib.package import ModelPackage
from ReCoKDLib.plan import Plan
from ReCoKDLib.segment_matching import Synonyms

from .agreement import from_first
from .cache import preprocess_cases
from .checkpoints import FOLDER as CHECKPOINTS
from .checkpoints import Checkpoints, is_leftover, remove_leftovers
from .class_matching import ClassMap, common_classes, match_classes
from .datasets import Dataset, Split, Task
from .distiller import Distiller, WeightedLoss
from .environment import environment
from .fingerprint import Fingerprint, fingerprint_cases
from .journal import STATUS, Journal
from .losses import SegmentationLoss, build_loss
from .planner import plan_dataset, with_backbone
from .precision import arranged, autocast_dtype
from .processes import own_device, share_of_batch
from .progress import Progress
from .recorders import pair_stages, recorder_for
from .resuming import differences, require_same
from .run_lock import LOCK
from .sampling import PatchDataset
from .torchrun import place
from .trainer import Schedule, Trainer, default_workers
from .training_data import DataSettings, ModelTask, annotated_in_full, checked_split, open_cases, unlabelled
from .validation import Validation, spread_out

PLAN = "plan.json"
FINGERPRINT = "fingerprint.json"
CONFIGURATION = "config.json"
ENVIRONMENT = "environment.json"
SPLIT = "split.json"
PREPROCESSED = "preprocessed"
EVALUATION = "evaluation"


@dataclass(frozen=True)
class RunSettings:
    """What is asked of a run.

    Attributes:
        data: Which cases.
        output: Run folder.
        teacher: Model package to distil from; None trains from the labels alone.
        width: The student's t; 0 for the full width (a teacher).
        backbone: Name of the network class; empty takes the plan's (a student: its teacher's).
        losses: Distillation losses with their eta.
        loss_options: Options of each loss.
        ramp: Part of the training over which eta rises.
        plan: nnU-Net plans.json; None makes a plan (or takes the teacher's).
        planner: Name of the planner that makes a plan.
        memory_gb: Budget of a plan that is made; None is the planner's own.
        mirror_axes: Axes of the preprocessed image that augmentation may flip.
        initial: Model package of the same plan whose weights training starts from; None for random ones.
        cache: Folder for preprocessed cases; None puts it into the run folder.
        schedule: How long and how fast; a batch size of 0 stands for the plan's.
        device: auto, cpu, cuda or mps.
        precision: auto, bf16 or off.
        workers: Processes that prepare patches; -1 for half of the cores.
        validate_every: Epochs from one validation on held-out cases to the next; 0 for none.
        validation_cases: How many of them at most; 0 for all.
        patience: Validations without a better one after which training ends; 0 for never.
        ship: Whose weights go into the package: ``last`` or ``best`` (by validation).
        checkpoint_minutes: Longest time between checkpoints.
        configuration: All of this by the command line's names, for the run folder.
    """

    data: DataSettings
    output: Path
    teacher: Path | None = None
    width: int = 0
    backbone: str = ""
    losses: Mapping[str, float] = field(default_factory=dict)
    loss_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    ramp: float = 0.6
    plan: Path | None = None
    planner: str = "default"
    memory_gb: float | None = None
    mirror_axes: tuple[int, ...] = (0, 1, 2)
    initial: Path | None = None
    cache: Path | None = None
    epochs: int = 1000
    steps_per_epoch: int = 250
    batch_size: int = 0
    learning_rate: float = 1e-2
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    workers: int = -1
    validate_every: int = 0
    validation_cases: int = 10
    patience: int = 0
    ship: str = "last"
    checkpoint_minutes: float = 10.0
    configuration: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.validate_every <= 0 and (self.patience > 0 or self.ship == "best"):
            raise InputError(
                "Early stopping and the best weights need validation. Say every how many epochs (--validate-every)."
            )


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
    dataset, split = from_first(lambda: _cases(settings, teacher, progress))
    if not split.validation and (settings.patience > 0 or settings.ship == "best"):
        raise DatasetError("Early stopping and the best weights need held-out cases. The split has none in 'val'.")
    classes = None if teacher is None else match_model(teacher, dataset, dataset.synonyms)
    initial = None if settings.initial is None else ModelPackage.open(settings.initial)
    if initial is not None:
        _require_same_heads(initial, dataset)
    fingerprint = from_first(lambda: _fingerprint(dataset, split, progress))
    plan = _plan(settings, dataset, fingerprint, teacher)
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
    torch.manual_seed(settings.seed)
    student = build_network(plan.architecture, plan.channels, dataset.label_set.number_of_heads, deep_supervision=True)
    distiller = build_distiller(
        arranged(student, device, plan.architecture),
        plan,
        dataset.label_set,
        teacher,
        classes,
        losses=settings.losses,
        loss_options=settings.loss_options,
        ramp=settings.ramp,
        dtype=dtype,
        teacher_fills=any(not case.labelled or case.partly_labelled for case in split.training),
    ).to(device)
    if teacher is not None and not annotated_in_full(split.training):
        distiller.require_logits_loss()
    if initial is not None:
        load_weights(distiller.student, initial.weights(0))
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

    progress.stage("Preprocessing", len(split.training), part=(0.02, 0.05))
    cases = from_first(
        lambda: preprocess_cases(
            split.training,
            plan,
            dataset.label_set,
            settings.cache or settings.output / PREPROCESSED,
            orientation=orientation,
            progress=progress.fraction,
        )
    )
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
        ),
        settings.output,
        device=device,
        settings=facts,
        workers=default_workers() if settings.workers < 0 else settings.workers,
        progress=progress,
        validation=_validation(settings, split, plan, dataset.label_set, orientation, device),
        checkpoint_minutes=settings.checkpoint_minutes,
    )
    if state is not None:
        trainer.load(state)
        progress.say(f"Goes on after step {trainer.step} of {schedule.steps}.")
    return Run(settings, dataset, split, fingerprint, plan, teacher, classes, initial, trainer)


def _cases(settings: RunSettings, teacher: ModelPackage | None, progress: Progress) -> tuple[Dataset, Split]:
    """All cases, checked, and which are to train on."""
    dataset = open_cases(settings.data, None if teacher is None else as_task(teacher))
    return checked_split(dataset, settings.data, teacher is not None, progress)


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


def check_folder(folder: Path, resume: bool) -> None:
    """Look whether a run can begin, or go on, in a folder.

    Raises:
        OutputError: It cannot.
    """
    if resume and not any((folder / name).is_file() for name in (STATUS, PLAN)):
        raise OutputError(f"There is nothing to resume: {folder} holds no run. Start without --resume.")
    if not resume and folder.is_dir() and not all(is_leftover(path) or path.name == LOCK for path in folder.iterdir()):
        raise OutputError(f"{folder} is not empty. Choose another folder, or go on with the run in it (--resume).")
    require_new(folder / PLAN, overwrite=True)  # can the folder be written?


def as_task(model: TeacherModel) -> ModelTask:
    """What a model segments in what."""
    return ModelTask(model.card.name, tuple(channel.name for channel in model.card.channels), model.label_set)


def match_model(model: TeacherModel, dataset: Task, synonyms: Synonyms | None = None) -> ClassMap:
    """Find the dataset's classes, which may have synonyms, among a model's.

    Raises:
        PackageError: The model has another number of channels, or does not know one of the classes.
    """
    _require_channels(model, dataset)
    return match_classes(dataset.label_set, model.label_set, dataset.name, model.card.name, synonyms)


def for_evaluation(model: ModelPackage, dataset: Dataset) -> Dataset:
    """The dataset with those of its classes that a model knows, in the model's numbering.

    Raises:
        PackageError: The model has another number of channels, or no class in common with the dataset.
        DatasetError: Regions overlap in another way than the model's.
    """
    _require_channels(model, dataset)
    name, synonyms = model.card.name, dataset.synonyms
    return dataset.with_labels(common_classes(model.label_set, dataset.label_set, name, dataset.name, synonyms))


def _require_channels(model: TeacherModel, dataset: Task) -> None:
    if model.plan.channels != len(dataset.channel_names):
        raise PackageError(
            f"The model {model.card.name} needs {model.plan.channels} channel(s), the dataset {dataset.name} has "
            f"{len(dataset.channel_names)}. Use a model that was made for such images."
        )


def _require_same_heads(model: ModelPackage, dataset: Dataset) -> None:
    """Weights to start from must mean the same, head by head."""
    classes = match_model(model, dataset, dataset.synonyms)
    if classes.heads != tuple((head,) for head in range(model.label_set.number_of_heads)):
        ours, theirs = ([s.name for s in labels.segments] for labels in (dataset.label_set, model.label_set))
        raise PackageError(
            f"The model {model.card.name} has the labels {theirs}, the dataset {dataset.name} {ours}. Training can "
            "only start from weights for the same labels in the same order."
        )


def _fingerprint(dataset: Dataset, split: Split, progress: Progress) -> Fingerprint:
    """Of the training cases."""
    progress.stage("Reading the training cases", len(split.training), part=(0.01, 0.02))
    return fingerprint_cases(
        split.training, dataset.channel_names, dataset.label_set, unlabelled=True, progress=progress.fraction
    )


def _plan(settings: RunSettings, dataset: Dataset, fingerprint: Fingerprint, teacher: ModelPackage | None) -> Plan:
    if teacher is not None:
        if settings.plan is not None:
            raise ReCoKDError("A student uses its teacher's plan. Leave out --plan.")
        full = teacher.plan
    elif settings.plan is not None:
        full = Plan.from_nnunet(read_json(settings.plan))
    else:
        full = plan_dataset(
            fingerprint,
            dataset.channel_names,
            dataset.label_set,
            dataset_name=dataset.name,
            planner=settings.planner,
            memory_gb=settings.memory_gb,
        )
    if settings.backbone and settings.backbone != full.architecture.backbone.name:
        full = with_backbone(full, settings.backbone)
    return full.with_width(settings.width)


class TeacherModel(Protocol):
    """What is needed of a teacher; a :class:`ModelPackage` has it."""

    @property
    def plan(self) -> Plan:
        """Its network and the preprocessing that it was trained with."""

    @property
    def label_set(self) -> LabelSet:
        """What its outputs mean."""

    @property
    def card(self) -> Card:
        """What it is."""

    def weights(self, fold: int = 0) -> dict[str, torch.Tensor]:
        """Its state dictionary."""


def build_distiller(
    student: nn.Module,
    plan: Plan,
    label_set: LabelSet,
    teacher: TeacherModel | None,
    classes: ClassMap | None,
    *,
    losses: Mapping[str, float],
    loss_options: Mapping[str, Mapping[str, Any]],
    ramp: float,
    dtype: torch.dtype | None,
    teacher_fills: bool = False,
) -> Distiller:
    """Student, teacher and losses for training with deep supervision.

    Args:
        student: The network of ``plan``, with deep supervision.
        plan: The student's.
        label_set: What the student's outputs mean.
        teacher: Whom to learn from; None for the labels alone.
        classes: From the teacher's classes to the student's.
        losses: Distillation losses with their eta.
        loss_options: Options of each loss.
        ramp: Part of the training over which eta rises.
        dtype: Of autocast in both networks; None for float32.
        teacher_fills: Whether the teacher's labels stand in where nobody annotated.

    Raises:
        PackageError: The teacher is an ensemble.
        PlanError: Its weights do not fit its plan.
        ReCoKDError: A loss, an option, or a pair of encoders does not fit.
    """
    teacher_network, teacher_recorder = None, None
    weighted = {}
    if teacher is not None:
        if teacher.card.folds != 1:
            raise PackageError(
                f"The teacher {teacher.card.name} is an ensemble of {teacher.card.folds} folds; features can be "
                "distilled from one network only. Import one of its folds."
            )
        shown = teacher.plan.architecture
        teacher_network = build_network(shown, plan.channels, teacher.label_set.number_of_heads)
        load_weights(teacher_network, teacher.weights(0))
        teacher_recorder = recorder_for(shown)
        pairing = pair_stages(plan.architecture.strides, shown.strides)
        weighted = {
            name: WeightedLoss(
                build_loss(
                    name,
                    teacher_channels=[shown.features_per_stage[place] for place in pairing],
                    student_channels=plan.architecture.features_per_stage,
                    label_set=label_set,
                    options=loss_options.get(name, {}),
                ),
                eta,
            )
            for name, eta in losses.items()
        }
    return Distiller(
        student,
        teacher_network,
        SegmentationLoss(label_set, plan.architecture.outputs, plan.batch_dice),
        weighted,
        ramp=ramp,
        teacher_dtype=dtype,
        amp_dtype=dtype,
        recorder=recorder_for(plan.architecture),
        teacher_recorder=teacher_recorder,
        class_map=classes,
        teacher_fills=teacher_fills,
    )
