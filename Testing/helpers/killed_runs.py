"""Training runs as processes that are killed: when, and whether what comes out is what it would have been."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ReCoKDLib.package import ModelPackage
from ReCoKDTrainingLib.checkpoints import Checkpoints

Moment = Callable[[Path], bool]


def start(arguments: Sequence[str]) -> subprocess.Popen[str]:
    """``recokd-training`` with these arguments, without a window to look at."""
    return subprocess.Popen(
        [sys.executable, "-m", "ReCoKDTrainingLib", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(arguments: Sequence[str]) -> str:
    """Run to the end; what it printed.

    Raises:
        AssertionError: It failed.
    """
    process = start(arguments)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return output


def kill_at(arguments: Sequence[str], folder: Path, moment: Moment, seconds: float = 120.0) -> bool:
    """Start a run and SIGKILL it as soon as ``moment`` of its folder has come; False where it ended before."""
    process = start(arguments)
    until = time.monotonic() + seconds
    try:
        while process.poll() is None and time.monotonic() < until and not moment(folder):
            time.sleep(0.0005)
        there = process.poll() is None
    finally:
        process.kill()
        process.communicate()
    return there


def preprocessing(folder: Path) -> bool:
    """A case is being written."""
    return any((folder / "preprocessed").glob(".*.part"))


def checkpoint_is_being_written(folder: Path) -> bool:
    """The temporary file is there; not of the first one, so that there is something to go back to."""
    checkpoints = folder / "checkpoints"
    return any(checkpoints.glob("step-*.pt")) and any(checkpoints.glob(".step-*"))


def evaluating(folder: Path) -> bool:
    """The evaluation at the end has begun."""
    return (state := status(folder)) is not None and state["state"] == "evaluating"


def after(seconds: float) -> Moment:
    """So long after now."""
    at = time.monotonic() + seconds
    return lambda folder: time.monotonic() >= at


def random_moment(random_numbers: random.Random, longest: float) -> Moment:
    """Anywhere in a run of ``longest`` seconds."""
    return after(random_numbers.uniform(0, longest))


def status(folder: Path) -> dict[str, Any] | None:
    """``status.json``, which is whole whenever it is there."""
    path = folder / "status.json"
    if not path.is_file():
        return None
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return values


def last_state(folder: Path) -> dict[str, Any]:
    """The newest checkpoint."""
    state = Checkpoints(folder).newest(print)
    assert state is not None
    return state


def same_result(one: Path, two: Path) -> bool:
    """Whether two run folders hold bit for bit the same weights, optimiser state, history and package."""
    ours, theirs = last_state(one), last_state(two)
    for state in (ours, theirs):
        state.pop("seconds")
        state["history"] = [{k: v for k, v in row.items() if "seconds" not in k} for row in state["history"]]
    packages = [ModelPackage.open(next(folder.glob("*.recokd.zip"))).weights(0) for folder in (one, two)]
    return same(ours, theirs) and same(*packages)


def same(one: Any, two: Any) -> bool:
    """Whether two trees of tensors and plain values are equal, bit for bit."""
    if isinstance(one, torch.Tensor):
        return isinstance(two, torch.Tensor) and torch.equal(one, two)
    if isinstance(one, dict):
        return isinstance(two, dict) and one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(two) and all(same(a, b) for a, b in zip(one, two, strict=True))
    return bool(one == two)
