"""How good the student is on held-out cases while it learns, through the sliding window that users get."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ReCoKDLib.labels import LabelSet
from ReCoKDLib.networks import build_network, load_weights, plain_state
from ReCoKDLib.plan import Plan
from ReCoKDLib.prediction import Predictor

from .datasets import Case
from .evaluation import evaluate_cases
from .optimisation import is_out_of_memory

DICE = "validation/Dice"


def spread_out(cases: Sequence[Case], count: int) -> tuple[Case, ...]:
    """So many of the cases, evenly over their order; all where ``count`` is 0 or there are no more."""
    if count <= 0 or count >= len(cases):
        return tuple(cases)
    return tuple(cases[index * len(cases) // count] for index in range(count))


@dataclass(frozen=True)
class Validation:
    """Measures Dice on the same few cases each time.

    Attributes:
        cases: Annotated, held out.
        plan: The student's.
        label_set: What its heads mean.
        orientation: Axis codes that volumes are brought to.
        device: Where it runs.
        every: Epochs from one validation to the next; the last epoch has one in any case.
        patience: Validations without a better one after which training ends; 0 never ends it.
    """

    cases: tuple[Case, ...]
    plan: Plan
    label_set: LabelSet
    orientation: str | None
    device: torch.device
    every: int
    patience: int = 0

    def due(self, epoch: int, epochs: int) -> bool:
        """Whether to validate after so many epochs."""
        return epoch % self.every == 0 or epoch == epochs

    def measure(self, student: nn.Module, cancelled: Callable[[], bool]) -> dict[str, float]:
        """Mean Dice, over the segments and of each of them, as ``validation/...``.

        Raises:
            DatasetError: A case contradicts itself.
            Cancelled: ``cancelled`` said so.
        """
        try:
            return self._measure(student, self.device, cancelled)
        except RuntimeError as error:
            if self.device.type == "cpu" or not is_out_of_memory(error):
                raise
        return self._measure(student, torch.device("cpu"), cancelled)  # slow, but the run goes on

    def _measure(self, student: nn.Module, device: torch.device, cancelled: Callable[[], bool]) -> dict[str, float]:
        network = build_network(self.plan.architecture, self.plan.channels, self.label_set.number_of_heads)
        load_weights(network, plain_state(student))
        predictor = Predictor(self.plan, self.label_set, [network], device=device, orientation=self.orientation)
        result = evaluate_cases(self.cases, predictor, distances=False, cancelled=cancelled)
        each = {f"{DICE} {name}": result.mean("dice", name) for name in result.segments}
        return {DICE: result.mean("dice")} | each
