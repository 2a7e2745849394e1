"""Two small trainers as two processes, one of which gets into trouble."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

from plans import small_plan
from ReCoKDLib.errors import ReCoKDError
from ReCoKDLib.networks import build_network
from ReCoKDTrainingLib.cache import CachedCase
from ReCoKDTrainingLib.compiling import CompiledRecorder, compile_teacher
from ReCoKDTrainingLib.distiller import Distiller, WeightedLoss
from ReCoKDTrainingLib.losses import SegmentationLoss, build_loss
from ReCoKDTrainingLib.processes import joined
from ReCoKDTrainingLib.progress import Progress
from ReCoKDTrainingLib.recorders import EncoderDecoderRecorder
from ReCoKDTrainingLib.sampling import PatchDataset
from ReCoKDTrainingLib.schedule import Schedule
from ReCoKDTrainingLib.trainer import Trainer

PLAN = small_plan(patch_size=(16, 16, 16), features=(8, 16, 16))
STEPS = 3


def make_distiller(label_set: Any, eta: float, batch_dice: bool = False) -> Distiller:
    """A teacher and a student of half its width; ReCo-KD and logits, at full eta from the first step."""
    torch.manual_seed(0)
    teacher = build_network(PLAN.architecture, 1, 3)
    student = build_network(PLAN.with_width(1).architecture, 1, 3, deep_supervision=True)
    recorder = EncoderDecoderRecorder()
    losses = {
        name: WeightedLoss(
            build_loss(
                name,
                teacher_channels=recorder.channels(teacher),
                student_channels=recorder.channels(student),
                label_set=label_set,
            ),
            eta,
        )
        for name in ("reco", "logits")
    }
    return Distiller(student, teacher, SegmentationLoss(label_set, 2, batch_dice=batch_dice), losses, ramp=0.0)


def make_trainer(cases: Sequence[CachedCase], label_set: Any, folder: Path) -> Trainer:
    """One epoch of a few steps with four patches."""
    folder.mkdir(parents=True, exist_ok=True)
    distiller = make_distiller(label_set, 0.1, batch_dice=True)
    schedule = Schedule(epochs=1, steps_per_epoch=STEPS, batch_size=4)
    return Trainer(
        schedule,
        distiller,
        PatchDataset(cases, PLAN, label_set, 0, schedule.samples),
        folder,
        device=torch.device("cpu"),
        settings={},
        workers=0,
        progress=Progress("bar", silent=True),
    )


def _second_loss(trainer: Trainer, error: Exception) -> None:
    """Raise this in the second step, before anything of it is computed; once."""
    loss, calls = trainer.distiller.training_loss, [0]

    def failing(*arguments: Any) -> Any:
        calls[0] += 1
        if calls[0] == 2:
            raise error
        return loss(*arguments)

    trainer.distiller.training_loss = failing  # type: ignore[method-assign, assignment]


TROUBLE: dict[str, Callable[[Trainer], None]] = {
    "none": lambda trainer: None,
    "memory": lambda trainer: _second_loss(trainer, RuntimeError("out of memory")),
    "error": lambda trainer: _second_loss(trainer, ReCoKDError("This one is ill.")),
    "stop": lambda trainer: setattr(trainer.progress, "stop", lambda: trainer.step == 2),
}


def _compiled(rank: int, label_set: Any) -> dict[str, Any]:
    """What is told, and whether the teacher is compiled, where the second process has no compiler."""

    def no_compiler(module: nn.Module) -> nn.Module:
        raise RuntimeError("No compiler was found.")

    distiller, told = make_distiller(label_set, 0.1), list[str]()
    with patch.object(torch, "compile", no_compiler if rank else lambda module: module), joined("cpu"):
        compile_teacher(distiller, torch.zeros(1, 1, 16, 16, 16), told.append)
    return {"told": told, "compiled": isinstance(distiller.teacher_recorder, CompiledRecorder)}


def one_of_two(rank: int, port: int, folder: str, cases: Sequence[CachedCase], label_set: Any) -> None:
    """Train in each of the troubles, which the second process has; how it ended goes to ``folder``."""
    torch.set_num_threads(1)
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    os.environ |= {name: str(value) for name, value in place.items()} | {"MASTER_ADDR": "127.0.0.1"}
    ends = {}
    for number, (name, trouble) in enumerate(TROUBLE.items()):
        os.environ["MASTER_PORT"] = str(port + number)
        trainer = make_trainer(cases, label_set, Path(folder) / name)
        if rank == 1:
            trouble(trainer)
        said = ""
        try:
            with joined("cpu"):
                trainer.run()
        except ReCoKDError as error:
            said = f"{type(error).__name__}: {error}"
        ends[name] = {
            "said": said,
            "step": trainer.step,
            "parts": trainer.optimisation.parts,
            "history": trainer.history,
            "state": trainer.distiller.state_dict(),
        }
    os.environ["MASTER_PORT"] = str(port + len(TROUBLE))
    ends["compiled"] = _compiled(rank, label_set)
    torch.save(ends, Path(folder) / f"rank_{rank}.pt")
