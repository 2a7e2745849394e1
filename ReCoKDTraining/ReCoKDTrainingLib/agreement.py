"""How processes that train together stay together: what befalls one of them, all learn at the same place.

Wherever a process is about to wait for the others, it first tells them that it is fine, and they it. One that is not
(an error, no memory, a request to stop) tells that instead, and nobody waits for what never comes. Where there is but
one process, or the group is somebody else's (nnU-Net's), nothing is exchanged.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import TypeVar

import torch
from torch import distributed

from ReCoKDLib.errors import Cancelled, ReCoKDError

Result = TypeVar("Result")


class State(IntEnum):
    """How a process is."""

    FINE = 0
    SAVE = 1
    """It wants a checkpoint now."""
    STOP = 2
    """It was asked to stop."""
    MEMORY = 3
    """Its part of the batch does not fit into memory."""
    FAILED = 4
    """It ends with an error."""


class OtherProcessError(ReCoKDError):
    """Another process has failed, so this one ends too; the other one says why."""


class OtherProcessMemoryError(RuntimeError):
    """Out of memory in another process: this one has to do its step in smaller parts too."""


_group: distributed.ProcessGroup | None = None


def begin(group: distributed.ProcessGroup | None) -> None:
    """Exchange states over this group (of the CPU) from now on; None: not any more."""
    global _group
    _group = group


def agree(state: State = State.FINE) -> tuple[State, ...]:
    """Tell the others one's state and learn theirs, by process; waits until all have told.

    Raises:
        OtherProcessError: Another one failed, or is gone. No state is exchanged from then on. Of several that failed
            the first one doesn't get this error: it says why.
    """
    if _group is None:
        return (state,)
    own = torch.tensor([int(state)])
    others = [torch.zeros_like(own) for _ in range(distributed.get_world_size(_group))]
    try:
        distributed.all_gather(others, own, group=_group)
    except RuntimeError as error:  # the connection is closed
        begin(None)
        if state is State.FAILED:  # it has a reason of its own to end
            return (state,)
        raise OtherProcessError("Another process of this training is gone, so this one ends.") from error
    states = tuple(State(int(other)) for other in others)
    failed = [rank for rank, other in enumerate(states) if other is State.FAILED]
    if failed:
        begin(None)
        if state is not State.FAILED or failed[0] < distributed.get_rank():
            raise OtherProcessError(f"Process {failed[0]} of this training failed, so this one ends.")
    return states


def require_all_fine() -> None:
    """To be called wherever the others will be waited for.

    Raises:
        OtherProcessMemoryError: Another process has no memory for the step.
        OtherProcessError: Another one failed, or is gone.
        Cancelled: Another one was asked to stop.
    """
    states = agree()
    if State.STOP in states:
        raise Cancelled("Stopped.")
    if State.MEMORY in states:
        raise OtherProcessMemoryError(f"out of memory in process {states.index(State.MEMORY)}")


def from_all(own: Result) -> tuple[Result, ...]:
    """What each process has, for all, by process; waits until all have told.

    Raises:
        Cancelled: One of them was asked to stop.
        OtherProcessError: Another one failed, or is gone.
    """
    if _group is None:
        return (own,)
    require_all_fine()
    everybody = [own] * distributed.get_world_size(_group)
    distributed.all_gather_object(everybody, own, group=_group)
    return tuple(everybody)


def from_first(work: Callable[[], Result]) -> Result:
    """What the first process makes, for all; the others wait for it.

    Raises:
        Cancelled: One of them was asked to stop.
        OtherProcessError: Another one failed, or is gone.
    """
    if _group is None:
        return work()
    result = None
    if distributed.get_rank() == 0:
        try:
            result = work()
        except Cancelled:
            agree(State.STOP)
            raise
    require_all_fine()
    message = [result]
    distributed.broadcast_object_list(message, src=0, group=_group)
    return message[0]  # type: ignore[return-value]
