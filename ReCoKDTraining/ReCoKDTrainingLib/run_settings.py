"""What is asked of a training run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ReCoKDLib.errors import InputError

from .connectors import ConnectorOptions
from .training_data import DataSettings


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
        connectors: How what lies between student and teacher starts and learns.
        plan: nnU-Net plans.json; None makes a plan (or takes the teacher's).
        planner: Name of the planner that makes a plan.
        memory_gb: Budget of a plan that is made; None is the planner's own.
        mirror_axes: Axes of the preprocessed image that augmentation may flip.
        initial: Model package with the same labels whose weights training starts from: of the same network, or of a
            wider one, such as the teacher, of which evenly spaced channels are taken; None for random ones.
        cache: Folder for preprocessed cases; None puts it into the run folder.
        schedule: How long and how fast; a batch size of 0 stands for the plan's.
        device: auto, cpu, cuda or mps.
        precision: auto, bf16 or off.
        augmentation: Who augments: auto, workers or device.
        compile_teacher: Whether to compile the part of the teacher that is used.
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
    connectors: ConnectorOptions = field(default_factory=ConnectorOptions)
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
    augmentation: str = "auto"
    compile_teacher: bool = False
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
