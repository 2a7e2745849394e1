"""What ReCo-KD needs to know of a pair of feature maps, chunk by chunk.

A feature map is the largest thing in a training step: one float32 copy of stage k takes 4*B*C*N bytes, 2 GB
for a large plan. Written with tensor operations, the losses would make a dozen such copies. Here one pass over
chunks of voxels gives all sums, and a second one the gradient, written by hand (as checkpointing would redo
the first): nothing but the gradient itself is as large as the features.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .base import full_precision

CACHE_CHUNK_BYTES = 2**20
"""For one thread: a chunk stays in a CPU's second-level cache, with what is made of it."""
THREAD_CHUNK_BYTES = 2**23
"""For each of several threads. They wait for each other after every operation, which takes far longer than the
operation where other processes compete for the cores: few large chunks, then, though they leave the cache."""
DEVICE_CHUNK_BYTES = 2**28
"""On a GPU, where only memory matters."""


def chunk_length(features: Tensor, chunk_bytes: int | None) -> int:
    """Voxels of a chunk of (B, C, N) ``features`` whose float32 copy has at most ``chunk_bytes``."""
    if chunk_bytes is None:
        threads = torch.get_num_threads()
        if features.device.type != "cpu":
            chunk_bytes = DEVICE_CHUNK_BYTES
        else:
            chunk_bytes = CACHE_CHUNK_BYTES if threads == 1 else THREAD_CHUNK_BYTES * threads
    return max(1, chunk_bytes // (4 * features.shape[0] * features.shape[1]))


def _chunks(voxels: int, length: int) -> Iterator[slice]:
    return (slice(start, start + length) for start in range(0, voxels, length))


def _over_channels(weights: Tensor, values: Tensor) -> Tensor:
    """sum_c weights(c) values(c, x): (B, C) and (B, C, n) to (B, n)."""
    return torch.bmm(weights[:, None], values)[:, 0]


def _over_voxels(weights: Tensor, values: Tensor) -> Tensor:
    """sum_x weights(x) values(c, x): (B, n) and (B, C, n) to (B, C)."""
    # as a row times a matrix: several times faster on a CPU than the matrix times a column
    return torch.bmm(weights[:, None], values.transpose(1, 2))[:, 0]


class Magnitudes(NamedTuple):
    """mean_c |F| as (B, N) and mean_x |F| as (B, C)."""

    over_channels: Tensor
    over_voxels: Tensor


@torch.no_grad()
def magnitudes(features: Tensor, chunk: int) -> Magnitudes:
    """The mean absolute features of the teacher, (B, C, N) in any type; without gradient."""
    batch, channels, voxels = features.shape
    dtype = full_precision(features[:, :, :1]).dtype
    over_channels = features.new_empty((batch, voxels), dtype=dtype)
    over_voxels = features.new_zeros((batch, channels), dtype=dtype)
    for part in _chunks(voxels, chunk):
        size = full_precision(features[:, :, part]).abs()
        over_channels[:, part] = size.mean(1)
        over_voxels += size.sum(2)
    return Magnitudes(over_channels, over_voxels / voxels)


class PairSums(NamedTuple):
    """Sums over a pair of feature maps F̂ and F_T.

    Attributes:
        error: (B, N), sum_c A_C(c) (F̂ - F_T)^2.
        square: (B, C), mean_x (F̂ - F_T)^2.
        difference: (B, C), mean_x (F̂ - F_T).
        over_channels: (B, N), mean_c |F̂|.
        over_voxels: (B, C), mean_x |F̂|.
    """

    error: Tensor
    square: Tensor
    difference: Tensor
    over_channels: Tensor
    over_voxels: Tensor


class _PairSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, aligned: Tensor, teacher: Tensor, weights: Tensor, chunk: int) -> tuple[Tensor, ...]:
        ctx.save_for_backward(aligned, teacher, weights)
        ctx.chunk = chunk
        batch, channels, voxels = aligned.shape
        error, over_channels = (aligned.new_empty((batch, voxels)) for _ in range(2))
        square, difference, over_voxels = (aligned.new_zeros((batch, channels)) for _ in range(3))
        for part in _chunks(voxels, chunk):
            ours = aligned[:, :, part]
            delta = ours - teacher[:, :, part].to(ours.dtype)
            difference += delta.sum(2)
            delta.square_()
            square += delta.sum(2)
            error[:, part] = _over_channels(weights, delta)
            size = ours.abs()
            over_channels[:, part] = size.mean(1)
            over_voxels += size.sum(2)
        return error, square / voxels, difference / voxels, over_channels, over_voxels / voxels

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        aligned, teacher, weights = ctx.saved_tensors
        _, channels, voxels = aligned.shape
        error = 2 * gradients[0][:, None]
        square = 2 / voxels * gradients[1][:, :, None]
        difference = gradients[2][:, :, None] / voxels
        over_channels = gradients[3][:, None] / channels
        over_voxels = gradients[4][:, :, None] / voxels
        result = torch.empty_like(aligned)
        for part in _chunks(voxels, ctx.chunk):
            ours = aligned[:, :, part]
            gradient = ours - teacher[:, :, part].to(ours.dtype)
            gradient.mul_(torch.baddbmm(square, weights[:, :, None], error[:, :, part]))
            gradient.add_(difference)
            gradient.addcmul_(ours.sign(), over_channels[:, :, part] + over_voxels)
            result[:, :, part] = gradient
        return result, None, None, None


