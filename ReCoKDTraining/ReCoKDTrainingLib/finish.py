"""The end of a run: the model's package, measured on the held-out cases with the very weights that it holds."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from torch import nn

from ReCoKDLib.card import Card, ChannelInfo, Intensity, Licences, SpacingInfo, TrainingRecord, require_name
from ReCoKDLib.engines.agreement import bf16_against_f32
from ReCoKDLib.errors import PackageError
from ReCoKDLib.networks import plain_state
from ReCoKDLib.package import ModelPackage, write_package
from ReCoKDLib.package_files import PACKAGE_SUFFIX

from .comparison import compare
from .environment import versions
from .evaluation_report import write_reports
from .progress import Progress
from .report import write_report
from .run_folder import EVALUATION
from .run_settings import RunSettings
from .runs import Run
from .training_data import unlabelled

_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+-]{0,31}")
_BF16_CASES = 8  # whose labels in bf16 are compared with those in f32


@dataclass(frozen=True)
class Presentation:
    """What only a person can say about a model.

    Attributes:
        name: Of the model; empty makes one from the dataset, the width and the method.
        version: Of the model; one that was trained anew should have another. Empty takes the card's default.
        description: One or two sentences; empty lists the structures.
        weights_licence: SPDX identifier; empty takes ``licence`` of ``dataset.json``.
        attribution: Who made the data; empty takes ``reference`` of ``dataset.json``.
        dtype: In which the weights are stored.

    Raises:
        PackageError: The name is not fit for a file name, or the version is none; said before the training, not after
            it.
    """

    name: str = ""
    version: str = ""
    description: str = ""
    weights_licence: str = ""
    attribution: str = ""
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.name:
            require_name(self.name)
        if self.version and not _VERSION.fullmatch(self.version):
            raise PackageError(
                f"A model's version cannot be {self.version!r}. Use up to 32 letters, digits, dots, "
                "plus and minus signs, the first a letter or digit, such as 1.1.0."
            )


@dataclass(frozen=True)
class Finished:
    """What a run ends with.

    Attributes:
        package: ``NAME.recokd.zip`` in the run folder.
        report: ``report.html`` in the run folder.
        dice: Mean over the held-out cases and structures; None without held-out cases.
    """

    package: Path
    report: Path
    dice: float | None


def package_run(run: Run, presentation: Presentation) -> Path:
    """Package the trained network as ``NAME.recokd.zip`` in the run folder, not measured yet.

    Raises:
        OutputError: The run folder cannot be written.
    """
    return _write_package(run, presentation, {})


def _write_package(run: Run, presentation: Presentation, metrics: Mapping[str, Any]) -> Path:
    network, epoch = _shipped(run)
    card = replace(_card(run, presentation, epoch), metrics=metrics)
    path = run.settings.output / f"{card.name}{PACKAGE_SUFFIX}"
    weights = [plain_state(network)]
    write_package(path, card, run.plan, run.dataset.label_set, weights, overwrite=True, dtype=presentation.dtype)
    return path


def finish_run(run: Run, presentation: Presentation, progress: Progress) -> Finished:
    """Package the trained network, evaluate the package on the held-out cases, put the figures on its card, report.

    Raises:
        DatasetError: A held-out case contradicts itself.
        OutputError: The run folder cannot be written.
    """
    path = package_run(run, presentation)
    comparison = None
    if run.split.validation:
        comparison = compare(ModelPackage.open(path), run, progress)
        write_reports(comparison.results, run.settings.output / EVALUATION, overwrite=True)
        measured = f"{len(run.split.validation)} held-out cases of {run.dataset.name}, no mirroring"
        if run.settings.ship == "best":
            measured += "; the weights were chosen by their Dice on such cases, which flatters them"
        some = (case.volume() for case in run.split.validation[:_BF16_CASES])
        halved = bf16_against_f32(ModelPackage.open(path), some)
        _write_package(run, presentation, {"measured on": measured, **comparison.student.summary(), **halved})
    report = write_report(run, ModelPackage.open(path), comparison)
    mean = math.nan if comparison is None else comparison.student.mean("dice")
    return Finished(path, report, mean if math.isfinite(mean) else None)


def _shipped(run: Run) -> tuple[nn.Module, int]:
    """The network that the package holds, and the epoch that its weights are of."""
    trainer = run.trainer
    if run.settings.ship != "best" or trainer.validation is None:
        return trainer.distiller.student, trainer.epoch
    best = trainer.checkpoints.best()
    network = copy.deepcopy(trainer.distiller.student)
    network.load_state_dict(best["student"])
    return network, int(best["epoch"])


def _card(run: Run, presentation: Presentation, epoch: int) -> Card:
    dataset, settings, fingerprint = run.dataset, run.settings, run.fingerprint
    structures = ", ".join(segment.name for segment in dataset.label_set.segments)
    orientation = run.trainer.settings["orientation"]
    return Card(
        name=presentation.name or _name(run),
        version=presentation.version or Card.version,
        role="teacher" if _is_teacher(settings) else "student",
        channels=tuple(
            ChannelInfo.named(name, Intensity(**fingerprint.intensity_ranges(channel)))
            for channel, name in enumerate(dataset.channel_names)
        ),
        description=presentation.description
        or f"Segments {structures} in {', '.join(dataset.channel_names)} (trained on {dataset.name}).",
        spacing=SpacingInfo.of_cases(fingerprint.spacings_in(orientation).tolist()),
        orientation=orientation,
        mirror_axes=run.settings.mirror_axes,
        training=_training_record(run, epoch),
        licences=Licences(
            weights=presentation.weights_licence or str(dataset.description.get("licence", "")),
            attribution=presentation.attribution or str(dataset.description.get("reference", "")),
        ),
    )


def _is_teacher(settings: RunSettings) -> bool:
    """A full-size network that learned from nobody is one to learn from."""
    return settings.width == 0 and settings.teacher is None


def _name(run: Run) -> str:
    dataset = re.sub(r"^Dataset\d+_", "", run.dataset.name)
    stem = re.sub(r"[^a-z0-9]+", "-", dataset.lower()).strip("-") or "model"
    if run.settings.backbone:
        stem += f"-{run.settings.backbone.lower()}"
    if _is_teacher(run.settings):
        return f"{stem}-teacher"
    return f"{stem}-x{2**run.settings.width}" + ("" if run.settings.losses else "-plain")


def _training_record(run: Run, epoch: int) -> TrainingRecord:
    schedule, distiller = run.trainer.schedule, run.trainer.distiller
    records = [case.provenance for case in run.split.training if case.provenance is not None]
    return TrainingRecord(
        dataset=run.dataset.name,
        fingerprint=run.fingerprint.sha256,
        cases=len(run.split.training),
        split={"training": len(run.split.training), "validation": len(run.split.validation)},
        teacher="" if run.teacher is None else run.teacher.card.name,
        teacher_checksum="" if run.teacher is None else run.teacher.checksum,
        losses={
            "Dice + cross-entropy": {"deep supervision": True, "batch Dice": run.plan.batch_dice},
            **{name: {"eta": eta, **run.settings.loss_options.get(name, {})} for name, eta in distiller.etas.items()},
        },
        width=None if _is_teacher(run.settings) else run.settings.width,
        steps=epoch * schedule.steps_per_epoch,
        batch_size=schedule.batch_size,
        seed=schedule.seed,
        versions=versions(),
        date=datetime.now(timezone.utc).date().isoformat(),
        options={
            "epochs": schedule.epochs,
            "weights": f"of the {run.settings.ship} epoch, {epoch}"
            + (" (training stopped early)" if run.trainer.stopped_early else ""),
            "parts of a batch": run.trainer.optimisation.parts,
            "cases without annotation": len(unlabelled(run.split.training)),
            "weight of cases without annotation": run.settings.data.unlabelled_weight,
            "cases corrected by clicks": sum(bool(record.clicks) for record in records),
            "learning rate": schedule.learning_rate,
            "weight decay": schedule.weight_decay,
            "ramp": distiller.ramp,
            "connectors": asdict(distiller.connector_options),
            "precision": run.trainer.settings["precision"],
            "device": str(run.trainer.device),
            "mirror axes": list(run.settings.mirror_axes),
            **_networks(run),
            "initial weights": _initial(run),
        },
    )


def _initial(run: Run) -> str | None:
    """Whose weights it started from."""
    if run.initial is None:
        return None
    whole = run.initial.plan.architecture.features_per_stage == run.plan.architecture.features_per_stage
    return f"{'' if whole else 'channels of '}{run.initial.card.name} {run.initial.checksum}"


def _networks(run: Run) -> dict[str, Any]:
    """Backbones and, for a distilled student, what the teacher calls its classes."""
    student = run.plan.architecture.backbone.name
    if run.teacher is None or run.classes is None:
        return {"backbone": student}
    teacher = run.teacher.plan.architecture.backbone.name
    return {"backbone": student, "teacher's backbone": teacher, "teacher's classes": dict(run.classes.names)}
