"""What a step of each method costs, how much of it is the teacher's, and how hard each loss pulls at the start.

Pulls are norms of gradients over all of the student's encoder, at the initial weights, with full eta.

    OMP_NUM_THREADS=1 python Testing/benchmarks/distillation_costs.py --data DATA

Processor seconds, the least of a few repeats, on one real batch; other processes disturb them little.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from diagnosis_measures import gradients
from distillation_runs import METHODS, DeclaredRun, Setting, add_arguments, run_settings
from ReCoKDTrainingLib.distiller import Distiller
from ReCoKDTrainingLib.progress import Progress
from ReCoKDTrainingLib.runs import prepare_run
from ReCoKDTrainingLib.trainer import Trainer


def seconds(work: Callable[[], object], repeats: int = 4) -> tuple[float, float]:
    """The least that ``work`` took: wall-clock and processor seconds."""
    taken = []
    for _ in range(repeats):
        wall, processor = time.perf_counter(), time.process_time()
        work()
        taken.append((time.perf_counter() - wall, time.process_time() - processor))
    walls, processors = zip(*taken, strict=True)
    return min(walls), min(processors)


def first_batch(trainer: Trainer) -> tuple[Tensor, Tensor]:
    """Images and labels of the run's first patches, on its device."""
    samples = [trainer.patches[number] for number in range(trainer.schedule.batch_size)]
    images, labels = (torch.stack(part).to(trainer.device) for part in zip(*samples, strict=True))
    return images, labels.long()


def one_step(trainer: Trainer, images: Tensor, labels: Tensor) -> None:
    """Loss, gradients and update at full eta; the weights move little over a few of them."""
    report = trainer.distiller.training_loss(images, labels, None)
    trainer.optimisation.optimiser.zero_grad(set_to_none=True)
    report.total.backward()  # type: ignore[no-untyped-call]
    trainer.optimisation.optimiser.step()
    if trainer.device.type == "cuda":
        torch.cuda.synchronize(trainer.device)


def teachers_part(trainer: Trainer, images: Tensor) -> float:
    """Seconds of the teacher's forward pass as the method needs it: without decoder where no loss reads logits."""
    distiller = trainer.distiller
    teacher, dtype = distiller.teacher, distiller.teacher_dtype
    if teacher is None or not distiller.etas:
        return 0.0
    decoder = any(bool(loss.uses_logits) for loss in distiller.losses.values())

    def forward() -> None:
        with torch.no_grad(), torch.autocast(images.device.type, dtype=dtype, enabled=dtype is not None):
            distiller.teacher_recorder.run(teacher, images, decoder)

    return seconds(forward)[1]


def pulls(distiller: Distiller, images: Tensor, labels: Tensor) -> dict[str, float]:
    """Norms of the gradients on the encoder's weights, of the segmentation loss and of each loss at full eta."""
    weights = list(distiller.student.get_submodule("encoder").parameters())
    total: dict[str, Tensor] = {}
    for name, slopes in gradients(distiller, images, labels, weights).items():
        loss = name.partition("/")[0]
        flat = torch.cat([slope.flatten() for slope in slopes])
        total[loss] = total[loss] + flat if loss in total else flat
    return {loss: float(gradient.norm()) for loss, gradient in total.items()}


def table(names: Sequence[str], setting: Setting, width: int, repeats: int = 4) -> str:
    """A markdown table, one row for each method."""
    head = "| method | s a step | of it the teacher | gradient of segmentation | of distillation |"
    lines = [head, "|---|---|---|---|---|"]
    for name in names:
        settings = run_settings(DeclaredRun(name, width), setting)
        with Progress("bar") as progress:
            trainer = prepare_run(settings, progress).trainer
        trainer.distiller.train()
        images, labels = first_batch(trainer)
        norms = pulls(trainer.distiller, images, labels)
        ours = norms.pop("segmentation")
        told = ", ".join(f"{loss} {norm:.4f} ({norm / ours:.1f} x)" for loss, norm in norms.items())
        teacher = teachers_part(trainer, images)
        _, step = seconds(lambda t=trainer, x=images, y=labels: one_step(t, x, y), repeats)  # type: ignore[misc]
        lines.append(f"| {name} | {step:.2f} | {teacher:.2f} | {ours:.4f} | {told} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--width", type=int, default=3)
    parser.add_argument("--methods", default=";".join(METHODS), help="separated by semicolons")
    given = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        setting = Setting.of_arguments(given, Path(folder))
        print(table(given.methods.split(";"), setting, given.width))
    return 0


if __name__ == "__main__":
    sys.exit(main())
