"""Sums and means that are the same for one process and for several.

A mean over the present (case, class) pairs of a batch is a quotient of two sums. Where the batch is split
over processes, both sums are taken over all of them, or a split batch has another loss than a whole one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed

from ..agreement import require_all_fine


def several_processes() -> bool:
    """Whether the batch is split over more than one process."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


class _SumOverProcesses(torch.autograd.Function):
    """All-reduced sum whose gradient is all-reduced too.

    Every process computes the same loss from the sum, so the reduced gradient is (number of processes) times
    the true one. DistributedDataParallel then averages over the processes, which takes that factor out again.
    """

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return _added_up(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _added_up(gradients[0])


def _added_up(value: Tensor) -> Tensor:
    total = value.detach().clone(memory_format=torch.contiguous_format)
    require_all_fine()
    distributed.all_reduce(total)
    return total


def sum_over_processes(value: Tensor) -> Tensor:
    """``value`` summed over all processes, differentiably; the value itself where there is one process."""
    if not several_processes():
        return value
    result: Tensor = _SumOverProcesses.apply(value)  # type: ignore[no-untyped-call]
    return result


@torch.no_grad()
def mean_over_processes(value: Tensor) -> Tensor:
    """The average of a value of each process, without gradient; the value itself where there is one process."""
    if not several_processes():
        return value.detach()
    return _added_up(value) / distributed.get_world_size()


def mean_over_present(total: Tensor, count: Tensor) -> Tensor:
    """``total / count`` over all processes; 0 (and still part of the graph) where nothing is present.

    Args:
        total: scalar, the sum over the present members of this process.
        count: scalar, how many they are (no gradient).
    """
    if several_processes():
        total, count = sum_over_processes(torch.stack([total, count.detach().to(total.dtype)])).unbind()
    safe_count = torch.where(count > 0, count, torch.ones_like(count))
    return torch.where(count > 0, total / safe_count, total * 0)


def process_number() -> int:
    """This process's number among those that the batch is split over, from 0."""
    return distributed.get_rank() if several_processes() else 0


def gather_over_processes(values: Tensor) -> Tensor:
    """The cases of all processes, (B * processes, ...), differentiably; the values themselves where there is one.

    Args:
        values: (B, ...) of this process; every process has as many cases.
    """
    if not several_processes():
        return values
    parts = [torch.zeros_like(values)] * distributed.get_world_size()
    parts[distributed.get_rank()] = values
    return sum_over_processes(torch.cat(parts))
