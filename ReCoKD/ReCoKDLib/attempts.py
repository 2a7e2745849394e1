"""With how many tiles at a time a run is tried, and what is tried next where a device's memory does not suffice."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from .engines.base import Engine, TorchEngine
from .memory import smaller_tile, tile_bytes, tiles_in_words
from .plan import Plan

_MOST_TILES = 8
_BUFFERS = 512 << 20  # bytes of this computer's memory for what goes to the device and comes back


@dataclass(frozen=True)
class Attempt:
    """What a run is tried with.

    Attributes:
        engines: One for each fold.
        tile: Voxels of a tile.
        batch: Tiles of a call.
    """

    engines: Sequence[Engine]
    tile: Sequence[int]
    batch: int = 1


def first_attempt(
    engines: Sequence[Engine], tile: Sequence[int], plan: Plan, heads: int, room: int | None = None
) -> Attempt:
    """Several tiles at a time on a GPU, as many as half of its free memory holds; elsewhere nothing is gained by them.

    Args:
        engines: One for each fold.
        tile: Voxels of a tile.
        plan: Of the networks.
        heads: Of the networks.
        room: Bytes of this computer's memory that may be taken; None sets no bound.
    """
    free = [engine.free_bytes() if isinstance(engine, TorchEngine) else None for engine in engines]
    batch = _MOST_TILES
    for bytes_free in free:
        batch = min(batch, 1 if bytes_free is None else bytes_free // (2 * tile_bytes(tile, plan, heads)))
    bound = _BUFFERS if room is None else min(_BUFFERS, room)
    return Attempt(engines, tile, max(1, min(batch, bound // (len(engines) * buffer_bytes(tile, plan, heads)))))


def buffer_bytes(tile: Sequence[int], plan: Plan, heads: int) -> int:
    """Of this computer's memory for each tile of a batch, with what goes in and what comes out.

    Two batches are under way, and page-locked memory is given out in powers of two.
    """
    return 2 * 2 * 4 * (plan.channels + heads) * int(np.prod(tile))


def next_attempt(
    attempt: Attempt,
    plan: Plan,
    networks: Sequence[nn.Module],
    device: torch.device,
    tile: Sequence[int],
    told: Callable[[str], None],
) -> Attempt | None:
    """What is tried after a device's memory did not suffice; None where nothing is left.

    Fewer tiles at a time, which changes nothing but the time; smaller tiles; the CPU.

    Args:
        attempt: What was tried.
        plan: Of the networks.
        networks: One for each fold.
        device: Where they are.
        tile: Of the first attempt, which the CPU has room for.
        told: Told in plain words of smaller tiles and of another device.
    """
    if attempt.batch > 1:
        return replace(attempt, batch=attempt.batch // 2)
    full = f"The memory of {device} does not suffice"
    smaller = smaller_tile(attempt.tile, plan)
    if smaller is not None:
        told(tiles_in_words(smaller, plan, full))
        return replace(attempt, tile=smaller)
    cpu = torch.device("cpu")
    if all(getattr(engine, "device", None) == cpu for engine in attempt.engines):
        return None
    told(f"{full} even for small tiles, so the CPU is used.")
    # Copies: the networks stay where the next run looks for them, and in the order that is fast there.
    copies = [copy.deepcopy(network).to(cpu, memory_format=torch.contiguous_format) for network in networks]  # type: ignore[call-overload]
    return Attempt(tuple(TorchEngine(network, cpu) for network in copies), tile)
