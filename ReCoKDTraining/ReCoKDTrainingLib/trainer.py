"""The training loop: nnU-Net's schedule over whatever loss the distiller gives. It knows no method by name."""

from __future__ import annotations

import csv
import math
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ReCoKDLib.errors import OutputError, ReCoKDError
from ReCoKDLib.files import atomic_file

from .distiller import Distiller
from .progress import Progress
from .sampling import PatchDataset

CHECKPOINT = "checkpoint.pt"
LOG = "log.csv"


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
    def samples(self) -> int:
        """Patches seen in the whole run."""
        return self.epochs * self.steps_per_epoch * self.batch_size

    def rate(self, epoch: int) -> float:
        """Learning rate of an epoch, counted from 0."""
        return float(self.learning_rate * (1 - epoch / self.epochs) ** 0.9)


class Trainer:
    """Trains what the distiller declares, and can go on after a kill from its last checkpoint.

    Randomness of the data is a function of (seed, sample number) and of the initialisation of the seed, so a
    checkpoint needs no generator states.

    Args:
        schedule: How long and how fast.
        distiller: Student, teacher and losses, on ``device``.
        patches: Samples by number, as many as ``schedule.samples``.
        folder: Run folder; gets ``checkpoint.pt`` and ``log.csv``.
        device: Where to train.
        settings: What makes this run what it is, as plain values; a checkpoint of other settings is refused.
        workers: Processes that prepare patches; 0 prepares them in this one.
        progress: Where to tell.
    """

    def __init__(
        self,
        schedule: Schedule,
        distiller: Distiller,
        patches: PatchDataset,
        folder: Path,
        *,
        device: torch.device,
        settings: dict[str, Any],
        workers: int,
        progress: Progress,
    ) -> None:
        self.schedule = schedule
        self.distiller = distiller
        self.patches = patches
        self.folder = folder
        self.device = device
        self.settings = {**settings, "schedule": asdict(schedule)}
        self.workers = workers
        self.progress = progress
        self.optimiser = torch.optim.SGD(
            distiller.trained_parameters(),
            lr=schedule.learning_rate,
            momentum=schedule.momentum,
            weight_decay=schedule.weight_decay,
            nesterov=True,
        )
        self.epoch = 0
        self.history: list[dict[str, float]] = []

    @property
    def finished(self) -> bool:
        """Whether all epochs are done."""
        return self.epoch >= self.schedule.epochs

    def run(self) -> None:
        """Train from the present epoch to the last one.

        Raises:
            ReCoKDError: A loss is not a number any more; the last checkpoint stays.
        """
        schedule = self.schedule
        self.distiller.train()
        steps = schedule.steps_per_epoch
        self.progress.stage("Training", schedule.epochs * steps, self.epoch * steps)
        batches = self._batches()
        for epoch in range(self.epoch, schedule.epochs):
            begun = time.perf_counter()
            for group in self.optimiser.param_groups:
                group["lr"] = schedule.rate(epoch)
            sums: dict[str, Tensor] = {}
            for step in range(steps):
                images, labels = next(batches)
                for name, value in self._step(images, labels, epoch, step).items():
                    sums[name] = sums.get(name, torch.zeros(())) + value
            row = {name: float(value) / steps for name, value in sums.items()}
            norms = self.distiller.gradient_norms(
                images.to(self.device), labels.to(self.device).long(), epoch / schedule.epochs
            )
            row |= {f"gradient norm/{name}": norm for name, norm in norms.items()}
            row |= self.distiller.pop_statistics()
            self.history.append(
                {
                    "epoch": epoch + 1,
                    "learning rate": schedule.rate(epoch),
                    "seconds": time.perf_counter() - begun,
                }
                | row
            )
            self.epoch = epoch + 1
            self.save()
            seconds = self.history[-1]["seconds"]
            left = math.ceil(seconds * (schedule.epochs - self.epoch) / 60)
            self.progress.say(
                f"epoch {self.epoch}/{schedule.epochs}  {seconds:.0f} s, {left} min left  "
                + "  ".join(f"{name} {value:.4f}" for name, value in row.items())
            )

    def _step(self, images: Tensor, labels: Tensor, epoch: int, step: int) -> dict[str, Tensor]:
        images = images.to(self.device, non_blocking=True)
        labels = labels.to(self.device, non_blocking=True).long()
        report = self.distiller.training_loss(images, labels, epoch / self.schedule.epochs)
        if not torch.isfinite(report.total):
            bad = [name for name, value in report.terms.items() if not torch.isfinite(value).all()]
            raise ReCoKDError(
                f"The loss is not a number any more (epoch {epoch + 1}, step {step + 1}; {', '.join(bad)}). "
                f"{self.folder / CHECKPOINT} holds the state of the last whole epoch. Lower the learning rate, "
                "or the eta of that term, and start again."
            )
        self.optimiser.zero_grad(set_to_none=True)
        report.total.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.distiller.trained_parameters(), self.schedule.gradient_clip)
        self.optimiser.step()
        terms = {name: value.cpu() for name, value in report.terms.items()}
        self.progress.advance(1, f"loss {float(terms['total']):.3f}, gradient {float(norm):.2f}")
        return terms

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """All batches that remain, in order."""
        schedule = self.schedule
        done = self.epoch * schedule.steps_per_epoch * schedule.batch_size
        options: dict[str, Any] = {}
        if self.workers:
            # spawn behaves the same on all systems, and does not copy torch's threads
            options = {"multiprocessing_context": "spawn", "prefetch_factor": 4}
        loader = DataLoader(
            self.patches,
            batch_size=schedule.batch_size,
            sampler=range(done, schedule.samples),
            num_workers=self.workers,
            worker_init_fn=_one_thread if self.workers else None,
            pin_memory=self.device.type == "cuda",
            **options,
        )
        yield from loader

    def save(self) -> None:
        """Write the checkpoint and the log, each whole or not at all."""
        state = {
            "epoch": self.epoch,
            "student": self.distiller.student_state(),
            "adapters": self.distiller.adapter_state(),
            "optimiser": self.optimiser.state_dict(),
            "history": self.history,
            "settings": self.settings,
        }
        with atomic_file(self.folder / CHECKPOINT, overwrite=True) as temporary:
            try:
                torch.save(state, temporary)
            except RuntimeError as error:  # torch wraps a full disk in its own error
                raise OutputError(
                    f"The checkpoint could not be written to {self.folder} ({error}). The last one is whole: free "
                    "some space and go on with --resume."
                ) from error
        columns = list(dict.fromkeys(name for row in self.history for name in row))
        with (
            atomic_file(self.folder / LOG, overwrite=True) as temporary,
            temporary.open("w", newline="", encoding="utf-8") as stream,
        ):
            writer = csv.DictWriter(stream, columns, restval="")
            writer.writeheader()
            writer.writerows({k: f"{v:.6g}" for k, v in row.items()} for row in self.history)

    def resume(self) -> None:
        """Go on from the checkpoint in the run folder.

        Raises:
            ReCoKDError: There is none, it is damaged, or it was made with other settings (the first difference
                is named).
        """
        path = self.folder / CHECKPOINT
        if not path.is_file():
            raise ReCoKDError(f"There is nothing to resume: {path} does not exist. Start without --resume.")
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            saved = state["settings"]
        except Exception as error:
            raise ReCoKDError(f"{path} is not a readable checkpoint ({error}). Restore it, or start anew.") from error
        for key in sorted(saved.keys() | self.settings.keys()):
            if saved.get(key) != self.settings.get(key):
                raise ReCoKDError(
                    f"{path} was made with other settings: {key} was {saved.get(key)!r} and is "
                    f"{self.settings.get(key)!r}. Resume with the settings of its run, or start in another folder."
                )
        self.distiller.student.load_state_dict(state["student"])
        self.distiller.load_adapter_state(state["adapters"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.epoch = int(state["epoch"])
        self.history = list(state["history"])


def _one_thread(worker: int) -> None:
    """A patch worker must not compete with the network for cores."""
    torch.set_num_threads(1)


def default_workers() -> int:
    """Half the cores, at least one."""
    return max(1, math.floor((os.cpu_count() or 1) / 2))
