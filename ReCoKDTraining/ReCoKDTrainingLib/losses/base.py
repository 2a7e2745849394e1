"""What a distillation loss sees and what it has to declare."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class NetworkOutputs:
    """One forward pass of a network, as the losses see it.

    Attributes:
        features: (B, C_k, D_k, H_k, W_k) of every encoder stage, full resolution first, bottleneck last; then of every
            decoder stage, full resolution first, where a loss reads those.
        logits: (B, heads, D_i, H_i, W_i), full resolution first; a teacher's only if a loss reads them.
        aligned: by stage, the student's features after its connectors, (B, C_k of the teacher, ...); only the
            stages that a loss wants aligned, and nothing for the teacher.
    """

    features: tuple[Tensor, ...]
    logits: tuple[Tensor, ...]
    aligned: Mapping[int, Tensor] = field(default_factory=lambda: MappingProxyType({}))


def with_decoder(channels: Sequence[int]) -> tuple[int, ...]:
    """Channels of the encoder's stages, and those of the decoder's stages after them, as ``NetworkOutputs`` has both.

    nnU-Net's decoder has a stage for each of the encoder's but the bottleneck, with its channels on its grid.
    """
    return (*channels, *channels[:-1])


def full_precision(tensor: Tensor) -> Tensor:
    """In float32, which losses are computed in (float64 stays); no copy where it is that already."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


class DistillationLoss(nn.Module, ABC):
    """A distillation loss: it sees outputs, never networks, and owns whatever it trains besides them.

    What ``parameters()`` gives is optimised together with the student and never exported with it.

    Attributes:
        stages: the stages whose features it reads (empty: none), as ``NetworkOutputs.features`` counts them.
        uses_logits: whether it reads the teacher's logits.
        uses_decoder: whether it reads stages of the decoder. The teacher's is left out where nobody needs it.
        needs_connectors: whether it wants the student's features at the teacher's width (``aligned``).
    """

    stages: tuple[int, ...] = ()
    uses_logits: bool = False
    uses_decoder: bool = False
    needs_connectors: bool = False

    @abstractmethod
    def forward(self, student: NetworkOutputs, teacher: NetworkOutputs, labels: Tensor) -> dict[str, Tensor]:
        """Named scalar terms; their sum is the loss.

        Args:
            student: with gradient.
            teacher: without.
            labels: (B, 1, D, H, W) integers at full resolution, ignore label possible.
        """

    def pop_statistics(self) -> dict[str, float]:
        """Counters since the last call, for the log; they start again at zero. None by default."""
        return {}
