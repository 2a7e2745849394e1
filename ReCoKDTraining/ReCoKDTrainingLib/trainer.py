"""The training loop: nnU-Net's schedule over whatever loss the distiller gives. It knows no method by name."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ReCoKDLib.errors import Cancelled, ReCoKDError

from .agreement import State, agree, from_first
from .batches import Batch, batches
from .checkpoints import Checkpoints
from .distiller import Distiller
from .history import Row, best_epoch, validations_since
from .losses.reduction import several_processes, sum_over_processes
from .optimisation import Optimisation
from .processes import share_parameters
from .progress import Progress
from .sampling import PatchDataset
from .schedule import Schedule
from .stopwatch import SECONDS, Stopwatch, describe_split, is_measured, logged_split, split_of_step
from .torchrun import place
from .validation import DICE, Validation


class Trainer:
    """Trains what the distiller declares, and can go on after a kill from its last checkpoint.

    Whatever is random is a function of the seed and of a sample's or a step's number, so a checkpoint needs no
    generator states, and may be made after any step.

    Of several processes each takes its share of every batch; the first one writes, tells and validates.

    Args:
        schedule: How long and how fast.
        distiller: Student, teacher and losses, on ``device``.
        patches: Samples by number, as many as ``schedule.samples``.
        folder: Run folder; gets the checkpoints.
        device: Where to train.
        settings: What makes this run what it is, as plain values; kept in each checkpoint.
        workers: Processes that prepare patches; 0 prepares them in this one.
        progress: Where to tell; its ``stop`` says when to end early, its ``journal`` keeps what is learned.
        validation: Held-out cases to measure now and then; None for none.
        checkpoint_minutes: Longest time between checkpoints; there is one after each epoch in any case.

    Attributes:
        step: Steps done.
        history: One row for each whole epoch.
    """

    def __init__(
        self,
        schedule: Schedule,
        distiller: Distiller,
        patches: PatchDataset,
        folder: Path,
        *,
        device: torch.device,
        settings: Mapping[str, Any],
        workers: int,
        progress: Progress,
        validation: Validation | None = None,
        checkpoint_minutes: float = 10.0,
    ) -> None:
        self.schedule = schedule
        self.distiller = distiller
        self.patches = patches
        self.checkpoints = Checkpoints(folder)
        self.device = device
        self.settings = dict(settings)
        self.workers = workers
        self.progress = progress
        self.validation = validation
        self.checkpoint_seconds = 60 * checkpoint_minutes
        self.optimisation = Optimisation(
            distiller,
            learning_rate=schedule.learning_rate,
            momentum=schedule.momentum,
            weight_decay=schedule.weight_decay,
            gradient_clip=schedule.gradient_clip,
            seed=schedule.seed,
            say=progress.say,
        )
        self.watch = distiller.watch = Stopwatch(device)
        self.step = 0
        self.history: list[Row] = []
        # Of the epoch that is under way: sums of the losses, the losses' counters, seconds
        self._sums: dict[str, Tensor] = {}
        self._counters: dict[str, float] = {}
        self._seconds = {"seconds": 0.0, "seconds waiting for data": 0.0}

    @property
    def epoch(self) -> int:
        """Whole epochs done."""
        return self.step // self.schedule.steps_per_epoch

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to train or to validate."""
        return (self.step >= self.schedule.steps or self.stopped_early) and not self._validation_is_due

    @property
    def stopped_early(self) -> bool:
        """Whether so many validations as the patience is brought nothing better."""
        patience = 0 if self.validation is None else self.validation.patience
        return 0 < patience <= validations_since(self.history)

    @property
    def _validation_is_due(self) -> bool:
        return (
            self.validation is not None
            and bool(self.history)
            and self.step == self.history[-1]["epoch"] * self.schedule.steps_per_epoch
            and self.validation.due(self.epoch, self.schedule.epochs)
            and DICE not in self.history[-1]
        )

    def run(self) -> None:
        """Train from the present step to the last one.

        Raises:
            As of :meth:`steps`.
        """
        for _ in self.steps():
            pass

    def steps(self) -> Iterator[int]:
        """The same, one step for each that is asked for: how several trainers take turns in one process.

        Yields:
            How many steps are done. The epoch's end, with its checkpoint, belongs to its last step.

        Raises:
            ReCoKDError: A loss is not a number any more, or a checkpoint cannot be written; the last one stays.
            Cancelled: A stop was asked for; the checkpoint is of the last step.
        """
        schedule = self.schedule
        self.distiller.train()
        share_parameters(self.distiller.trained_parameters())
        self.progress.stage("Training", schedule.steps, self.step, part=(0.05, 0.95))
        if self.progress.journal is not None:
            self.progress.journal.epochs(self.history, schedule.epochs)
        made = batches(self.patches, schedule, self.step, self.device, self.workers)
        with closing(made):  # its workers end with it
            yield from self._learn_from(made)
        if self.stopped_early and self.step < schedule.steps:
            self.progress.say(
                f"Stopped early after epoch {self.epoch}; "
                f"the best validation was after epoch {best_epoch(self.history)}."
            )

    def _learn_from(self, made: Iterator[Batch]) -> Iterator[int]:
        schedule = self.schedule
        saved = begun = time.monotonic()
        self._validate()
        while not self.finished:
            epoch = self.epoch
            try:
                batch = next(made)
            except RuntimeError:
                if self.progress.stop() and place().size == 1:  # it went to the workers as well, which have ended
                    self._stop()
                raise
            waited = time.monotonic()
            self.watch.on = is_measured(self.step % schedule.steps_per_epoch, schedule.steps_per_epoch)
            with self.watch("data"):
                images, labels = self._brought(*batch)
            self._learn(images, labels)
            self.watch.on = False
            last = self.step % schedule.steps_per_epoch == 0
            norms = self.optimisation.gradient_norms(images, labels, epoch / schedule.epochs) if last else {}
            now = time.monotonic()
            self._seconds["seconds"] += now - begun
            self._seconds["seconds waiting for data"] += waited - begun
            begun = now
            if last:
                self._end_epoch(norms)
                saved = begun = time.monotonic()
            states = agree(self._wish(saved))
            if State.STOP in states:
                self._stop()
            if State.SAVE in states:
                self.save()
                saved = time.monotonic()
            paused = time.monotonic()
            yield self.step
            begun += time.monotonic() - paused  # whoever takes turns with this training is no part of its time

    def _brought(self, images: Tensor, labels: Tensor, numbers: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The batch on the device, and augmented there where the workers do not."""
        images = images.to(self.device, non_blocking=True)
        labels = labels.to(self.device, non_blocking=True)
        if self.patches.on_device:
            images, labels = self.patches.augmented(images, labels, numbers)
        return images, labels.long()

    def _wish(self, saved: float) -> State:
        """What this process wants after a step, ``saved`` being the time of the last checkpoint."""
        if self.progress.stop():
            return State.STOP
        late = time.monotonic() - saved >= self.checkpoint_seconds
        return State.SAVE if late and place().first else State.FINE

    def _learn(self, images: Tensor, labels: Tensor) -> None:
        epoch = self.epoch
        report = self.optimisation.step(
            images, labels, epoch / self.schedule.epochs, self.schedule.rate(epoch), self.step
        )
        for name, value in report.terms.items():
            self._sums[name] = self._sums.get(name, torch.zeros(())) + value
        self.step += 1
        losses = {name: float(value) for name, value in report.terms.items()}
        self.progress.advance(1, f"loss {losses['total']:.3f}, gradient {report.gradient_norm:.2f}")
        if self.progress.journal is not None:
            self.progress.journal.step(self.step, losses)

    def _count(self) -> None:
        """Add the losses' counters, of all processes, to the epoch's."""
        counted = self.distiller.pop_statistics()
        totals = torch.tensor(list(counted.values()), dtype=torch.float64)  # on the CPU: MPS has no float64
        if several_processes():
            totals = sum_over_processes(totals.to(self.device))  # NCCL needs the device
        for name, value in zip(counted, totals.tolist(), strict=True):
            self._counters[name] = self._counters.get(name, 0.0) + value

    def _end_epoch(self, norms: Mapping[str, float]) -> None:
        self._count()
        row = {name: float(value) / self.schedule.steps_per_epoch for name, value in self._sums.items()}
        row |= {f"gradient norm/{name}": norm for name, norm in norms.items()} | self._counters
        seconds, waited = self._seconds["seconds"], self._seconds["seconds waiting for data"]
        steps = self.schedule.steps_per_epoch
        split = split_of_step(self.watch, seconds / steps, waited / steps)
        # Only when a part joins in, such as the teacher once the weight of its losses has risen above 0.
        if split and split.keys() != (logged_split(self.history[-1]) if self.history else {}).keys():
            self.progress.say(describe_split(split))
        self.watch.clear()
        self.history.append(
            {"epoch": self.epoch, "learning rate": self.schedule.rate(self.epoch - 1), **self._seconds}
            | {SECONDS + part: value for part, value in split.items()}
            | row
        )
        self._sums, self._counters, self._seconds = {}, {}, dict.fromkeys(self._seconds, 0.0)
        self.save()
        left = math.ceil(seconds * (self.schedule.epochs - self.epoch) / 60)
        self.progress.say(
            f"epoch {self.epoch}/{self.schedule.epochs}  {seconds:.0f} s, {left} min left  "
            + "  ".join(f"{name} {value:.4f}" for name, value in row.items())
        )
        self._validate()

    def _validate(self) -> None:
        """Measure the held-out cases if they are due; a kill meanwhile costs no training."""
        validation = self.validation
        if validation is None or not self._validation_is_due:
            return
        self.progress.comment("validation on held-out cases")
        try:
            measured = from_first(lambda: validation.measure(self.distiller.student, self.progress.stop))
        except Cancelled:
            self._stop()
        self.history[-1] |= measured
        if best_epoch(self.history) == self.epoch and place().first:
            self.checkpoints.save_best(
                {"epoch": self.epoch, "student": self.distiller.student_state(), DICE: measured[DICE]}
            )
        self.save()
        self.progress.say(
            f"epoch {self.epoch}/{self.schedule.epochs}  "
            + "  ".join(f"{name} {value:.4f}" for name, value in measured.items())
            + f"  (best after epoch {best_epoch(self.history)})"
        )

    def _stop(self) -> None:
        self.save()
        raise Cancelled(f"Stopped after step {self.step} of {self.schedule.steps}; the checkpoint is written.")

    def save(self) -> None:
        """Write the checkpoint, whole or not at all, and tell the journal.

        Raises:
            ReCoKDError: A weight is not a number any more.
            OutputError: There is no room for it.
        """
        self.optimisation.require_finite()
        self._count()
        if not place().first:
            return
        self.checkpoints.save(
            self.step,
            {
                "step": self.step,
                "student": self.distiller.student_state(),
                "adapters": self.distiller.adapter_state(),
                "optimiser": self.optimisation.optimiser.state_dict(),
                "parts": self.optimisation.parts,
                "sums": self._sums,
                "counters": self._counters,
                "seconds": self._seconds,
                "history": self.history,
                "settings": self.settings,
            },
        )
        if self.progress.journal is not None:
            self.progress.journal.epochs(self.history, self.schedule.epochs)

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint's state.

        Raises:
            ReCoKDError: It is of another network, of other losses, or incomplete.
        """
        try:
            self.distiller.student.load_state_dict(state["student"])
            self.distiller.load_adapter_state(state["adapters"])
            self.optimisation.load_optimiser(state["optimiser"])
            self.optimisation.parts = int(state["parts"])
            self.step = int(state["step"])
            self.history = [dict(row) for row in state["history"]]
            self._sums, self._counters = dict(state["sums"]), dict(state["counters"])
            self._seconds = dict(state["seconds"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise ReCoKDError(
                f"The checkpoint does not fit this run ({error}). Resume with the network and losses of its run."
            ) from error