def pair_sums(aligned: Tensor, teacher: Tensor, weights: Tensor, chunk: int) -> PairSums:
    """All sums that the losses take over a pair of feature maps; differentiable (once) in ``aligned``.

    Args:
        aligned: F̂, (B, C, N), float32 or float64.
        teacher: F_T, (B, C, N), any type.
        weights: A_C of the teacher, (B, C); no gradient.
        chunk: voxels at a time; changes the memory needed, not the result.
    """
    return PairSums(*_PairSums.apply(aligned, teacher, weights, chunk))  # type: ignore[no-untyped-call]


class _AttentionPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, chunk: int) -> Tensor:
        batch, channels, voxels = features.shape
        scores = weight.new_empty((batch, voxels))
        for part in _chunks(voxels, chunk):
            scores[:, part] = _over_channels(weight.expand(batch, -1), features[:, :, part].to(weight.dtype))
        shares = scores.softmax(1)
        pooled = weight.new_zeros((batch, channels))
        for part in _chunks(voxels, chunk):
            pooled += _over_voxels(shares[:, part], features[:, :, part].to(weight.dtype))
        ctx.save_for_backward(features, weight, shares, pooled)
        ctx.chunk = chunk
        return pooled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        features, weight, shares, pooled = ctx.saved_tensors
        gradient = gradients[0]
        mean = (gradient * pooled).sum(1, keepdim=True)
        wanted = ctx.needs_input_grad[0]
        for_features = torch.empty_like(features) if wanted else None
        for_weight = torch.zeros_like(weight)
        for part in _chunks(features.shape[2], ctx.chunk):
            values = features[:, :, part].to(weight.dtype)
            share = shares[:, part]
            score = share * (_over_channels(gradient, values) - mean)
            for_weight += _over_voxels(score, values).sum(0)
            if for_features is not None:
                outer = gradient[:, :, None] * share[:, None]
                for_features[:, :, part] = outer.addcmul_(weight[None, :, None], score[:, None])
        return for_features, for_weight, None


def attention_pool(features: Tensor, weight: Tensor, chunk: int) -> Tensor:
    """sum_x softmax_x(w . F) F, (B, C): GCNet's context; differentiable (once) in features and weight.

    Args:
        features: F, (B, C, N); any type, but that of ``weight`` where it has a gradient.
        weight: w, (C,).
        chunk: voxels at a time; changes the memory needed, not the result.
    """
    return _AttentionPool.apply(features, weight, chunk)  # type: ignore[no-untyped-call, no-any-return]
