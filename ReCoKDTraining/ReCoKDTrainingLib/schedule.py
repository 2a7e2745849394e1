"""How long and how fast a run learns."""

from __future__ import annotations

from dataclasses import dataclass

from ReCoKDLib.errors import ReCoKDError


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to learn; the defaults are nnU-Net's.

    Attributes:
        epochs: Number of epochs; learning rate and eta change between epochs.
        steps_per_epoch: Optimiser steps an epoch.
        batch_size: Patches a step.
        learning_rate: At the start; falls as (1 - epoch / epochs) ** 0.9.
        momentum: Nesterov momentum.
        weight_decay: On everything that is trained.
        gradient_clip: Largest norm of the gradient of everything that is trained, taken together.
        seed: Of initialisation, sampling and augmentation.
    """

    epochs: int = 1000
    steps_per_epoch: int = 250
    batch_size: int = 2
    learning_rate: float = 1e-2
    momentum: float = 0.99
    weight_decay: float = 3e-5
    gradient_clip: float = 12.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "steps_per_epoch", "batch_size", "learning_rate", "gradient_clip"):
            if not getattr(self, name) > 0:
                raise ReCoKDError(f"{name} must be larger than 0; it is {getattr(self, name)}.")

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run."""
        return self.epochs * self.steps_per_epoch

    @property
    def samples(self) -> int:
        """Patches seen in the whole run."""
        return self.steps * self.batch_size

    def rate(self, epoch: int) -> float:
        """Learning rate of an epoch, counted from 0."""
        return float(self.learning_rate * (1 - epoch / self.epochs) ** 0.9)
