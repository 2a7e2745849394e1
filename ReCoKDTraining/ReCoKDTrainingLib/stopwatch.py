"""What the parts of a training step take."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

PARTS = ("data", "teacher", "student", "losses", "backward", "optimiser", "rest")
SECONDS = "seconds a step/"
"""What the parts are called in the log of a run, before each one's name."""
_MEASURED = 8


class Stopwatch:
    """Seconds of the clock and of the processor by name, one entry for each block while it is on.

    Time within an inner block is the inner one's alone. A device that works beside the program is waited for at both
    ends of a block, which would cost something in every step: it is off until somebody turns it on.

    >>> watch = Stopwatch(torch.device("cpu"), on=True)
    >>> with watch("losses"), watch("teacher"):
    ...     pass
    >>> sorted(watch.clock)
    ['losses', 'teacher']

    Args:
        device: Whose work is measured.
        on: Whether to measure.
    """

    def __init__(self, device: torch.device, on: bool = False) -> None:
        self.device = device
        self.on = on
        self.clock: dict[str, list[float]] = defaultdict(list)
        self.processor: dict[str, list[float]] = defaultdict(list)
        self._inner: list[tuple[float, float]] = []

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Measure the block; one that ends with an error is not counted."""
        if not self.on:
            yield
            return
        clock, processor = self._now()
        depth = len(self._inner)
        self._inner.append((0.0, 0.0))
        try:
            yield
            ended, worked = self._now()
            inner, inner_worked = self._inner[depth]
            self.clock[name].append(ended - clock - inner)
            self.processor[name].append(worked - processor - inner_worked)
        finally:
            del self._inner[depth:]
        if depth:
            outer, outer_worked = self._inner[-1]
            self._inner[-1] = outer + ended - clock, outer_worked + worked - processor

    def clear(self) -> None:
        """Forget what was measured."""
        self.clock.clear()
        self.processor.clear()

    def _now(self) -> tuple[float, float]:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()
        return time.perf_counter(), time.process_time()


def is_measured(step: int, steps: int) -> bool:
    """Whether a step of an epoch of so many is one of the few that are measured, spread over the epoch."""
    count = min(_MEASURED, steps)
    return step in {(2 * number + 1) * steps // (2 * count) for number in range(count)}


def split_of_step(watch: Stopwatch, seconds: float, waiting: float) -> dict[str, float]:
    """Mean seconds of each of :data:`PARTS` that there was; empty where no step was measured.

    Args:
        watch: Has the parts of some steps; ``data`` once in each.
        seconds: Of a step, mean of all.
        waiting: For data, in each step; mean of all, as a few would tell nothing of a supply that falters.
    """
    steps = len(watch.clock["data"])
    if not steps:
        return {}
    means = {name: sum(watch.clock[name]) / steps for name in PARTS if name in watch.clock}
    means["data"] += waiting
    return means | {"rest": max(0.0, seconds - sum(means.values()))}


def logged_split(row: Mapping[str, float]) -> dict[str, float]:
    """The split of a step in an epoch's row of the log."""
    return {part: row[SECONDS + part] for part in PARTS if SECONDS + part in row}


def describe_split(split: Mapping[str, float]) -> str:
    """In words: ``A step takes 0.39 s: data 3 %, teacher 28 %, ...``."""
    whole = sum(split.values())
    shares = ", ".join(f"{part} {100 * split[part] / whole:.0f} %" for part in PARTS if split.get(part, 0.0) > 0)
    return f"A step takes {whole:.2g} s: {shares}."
