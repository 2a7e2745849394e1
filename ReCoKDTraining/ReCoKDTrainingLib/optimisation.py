"""One optimiser step: losses, gradients, and what to do when memory or numbers give out."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from ReCoKDLib.errors import ReCoKDError

from .agreement import OtherProcessMemoryError, State, agree, require_all_fine
from .distiller import Distiller
from .losses.reduction import mean_over_processes
from .processes import average_gradients
from .sampling import seeded
from .torchrun import place

Result = TypeVar("Result")


@dataclass(frozen=True)
class StepReport:
    """What one step did.

    Attributes:
        terms: Losses, on the CPU.
        gradient_norm: Before it was clipped.
    """

    terms: Mapping[str, Tensor]
    gradient_norm: float


class Optimisation:
    """Makes optimiser steps; a batch that does not fit into memory goes through in parts.

    Out of memory, the step is begun again with the batch in twice as many parts, whose gradients are added up
    (gradient accumulation), and all later steps are made that way too. Loss and gradient are then means over the
    parts, weighted by their sizes. That is the same for terms that are means over voxels or cases; terms over a whole
    batch (batch Dice, means over present pairs of case and class) become means of the parts' values, which differs
    slightly.

    What is random in a step (dropout, masks) is a function of the seed, the step's number and the process's.

    Of several processes each makes its part of the batch; gradients are averaged, and all divide their parts as soon as
    one of them has to.

    Args:
        distiller: What is trained.
        learning_rate, momentum, weight_decay: Of SGD with Nesterov momentum.
        gradient_clip: Largest norm of the gradient of everything that is trained, taken together.
        seed: Of the run.
        say: Told when a batch is divided.

    Attributes:
        parts: How many parts a batch goes through in.
    """

    def __init__(
        self,
        distiller: Distiller,
        *,
        learning_rate: float,
        momentum: float,
        weight_decay: float,
        gradient_clip: float,
        seed: int,
        say: Callable[[str], None],
    ) -> None:
        self.distiller = distiller
        self.optimiser = torch.optim.SGD(
            distiller.parameter_groups(),
            lr=learning_rate,
            momentum=momentum,
            weight_decay=weight_decay,
            nesterov=True,
        )
        self.gradient_clip = gradient_clip
        self.seed = seed
        self.say = say
        self.parts = 1
        self._own = () if place().first else (place().rank,)

    def step(self, images: Tensor, labels: Tensor, progress: float, rate: float, number: int) -> StepReport:
        """Learn from a batch.

        Args:
            images: (B, C, D, H, W) on the device.
            labels: (B, 1, D, H, W) integers on the device.
            progress: epoch / epochs.
            rate: Learning rate.
            number: Of the step, counted from 0 over the whole run.

        Raises:
            ReCoKDError: A loss or a gradient is not a number any more (no weight was changed), or a single patch
                does not fit into memory.
        """
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["factor"]

        def accumulate() -> dict[str, Tensor]:
            with seeded((self.seed, number, 2, *self._own)):
                return self._accumulate(images, labels, progress)

        terms = self._within_memory(len(images), accumulate)
        with self.distiller.watch("optimiser"):
            norm = torch.nn.utils.clip_grad_norm_(self.distiller.trained_parameters(), self.gradient_clip)
            if not torch.isfinite(norm):
                norms = self.gradient_norms(images, labels, progress)
                bad = [f"the gradient of {name}" for name, value in norms.items() if not value < float("inf")]
                raise _not_a_number(bad or ["a gradient"])
            self.optimiser.step()
        return StepReport({name: value.cpu() for name, value in terms.items()}, float(norm))

    def load_optimiser(self, state: dict[str, Any]) -> None:
        """Take a checkpoint's optimiser; learning rates are those of this run.

        Raises:
            ValueError: It is of other parameters.
        """
        self.optimiser.load_state_dict(state)
        for group, own in zip(self.optimiser.param_groups, self.distiller.parameter_groups(), strict=True):
            group["factor"] = own["factor"]

    def gradient_norms(self, images: Tensor, labels: Tensor, progress: float) -> dict[str, float]:
        """:meth:`Distiller.gradient_norms`, of the first part where batches are divided."""

        def norms() -> dict[str, float]:
            return self.distiller.gradient_norms(images.chunk(self.parts)[0], labels.chunk(self.parts)[0], progress)

        return self._within_memory(len(images), norms)

    def require_finite(self) -> None:
        """Check everything that is trained before it is kept.

        Raises:
            ReCoKDError: A weight is not a number any more.
        """
        for name, parameter in self.distiller.named_parameters():
            if parameter.requires_grad and not torch.isfinite(parameter).all():
                raise _not_a_number([f"the weights of {name}"])

    def _accumulate(self, images: Tensor, labels: Tensor, progress: float) -> dict[str, Tensor]:
        watch = self.distiller.watch
        self.optimiser.zero_grad(set_to_none=True)
        terms: dict[str, Tensor] = {}
        for some, theirs in zip(images.chunk(self.parts), labels.chunk(self.parts), strict=True):
            share = len(some) / len(images)
            with watch("losses"):
                report = self.distiller.training_loss(some, theirs, progress)
            if not torch.isfinite(report.total):
                raise _not_a_number([n for n, value in report.terms.items() if not torch.isfinite(value).all()])
            with watch("backward"):
                (report.total if share == 1 else report.total * share).backward()  # type: ignore[no-untyped-call]
            for name, value in report.terms.items():
                terms[name] = value if share == 1 else terms.get(name, torch.zeros_like(value)) + value * share
        average_gradients(self.distiller.trained_parameters())
        return dict(zip(terms, mean_over_processes(torch.stack(list(terms.values()))).unbind(), strict=True))

    def _within_memory(self, size: int, work: Callable[[], Result]) -> Result:
        """Do it, in more parts each time that memory gives out."""
        while True:
            before = {name: buffer.clone() for name, buffer in self._buffers().items()}
            try:
                result = work()
                require_all_fine()
                return result
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                reason = str(error).strip().partition("\n")[0]
                elsewhere = isinstance(error, OtherProcessMemoryError)
            # Not in the except block, where the error would still hold what the failed attempt had computed.
            self.optimiser.zero_grad(set_to_none=True)
            for name, buffer in self._buffers().items():
                buffer.copy_(before[name])
            _free_memory()
            if not elsewhere:
                agree(State.MEMORY)
            if self.parts >= size:
                raise ReCoKDError(
                    f"Not even a batch of one patch fits into memory ({reason}). Free memory, use another device, or a "
                    "plan with smaller patches (--memory). The last checkpoint is whole: go on with --resume."
                )
            self.parts = min(size, 2 * self.parts)
            self.say(
                f"Out of memory ({reason}). From now on a batch of {size} goes through in {self.parts} parts whose "
                "gradients are added up; losses over a whole batch become means over its parts."
            )

    def _buffers(self) -> dict[str, Tensor]:
        """Running values of student and losses, which an attempt that failed must not have moved."""
        return {n: b for n, b in self.distiller.named_buffers() if not n.startswith("teacher.")}


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device, or the computer, has no memory left; CPU and MPS say so in words only."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()


def _not_a_number(what: list[str]) -> ReCoKDError:
    return ReCoKDError(
        f"The loss is not a number any more ({', '.join(what)}). The last checkpoint holds good weights. Lower the "
        "learning rate, or the eta of that term, and start again."
    )
