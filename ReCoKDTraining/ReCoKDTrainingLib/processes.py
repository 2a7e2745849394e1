"""Several processes that train one model, each on a part of the batch, as copies of each other."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, distributed, nn

from .losses.reduction import several_processes


@torch.no_grad()
def share_parameters(parameters: Sequence[nn.Parameter]) -> None:
    """Give every process the parameters of the first one; nothing to do for one process."""
    if several_processes():
        for parameter in parameters:
            distributed.broadcast(parameter.data, src=0)


@torch.no_grad()
def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Average the gradients over all processes, as DistributedDataParallel does; nothing to do for one process.

    DistributedDataParallel sees the parameters of one module's ``forward`` only. What distillation trains lies in
    several modules, some of which are left out of some steps, so all gradients are averaged here, in one
    message, once they are there. A parameter that no process has a gradient for keeps none, so that the optimiser
    leaves it alone as it does in one process.

    Args:
        parameters: The same ones in the same order in every process.
    """
    if not several_processes():
        return
    wanted = [p for p in parameters if p.requires_grad]
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in wanted]
    present = torch.tensor([float(p.grad is not None) for p in wanted], device=parts[0].device)
    message = torch.cat([present, *(part.flatten().float() for part in parts)])
    distributed.all_reduce(message)
    present, gradients = message[: len(wanted)], message[len(wanted) :] / distributed.get_world_size()
    pieces: Sequence[Tensor] = torch.split(gradients, [p.numel() for p in wanted])
    for parameter, gradient, there in zip(wanted, pieces, present.tolist(), strict=True):
        parameter.grad = gradient.view_as(parameter).to(parameter.dtype) if there else None
