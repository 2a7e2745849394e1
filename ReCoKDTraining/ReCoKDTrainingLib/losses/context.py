"""MS-CA, the context part of ReCo-KD: global context blocks, or affinities between tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from .pairs import PairSums, attention_pool

AFFINITY_GRID = 4
AFFINITY_TAU = 0.1
SMALLEST_PROBABILITY = 1e-30


class GcBlock(nn.Module):
    """GcBlock(F) = F + W2 ReLU(Norm(W1 sum_x softmax_x(w . F) F)) (GCNet, arXiv 1904.11492, in 3D).

    Bottleneck ratio 1/2 [F][C], Norm = GroupNorm(1) [C]. W2 starts at zero, bias and all, so that the block
    starts as the identity. w has no bias: the softmax would not see it. Of the pooled vector, 1x1x1
    convolutions are linear layers; w starts as those do, at 0.4 of the spread that it has in [C].
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(2, channels // 2)  # normalised, a single number would be a constant
        self.attention = nn.Linear(channels, 1, bias=False)
        self.reduce = nn.Linear(channels, hidden)
        self.norm = nn.GroupNorm(1, hidden)
        self.expand = nn.Linear(hidden, channels)
        nn.init.zeros_(self.expand.weight)
        nn.init.zeros_(self.expand.bias)

    def addition(self, features: Tensor, chunk: int) -> Tensor:
        """What the block adds to every voxel of (B, C, N) ``features``: (B, C)."""
        pooled = attention_pool(features, self.attention.weight[0], chunk)
        added: Tensor = self.expand(functional.relu(self.norm(self.reduce(pooled))))
        return added

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, D, H, W) to the same shape."""
        flat = features.flatten(2)
        added = self.addition(flat, flat.shape[2])
        return features + added[:, :, None, None, None]


def context_difference(sums: PairSums, student_addition: Tensor, teacher_addition: Tensor) -> Tensor:
    """mean((Gc_S(F̂) - Gc_T(F_T))^2), from what the two blocks add ((B, C) each).

    With d the difference of the additions: mean_x (F̂ - F_T + d)^2 = mean_x (F̂ - F_T)^2 + 2 d mean_x (F̂ - F_T)
    + d^2, so that neither block's output has to be made.
    """
    d = student_addition - teacher_addition
    return (sums.square + 2 * d * sums.difference + d.square()).mean()


def affinity_grid(*shapes: Sequence[int]) -> tuple[int, ...]:
    """g = 4 tokens along each axis, capped by the stage; by the coarser one where the two sides' grids differ."""
    return tuple(min(AFFINITY_GRID, *sizes) for sizes in zip(*shapes, strict=True))


def affinity(features: Tensor, grid: Sequence[int]) -> Tensor:
    """P = row-softmax of z zT / 0.1 without its diagonal; (B, T, T) for T tokens, rows sum to 1 [ours].

    z: (B, C, D, H, W) features, average-pooled to ``grid`` and L2-normalised over the channels (eps 1e-6).
    At least two tokens are needed.
    """
    tokens = functional.adaptive_avg_pool3d(features, (grid[0], grid[1], grid[2])).flatten(2)
    z = functional.normalize(tokens, dim=1, eps=1e-6)
    scores = torch.bmm(z.transpose(1, 2), z) / AFFINITY_TAU
    itself = torch.eye(scores.shape[1], dtype=torch.bool, device=scores.device)
    return scores.masked_fill(itself, -torch.inf).softmax(2)


def row_divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """Mean over cases and rows of KL(P_T || P_S); (B, T, T) each, 0 log 0 = 0."""
    floor = student.clamp_min(SMALLEST_PROBABILITY)  # touches the diagonals only, where P_T is 0 too
    return (torch.xlogy(teacher, teacher) - torch.xlogy(teacher, floor)).sum(2).mean()


def affinity_difference(
    student: Tensor, teacher: Tensor, student_next: Tensor | None, teacher_next: Tensor | None
) -> Tensor:
    """KL between the affinities of a level, and of P_k P_{k+1} where there is a next level [ours].

    Features (B, C, D, H, W); the widths and grids of student and teacher may differ. Two levels are compared on the
    coarser one's grid, should the cap make their grids differ.
    """
    grid = affinity_grid(student.shape[2:], teacher.shape[2:])
    if _tokens(grid) < 2:
        return student.sum() * 0
    ours, theirs = affinity(student, grid), affinity(teacher, grid)
    loss = row_divergence(theirs, ours)
    if student_next is None or teacher_next is None:
        return loss
    common = affinity_grid(grid, student_next.shape[2:], teacher_next.shape[2:])
    if _tokens(common) < 2:
        return loss
    if common != grid:
        ours, theirs = affinity(student, common), affinity(teacher, common)
    return loss + row_divergence(
        torch.bmm(theirs, affinity(teacher_next, common)), torch.bmm(ours, affinity(student_next, common))
    )


def _tokens(grid: Sequence[int]) -> int:
    total = 1
    for n in grid:
        total *= n
    return total
