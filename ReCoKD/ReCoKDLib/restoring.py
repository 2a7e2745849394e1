"""From logits at the plan's spacing to labels in the case's own voxels, slab by slab.

All classes of a CT at full resolution are many gigabytes; here no more than a slab of them exists at a time. Every
interpolation of logits by nnU-Net's default (linear, nearest across coarse slices) and by MONAI's ``Spacing`` is
separable and takes two neighbours along each axis, so that a slab of the result needs a slab of the source, and each
voxel is computed by the same operations in whichever slab it lies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from .plan import Plan
from .preprocessing import PreprocessedCase
from .resampling import Taps, linear_taps, resample
from .sliding_window import Region

_CHUNK = 1 << 24  # values of all classes that are decided at a time


class SlabRestorer:
    """Takes the slabs of a case's logits in order and gives those of the case's own grid.

    Args:
        case: What was preprocessed.
        plan: Its spacing and how logits are resampled.
        heads: Of the network.
        wanted: The part of the case's own grid (after cropping) that is wanted; None for all.

    Where the plan resamples logits in another way (cubic, PyTorch's), all slabs are kept until the last one, and then
    each class is resampled whole.

    Attributes:
        region: The part of the logits that is needed, of which slabs are to be given.
    """

    def __init__(self, case: PreprocessedCase, plan: Plan, heads: int, wanted: Region | None = None) -> None:
        self._case, self._plan, self._heads = case, plan, heads
        whole = case.data.shape[1:]
        self._wanted = wanted or _all(case.shape_after_cropping)
        self._taps = linear_taps(
            whole, case.shape_after_cropping, plan.spacing, case.spacing, plan.resampling["probabilities"]
        )
        self.region = _all(whole)
        if self._taps is not None and wanted is not None:
            self.region, self._taps = _part_of_taps(self._taps, wanted)
        self._source = tuple(part.stop - part.start for part in self.region)
        self._target = tuple(part.stop - part.start for part in self._wanted)
        self._kept = torch.empty((heads, 0 if self._taps else self._source[0], *self._source[1:]))
        self._first = 0  # plane of the source that is kept first
        self._done = 0  # planes of the target that are finished

    def push(self, first: int, logits: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
        """Take (heads, n, y, z) logits of the region's planes from ``first`` on.

        Yields:
            Planes of what is wanted and their (heads, m, y, z) float32 logits.
        """
        end = first + logits.shape[1]
        if self._taps is None:
            self._kept[:, first:end] = logits
            if end == self._source[0]:
                yield from self._whole()
            return
        ready = self._target[0] if end == self._source[0] else int((self._taps[0].high < end).sum())
        step = max(1, _CHUNK // (self._heads * self._target[1] * self._target[2]))
        for begin in range(self._done, ready, step):
            planes = slice(begin, min(begin + step, ready))
            yield planes, self._chunk(planes, first, logits)
        self._keep(first, logits, ready)

    def _chunk(self, planes: slice, first: int, logits: torch.Tensor) -> torch.Tensor:
        assert self._taps is not None
        if all(taps.identity for taps in self._taps):
            return logits[:, planes.start - first : planes.stop - first]
        result = torch.empty((self._heads, planes.stop - planes.start, *self._target[1:]))
        low, high = (int(end) for end in (self._taps[0].low[planes.start], self._taps[0].high[planes.stop - 1] + 1))
        for head in range(self._heads):
            parts = [
                self._kept[head, max(low - self._first, 0) :],
                logits[head, max(low - first, 0) : max(high - first, 0)],
            ]
            begins = max(low, self._first) if parts[0].shape[0] else max(low, first)
            source = torch.cat(parts)[: high - begins]
            result[head] = interpolated(source, self._taps, planes, begins)
        return result

    def _keep(self, first: int, logits: torch.Tensor, ready: int) -> None:
        """Keep the planes that later ones of the target need."""
        assert self._taps is not None
        self._done = ready
        end = first + logits.shape[1]
        needed = end if ready == self._target[0] else min(int(self._taps[0].low[ready]), end)
        older = self._kept[:, max(needed - self._first, 0) :]
        self._kept = torch.cat([older, logits[:, max(needed - first, 0) :]], dim=1)
        self._first = end - self._kept.shape[1]

    def _whole(self) -> Iterator[tuple[slice, torch.Tensor]]:
        case, plan = self._case, self._plan
        options = plan.resampling["probabilities"]
        result = torch.empty((self._heads, *self._target))
        for head in range(self._heads):
            one = self._kept[head : head + 1].numpy()
            whole = resample(one, case.shape_after_cropping, plan.spacing, case.spacing, options)[0]
            result[head] = torch.from_numpy(whole[self._wanted])
        yield slice(0, self._target[0]), result


def _all(shape: Sequence[int]) -> Region:
    x, y, z = (slice(0, int(n)) for n in shape)
    return x, y, z


def _part_of_taps(taps: tuple[Taps, Taps, Taps], wanted: Region) -> tuple[Region, tuple[Taps, Taps, Taps]]:
    """The part of the source that a part of the target needs, and the taps between the two."""
    parts, region = [], []
    for along, part in zip(taps, wanted, strict=True):
        low, high = along.low[part], along.high[part]
        start, stop = int(low.min()), int(high.max()) + 1
        region.append(slice(start, stop))
        parts.append(replace(along, low=low - start, high=high - start, weight=along.weight[part], length=stop - start))
    return (region[0], region[1], region[2]), (parts[0], parts[1], parts[2])


def interpolated(source: torch.Tensor, taps: Sequence[Taps], planes: slice, first: int = 0) -> torch.Tensor:
    """One class of (n, y, z) logits at the given planes of the target, float32; computed in float64.

    Args:
        source: Planes of the source from ``first`` on.
        taps: For each axis.
        planes: Of the target.
        first: See ``source``.
    """
    values = source.double()
    for axis, along in enumerate(taps):
        low, high, weight = along.low, along.high, along.weight
        if axis == 0:
            low, high, weight = low[planes] - first, high[planes] - first, weight[planes]
        elif along.identity:
            continue
        below = values.index_select(axis, torch.from_numpy(low))
        if weight.any():
            shape = [-1 if a == axis else 1 for a in range(3)]
            # In this order, each by itself: no fused operation, whose rounding could hang on a voxel's place.
            above = values.index_select(axis, torch.from_numpy(high)).sub_(below)
            below.add_(above.mul_(torch.from_numpy(weight).reshape(shape)))
        values = below
    return values.float()
