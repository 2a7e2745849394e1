"""The one sliding window: nnU-Net's own tile positions and Gaussian weights.

MONAI's inferer places border tiles otherwise, so that labels would differ from nnU-Net's.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

from .errors import Cancelled

Pending = Callable[[], torch.Tensor]  # waits for logits
Place = tuple[int, int, int]  # first voxel of a tile in the padded data
Region = tuple[slice, slice, slice]


@runtime_checkable
class Starting(Protocol):
    """A network that may compute while the program does something else."""

    def __call__(self, tiles: torch.Tensor) -> torch.Tensor:
        """Logits of tiles."""
        ...

    def start(self, tiles: torch.Tensor, mirror_axes: Sequence[int] = ()) -> Pending:
        """Begin with tiles; what is returned gives their logits, and may compute only then."""
        ...


Network = Callable[[torch.Tensor], torch.Tensor] | Starting


class Tiles:
    """What a run knows of its tiles from elsewhere, and who is told of those that it runs: nothing, and nobody."""

    def kept(self, place: Place) -> torch.Tensor | None:
        """(heads, x, y, z) logits of a tile; None where they are not known."""
        return None

    def first(self, new: Sequence[Place]) -> Sequence[Place]:
        """Those of the tiles to be run that are to be run before all others; each must be ``kept`` afterwards."""
        return ()

    def found(self, place: Place, logits: torch.Tensor) -> None:
        """A tile was run; the next one may overwrite its logits."""


def tile_starts(shape: Sequence[int], patch_size: Sequence[int], tile_step: float = 0.5) -> list[list[int]]:
    """First voxels of the tiles along each axis: evenly spread, at most ``tile_step`` patches apart.

    Args:
        shape: Voxels of the image, at least ``patch_size``.
        patch_size: Voxels of a tile.
        tile_step: Largest distance of neighbouring tiles as a fraction of the patch, in (0, 1].
    """
    if not 0 < tile_step <= 1:
        raise ValueError(f"tile_step must lie in (0, 1], not {tile_step}")
    starts = []
    for length, patch in zip(shape, patch_size, strict=True):
        steps = math.ceil((length - patch) / (patch * tile_step)) + 1
        distance = (length - patch) / max(steps - 1, 1)
        starts.append([int(np.round(distance * step)) for step in range(steps)])
    return starts


@lru_cache(maxsize=4)
def gaussian_weights(patch_size: tuple[int, ...]) -> torch.Tensor:
    """Weight of each voxel of a tile: a Gaussian of sigma = patch / 8, largest 10, nowhere zero; float32."""
    impulse = np.zeros(patch_size)
    impulse[tuple(n // 2 for n in patch_size)] = 1
    weights = gaussian_filter(impulse, [n / 8 for n in patch_size], mode="constant", cval=0)
    weights *= 10 / weights.max()
    weights[weights == 0] = weights[weights > 0].min()
    result = torch.from_numpy(weights).float()
    result[result == 0] = result[result > 0].min()  # what float32 rounds away
    return result


def mirrored(network: Network, tiles: torch.Tensor, mirror_axes: Sequence[int]) -> torch.Tensor:
    """Mean of the logits over all flips of the given spatial axes (0, 1, 2), each flipped back."""
    flips = [c for n in range(1, len(mirror_axes) + 1) for c in itertools.combinations(mirror_axes, n)]
    if not flips:
        return network(tiles)
    total = network(tiles).clone()  # an engine may overwrite its logits
    for axes in flips:
        dims = [axis + 2 for axis in axes]
        total += torch.flip(network(torch.flip(tiles, dims)), dims)
    return total / (len(flips) + 1)


@dataclass(frozen=True)
class Tiling:
    """Where the tiles of a run lie, and which of them it needs.

    Attributes:
        padded: Voxels along each axis, at least a tile's.
        below: Zeros in front of the data's first voxel along each axis.
        region: What is wanted, in voxels of the padded data.
        rows: First voxels along the first axis of the tiles that touch the region.
        columns: The same along the other two, in the order of summing.
    """

    padded: tuple[int, ...]
    below: tuple[int, ...]
    region: Region
    rows: tuple[int, ...]
    columns: tuple[tuple[int, int], ...]

    @property
    def corner(self) -> tuple[int, int]:
        """First voxel, along the second and third axis, of the plane that the tiles cover."""
        y, z = (min(axis) for axis in zip(*self.columns, strict=True))
        return y, z

    def plane(self, patch_size: Sequence[int]) -> tuple[int, int]:
        """Voxels of that plane."""
        last = (max(axis) for axis in zip(*self.columns, strict=True))
        y, z = (end + int(n) - low for end, n, low in zip(last, patch_size[1:], self.corner, strict=True))
        return y, z

    @property
    def places(self) -> list[Place]:
        """First voxels of all tiles that are needed, in the order of summing."""
        return [(row, *column) for row in self.rows for column in self.columns]


def tiling(
    shape: Sequence[int], patch_size: Sequence[int], tile_step: float = 0.5, region: Region | None = None
) -> Tiling:
    """The tiles of an image, or those of them that touch a region: the same tiles, whatever the region.

    Args:
        shape: Voxels of the image.
        patch_size: Voxels of a tile.
        tile_step: See :func:`tile_starts`.
        region: First and end voxel along each axis of the image; None for all of it.
    """
    missing = [max(patch - length, 0) for length, patch in zip(shape, patch_size, strict=True)]
    below = tuple(m // 2 for m in missing)
    padded = tuple(int(n) + m for n, m in zip(shape, missing, strict=True))
    wanted = region or tuple(slice(0, int(n)) for n in shape)
    x, y, z = (slice(part.start + b, part.stop + b) for part, b in zip(wanted, below, strict=True))
    touching = [
        [start for start in starts if start < part.stop and start + patch > part.start]
        for starts, patch, part in zip(tile_starts(padded, patch_size, tile_step), patch_size, (x, y, z), strict=True)
    ]
    return Tiling(padded, below, (x, y, z), tuple(touching[0]), tuple(itertools.product(touching[1], touching[2])))


def sliding_window_slabs(
    network: Network,
    data: torch.Tensor,
    patch_size: Sequence[int],
    heads: int,
    *,
    tile_step: float = 0.5,
    mirror_axes: Sequence[int] = (),
    region: Region | None = None,
    tiles: Tiles | None = None,
    batch: int = 1,
    progress: Callable[[float], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Iterator[tuple[int, torch.Tensor]]:
    """Weighted mean of the network's logits over overlapping tiles, slab by slab along the first spatial axis.

    A slab is finished as soon as no further tile touches it, so that no more than a patch's length of the volume is
    in memory. Arguments and errors are those of :func:`sliding_window_logits`.

    Yields:
        The first plane of a slab in the region and its (heads, n, y, z) float32 logits, in order and without gaps. The
        logits are overwritten when the next slab is asked for.
    """
    layout = tiling(data.shape[1:], patch_size, tile_step, region)
    missing = [n - length for n, length in zip(layout.padded, data.shape[1:], strict=True)]
    padding = [p for m, b in zip(reversed(missing), reversed(layout.below), strict=True) for p in (b, m - b)]
    padded = nn.functional.pad(data, padding) if any(missing) else data
    weights = gaussian_weights(tuple(int(n) for n in patch_size))
    tiles = tiles or Tiles()
    needed = layout.places
    new = [place for place in needed if tiles.kept(place) is None]
    ran = 0

    def run(places: Sequence[Place]) -> Iterator[torch.Tensor]:
        nonlocal ran
        for some, pending in _started(network, padded, patch_size, mirror_axes, places, batch):
            if cancelled is not None and cancelled():
                raise Cancelled("Cancelled. Nothing was changed.")
            with torch.inference_mode():
                found = pending().float().cpu()
            for place, logits in zip(some, found, strict=True):
                ran += 1
                tiles.found(place, logits)
                if progress is not None:
                    progress(ran / len(new))
                yield logits
            del found, logits, pending  # before the next but one is started

    for _ in run(tiles.first(new)):
        pass
    others = run([place for place in needed if tiles.kept(place) is None])
    corner, plane = layout.corner, layout.plane(patch_size)
    depth = int(patch_size[0])
    total = torch.zeros((heads, depth, *plane))
    weight_sum = torch.zeros((depth, *plane))
    planes, *in_plane = layout.region
    inside = tuple(slice(part.start - low, part.stop - low) for part, low in zip(in_plane, corner, strict=True))
    for row, first in enumerate(layout.rows):
        for column in layout.columns:
            logits = tiles.kept((first, *column))
            if logits is None:
                logits = next(others)
            box = tuple(slice(s - low, s - low + n) for s, low, n in zip(column, corner, patch_size[1:], strict=True))
            total[(slice(None), slice(None), *box)].addcmul_(logits, weights)
            weight_sum[(slice(None), *box)] += weights
        done = layout.rows[row + 1] - first if row + 1 < len(layout.rows) else depth
        begin, end = max(planes.start - first, 0), min(planes.stop - first, done)
        if end > begin:
            total[:, begin:end] /= weight_sum[begin:end]
            yield first + begin - planes.start, total[(slice(None), slice(begin, end), *inside)]
        _shift(total, done, 1)
        _shift(weight_sum, done, 0)
    if progress is not None and not new:
        progress(1.0)


def _started(
    network: Network,
    padded: torch.Tensor,
    patch_size: Sequence[int],
    mirror_axes: Sequence[int],
    places: Sequence[Place],
    batch: int,
) -> Iterator[tuple[Sequence[Place], Pending]]:
    """So many tiles at a time, and what gives their logits; the next ones are begun with before these are wanted."""

    def start(some: Sequence[Place]) -> Pending:
        boxes = [tuple(slice(s, s + n) for s, n in zip(place, patch_size, strict=True)) for place in some]
        tiles = torch.stack([padded[(slice(None), *box)] for box in boxes])
        if isinstance(network, Starting):
            return network.start(tiles, mirror_axes)
        return lambda: mirrored(network, tiles, mirror_axes)

    last: tuple[Sequence[Place], Pending] | None = None
    for begin in range(0, len(places), batch):
        some = places[begin : begin + batch]
        following = some, start(some)
        if last is not None:
            yield last
        last = following
    if last is not None:
        yield last


def _shift(sums: torch.Tensor, by: int, axis: int) -> None:
    """Move planes to the front in place, and begin with zeros behind them."""
    planes = sums.movedim(axis, 0)
    for target in range(planes.shape[0] - by):
        planes[target] = planes[target + by]
    planes[planes.shape[0] - by :] = 0


def sliding_window_logits(
    network: Network,
    data: torch.Tensor,
    patch_size: Sequence[int],
    heads: int,
    *,
    tile_step: float = 0.5,
    mirror_axes: Sequence[int] = (),
    region: Region | None = None,
    tiles: Tiles | None = None,
    batch: int = 1,
    progress: Callable[[float], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> torch.Tensor:
    """Weighted mean of the network's logits over overlapping tiles.

    Args:
        network: An engine or a network: maps (batch, channel, x, y, z) tiles on the CPU to (batch, heads, x, y, z).
        data: (channel, x, y, z) float32 on the CPU; zero-padded around the centre where smaller than a patch.
        patch_size: Voxels of a tile.
        heads: Outputs of the network.
        tile_step: See :func:`tile_starts`.
        mirror_axes: Spatial axes (0, 1, 2) over whose flips the result is averaged.
        region: First and end voxel along each axis of the only part of the data that is wanted; there the result is
            that of the whole. None for all.
        tiles: What is known of tiles, and which are to be run first; it is told of each that is run.
        batch: Tiles that the network is given in a call; they are summed in the same order, however many these are.
        progress: Called with the finished fraction after each tile.
        cancelled: Asked before each call.

    Returns:
        (heads, x, y, z) float32 of the region on the CPU.

    Raises:
        Cancelled: ``cancelled`` said so.
    """
    wanted = region or tuple(slice(0, n) for n in data.shape[1:])
    result = torch.empty((heads, *(part.stop - part.start for part in wanted)))
    slabs = sliding_window_slabs(
        network,
        data,
        patch_size,
        heads,
        tile_step=tile_step,
        mirror_axes=mirror_axes,
        region=region,
        tiles=tiles,
        batch=batch,
        progress=progress,
        cancelled=cancelled,
    )
    for first, logits in slabs:
        result[:, first : first + logits.shape[1]] = logits
    return result
