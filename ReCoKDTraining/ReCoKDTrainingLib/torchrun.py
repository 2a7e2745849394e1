"""Which of the processes that torchrun started this one is."""

from __future__ import annotations

import os
from dataclasses import dataclass

from ReCoKDLib.errors import ReCoKDError

_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


@dataclass(frozen=True)
class Place:
    """Which of the processes this one is.

    Attributes:
        rank: Among all of them.
        size: How many they are.
        local_rank: Among those of this machine.
        local_size: How many those are.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and tells."""
        return self.rank == 0


def place() -> Place:
    """The place that torchrun gave this process; the only one where it was not started by torchrun.

    Raises:
        ReCoKDError: torchrun's variables contradict each other.
    """
    if any(name not in os.environ for name in (*_VARIABLES, "MASTER_ADDR", "MASTER_PORT")):
        return Place()
    try:
        found = Place(*(int(os.environ[name]) for name in _VARIABLES))
        if not (0 <= found.rank < found.size and 0 <= found.local_rank < found.local_size <= found.size):
            raise ValueError
    except ValueError as error:
        said = ", ".join(f"{name}={os.environ[name]}" for name in _VARIABLES)
        raise ReCoKDError(f"The variables {said} make no sense. Start several processes with torchrun.") from error
    return found
