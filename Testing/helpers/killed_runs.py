"""Training runs as processes that are killed: when, and whether what comes out is what it would have been."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from ReCoKDLib.package import ModelPackage
from ReCoKDTrainingLib.checkpoints import Checkpoints

Moment = Callable[[Path], bool]


# A fork server has loaded torch already, which takes a new process seconds; elsewhere than on POSIX there is none.
_CONTEXT = multiprocessing.get_context(
    "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else None
)
if hasattr(_CONTEXT, "set_forkserver_preload"):
    _CONTEXT.set_forkserver_preload(["ReCoKDTrainingLib.finish", "ReCoKDTrainingLib.cli", "killed_runs"])


def _main(arguments: Sequence[str], output: str) -> None:
    """In the process that is to be killed: the command, with what it prints in a file."""
    from ReCoKDTrainingLib.cli import main

    with Path(output).open("w", encoding="utf-8") as stream:
        for descriptor in (1, 2):
            os.dup2(stream.fileno(), descriptor)
        sys.exit(main(arguments))


def _start(arguments: Sequence[str], output: Path) -> BaseProcess:
    process = _CONTEXT.Process(target=_main, args=(list(arguments), str(output)))
    process.start()
    return process


def start(arguments: Sequence[str]) -> subprocess.Popen[str]:
    """``recokd-training`` as a shell starts it."""
    return subprocess.Popen(
        [sys.executable, "-m", "ReCoKDTrainingLib", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(arguments: Sequence[str]) -> None:
    """Run to the end.

    Raises:
        AssertionError: It failed; the message is what it printed.
    """
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "output.txt"
        process = _start(arguments, output)
        process.join()
        assert process.exitcode == 0, output.read_text(encoding="utf-8")


def kill_at(arguments: Sequence[str], folder: Path, moment: Moment, seconds: float = 120.0) -> bool:
    """Start a run and SIGKILL it as soon as ``moment`` of its folder has come; False where it ended before."""
    with tempfile.TemporaryDirectory() as outputs:
        process = _start(arguments, Path(outputs) / "output.txt")
        until = time.monotonic() + seconds
        try:
            while process.is_alive() and time.monotonic() < until and not moment(folder):
                time.sleep(0.0005)
            there = process.is_alive()
        finally:
            process.kill()
            process.join()
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


def random_moment(random_numbers: random.Random, steps: int) -> Moment:
    """In the beginning, after any step (each leaves a checkpoint), or in the evaluation; and then a while."""
    step, wait = random_numbers.randint(0, steps + 1), random_numbers.uniform(0, 1)
    if step == 0:
        wait *= 5
    begun: list[float] = []

    def moment(folder: Path) -> bool:
        there = steps_done(folder) >= step if step <= steps else evaluating(folder)
        if there and not begun:
            begun.append(time.monotonic())
        return bool(begun) and time.monotonic() - begun[0] >= wait

    return moment


def steps_done(folder: Path) -> int:
    """By the newest checkpoint."""
    return max((int(path.stem.partition("-")[2]) for path in folder.glob("checkpoints/step-*.pt")), default=0)


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
