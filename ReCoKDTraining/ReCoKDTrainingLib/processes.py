"""Several processes that train one model, each on a part of the batch, as copies of each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta

import torch
from torch import Tensor, distributed, nn

from ReCoKDLib.errors import Cancelled, ReCoKDError
from ReCoKDLib.prediction import choose_device

from . import agreement
from .agreement import OtherProcessError, State, require_all_fine
from .losses.reduction import several_processes
from .torchrun import place

# The others wait while the first one validates. One that is gone is noticed by its closed connection, and by torchrun.
_PATIENCE = timedelta(days=7)


@contextmanager
def joined(device: str) -> Iterator[None]:
    """Be one of torchrun's processes until the block ends; an error in one of them ends all.

    Args:
        device: auto, cpu, cuda or mps, as for :func:`own_device`.

    Raises:
        ReCoKDError: The processes don't find each other, or there are fewer GPUs than processes.
        OtherProcessError: Another one failed, or is gone.
    """
    if place().size == 1:
        yield
        return
    on_gpu = own_device(device).type == "cuda" and distributed.is_nccl_available()
    try:
        # states and words go over gloo in any case
        distributed.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=_PATIENCE)
        agreement.begin(distributed.new_group(backend="gloo", timeout=_PATIENCE))
    except (RuntimeError, ValueError) as error:
        raise ReCoKDError(
            f"The processes of this training did not find each other ({error}). Start them with torchrun, and on all "
            "machines with the same --rdzv-endpoint."
        ) from error
    try:
        yield
    except OtherProcessError:
        raise
    except Cancelled:
        with suppress(OtherProcessError):  # they may have heard of it already
            agreement.agree(State.STOP)
        raise
    except BaseException:
        agreement.agree(State.FAILED)
        raise
    finally:
        leave()


def leave() -> None:
    """Go on alone; nothing to do for one process."""
    agreement.begin(None)
    if several_processes():
        distributed.destroy_process_group()


def own_device(choice: str) -> torch.device:
    """Where this process trains: the chosen device, and of a machine's GPUs the one of its place there.

    Raises:
        ReCoKDError: There are fewer GPUs than processes, or they should share one.
    """
    device, where = choose_device(choice), place()
    if where.size == 1 or device.type == "cpu":
        return device
    if device.type != "cuda" or ":" in choice:
        raise ReCoKDError(f"{where.local_size} processes can't share the device {device}. Use --device cuda or cpu.")
    if where.local_size > torch.cuda.device_count():
        raise ReCoKDError(
            f"torchrun started {where.local_size} processes on a machine with {torch.cuda.device_count()} GPU(s). "
            "Start one for each GPU (--nproc-per-node gpu)."
        )
    torch.cuda.set_device(where.local_rank)
    return torch.device("cuda", where.local_rank)


def share_of_batch(batch_size: int) -> int:
    """How many patches of each batch this process takes.

    Raises:
        ReCoKDError: The batch can't be divided evenly, and means over its parts would be other than over the whole.
    """
    size = place().size
    if batch_size % size:
        raise ReCoKDError(
            f"A batch of {batch_size} patches can't be divided evenly among {size} processes. Choose --batch-size so "
            f"that it can, such as {size * max(1, round(batch_size / size))}."
        )
    return batch_size // size


def own_samples(first: int, last: int, batch_size: int) -> Sequence[int]:
    """The numbers of this process's samples from ``first`` on (the start of a batch) to before ``last``.

    Of each batch the processes take a part each, in order, so that together they see the stream of one process.
    """
    share = share_of_batch(batch_size)
    if share == batch_size:
        return range(first, last)
    start = first + place().rank * share
    return [number + n for number in range(start, last, batch_size) for n in range(share)]


@torch.no_grad()
def share_parameters(parameters: Sequence[nn.Parameter]) -> None:
    """Give every process the parameters of the first one; nothing to do for one process."""
    if several_processes():
        require_all_fine()
        for parameter in parameters:
            values = parameter.data.contiguous()
            distributed.broadcast(values, src=0)
            parameter.data.copy_(values)


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
    require_all_fine()
    distributed.all_reduce(message)
    present, gradients = message[: len(wanted)], message[len(wanted) :] / distributed.get_world_size()
    pieces: Sequence[Tensor] = torch.split(gradients, [p.numel() for p in wanted])
    for parameter, gradient, there in zip(wanted, pieces, present.tolist(), strict=True):
        if not there:
            parameter.grad = None
        elif parameter.grad is None:
            parameter.grad = gradient.view_as(parameter).to(parameter.dtype)
        else:
            parameter.grad.copy_(gradient.view_as(parameter))
