"""The batches of a run, made beside the training by processes of their own."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Generator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from .processes import own_samples, share_of_batch
from .sampling import PatchDataset
from .schedule import Schedule
from .torchrun import place

Batch = tuple[Tensor, Tensor, Sequence[int]]


def batches(
    patches: PatchDataset, schedule: Schedule, first: int, device: torch.device, workers: int
) -> Generator[Batch, None, None]:
    """All batches from a step on, in order: images, labels, and the numbers of the samples.

    Args:
        patches: Samples by number.
        schedule: Of the run; of several processes each has its share of every batch.
        first: The step.
        device: Where they will go.
        workers: Processes that prepare patches; 0 prepares them in this one.
    """
    options: dict[str, Any] = {}
    if workers:
        # spawn behaves the same on all systems, and does not copy torch's threads
        options = {"multiprocessing_context": "spawn", "prefetch_factor": 4}
    size = share_of_batch(schedule.batch_size)
    numbers = own_samples(first * schedule.batch_size, schedule.samples, schedule.batch_size)
    loader = DataLoader(
        patches,
        batch_size=size,
        sampler=numbers,
        num_workers=workers,
        worker_init_fn=_quiet_worker if workers else None,
        pin_memory=device.type == "cuda",
        **options,
    )
    for start, (images, labels) in zip(range(0, len(numbers), size), loader, strict=True):
        yield images, labels, numbers[start : start + size]


def _quiet_worker(worker: int) -> None:
    """A patch worker must not compete with the network for cores; Ctrl-C in a shell is for the trainer alone."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if place().size > 1:  # torchrun asks everybody to end, and the trainer's last step may need a worker still
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def default_workers() -> int:
    """Half the cores, at least one; of several processes on a machine each has its share of them."""
    return max(1, math.floor((os.cpu_count() or 1) / 2 / place().local_size))
