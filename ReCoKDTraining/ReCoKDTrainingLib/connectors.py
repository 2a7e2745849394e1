"""Connectors P_k: 1x1x1 convolutions that bring the student's features to the teacher's width."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ReCoKDLib.errors import ReCoKDError

from .losses.reduction import sum_over_processes
from .losses.stagewise import brought_to
from .processes import share_parameters

STARTS = ("random", "fitted")
_RIDGE = 1e-3
"""Of the mean variance of the student's features: some of them may be copies of others."""


@dataclass(frozen=True)
class ConnectorOptions:
    """How connectors learn.

    Attributes:
        start: ``random`` [C]: as a convolution is made; ``fitted`` [ours]: with the first batch that they are needed
            for, at the least-squares fit of the teacher's features to the student's.
        rate: their learning rate over that of all else [ours]. A connector learns from the distillation loss alone,
            which stage weight and ramp make small.

    Raises:
        ReCoKDError: another start, or a rate that isn't positive.
    """

    start: str = "random"
    rate: float = 1.0

    def __post_init__(self) -> None:
        if self.start not in STARTS:
            raise ReCoKDError(f"Connectors start {' or '.join(STARTS)}, not {self.start!r}.")
        if not 0 < self.rate < float("inf"):
            raise ReCoKDError(f"The connectors' rate must be above 0, not {self.rate}.")


class Connectors(nn.ModuleDict):
    """P_k with bias by stage, identity where C' = C [C]; the keys are the stages as text.

    Args:
        stages: for which there is one.
        student_channels, teacher_channels: of all stages.
        options: how they start.
    """

    fitted: Tensor

    def __init__(
        self,
        stages: Iterable[int],
        student_channels: Sequence[int],
        teacher_channels: Sequence[int],
        options: ConnectorOptions,
    ) -> None:
        narrow, wide = student_channels, teacher_channels
        super().__init__(
            {
                str(k): nn.Identity() if wide[k] == narrow[k] else nn.Conv3d(narrow[k], wide[k], kernel_size=1)
                for k in sorted(set(stages))
            }
        )
        if options.start == "fitted":
            self.register_buffer("fitted", torch.tensor(False))

    def align(self, student: Mapping[int, Tensor], teacher: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """P_k F_S^k by stage in float32, on the teacher's grid (trilinear interpolation where that is another one).

        Args:
            student: (B, C', D, H, W) by stage.
            teacher: (B, C, D, H, W) by stage.
        """
        if "fitted" in self._buffers and not self.fitted:
            self._fit(student, teacher)
        return {k: brought_to(self[str(k)](ours.float()), teacher[k].shape[2:]) for k, ours in student.items()}

    @torch.no_grad()
    def _fit(self, student: Mapping[int, Tensor], teacher: Mapping[int, Tensor]) -> None:
        for k, ours in student.items():
            connector = self[str(k)]
            if isinstance(connector, nn.Conv3d):
                weight, bias = least_squares(brought_to(ours.float(), teacher[k].shape[2:]), teacher[k].float())
                connector.weight.copy_(weight[:, :, None, None, None])
                if connector.bias is not None:
                    connector.bias.copy_(bias)
        share_parameters(list(self.parameters()))  # each process solved by itself, perhaps with other rounding
        self.fitted.fill_(True)


@torch.no_grad()
def least_squares(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """The (C, C') matrix and (C,) offset that bring the student's features nearest to the teacher's.

    Over all voxels of all cases, of all processes where there are several; with a ridge of a thousandth of the mean
    variance of the student's features.

    Args:
        student: (B, C', D, H, W).
        teacher: (B, C, D, H, W).
    """
    x, y = (features.transpose(0, 1).flatten(1) for features in (student, teacher))
    count = sum_over_processes(torch.tensor(float(x.shape[1]), device=x.device))
    means = sum_over_processes(torch.cat([x, y]).sum(1)) / count
    mean_x, mean_y = means[: len(x)], means[len(x) :]
    x, y = x - mean_x[:, None], y - mean_y[:, None]
    products = sum_over_processes(torch.cat([x @ x.T, y @ x.T])).cpu().double()
    gram, cross = products[: len(x)], products[len(x) :]
    ridge = _RIDGE * gram.diagonal().mean().clamp_min(torch.finfo(torch.float32).tiny)
    weight = torch.linalg.solve(gram + ridge * torch.eye(len(gram), dtype=gram.dtype), cross.T).T.to(mean_x)
    return weight, mean_y - weight @ mean_x
