"""The average of a network's weights over the epochs of its training, later ones counting more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

POWER = 3
"""An epoch counts as this power of its number: three quarters of the average are of the last 30 % of the training."""


class WeightAverage:
    """Polynomial-decay averaging (Shamir and Zhang, arXiv 1212.1824, section 4): for a training of any length.

    When the t-th weights come, the average moves by (POWER + 1) / (t + POWER) of the way to them.

    Args:
        network: Whose weights; it is copied.
    """

    def __init__(self, network: nn.Module) -> None:
        self._averaged = AveragedModel(network, avg_fn=_towards, use_buffers=True)

    @property
    def network(self) -> nn.Module:
        """With the average weights; before the first epoch's end with those that it was made with."""
        module: nn.Module = self._averaged.module
        return module

    def add(self, network: nn.Module) -> None:
        """Count the network's present weights in."""
        self._averaged.update_parameters(network)

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return dict(self._averaged.state_dict())

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state`.

        Raises:
            RuntimeError: It is of another network.
        """
        self._averaged.load_state_dict(state)


def _towards(average: Tensor, new: Tensor, seen: Tensor | int) -> Tensor:
    """The next average, when ``seen`` weights are in it already."""
    return average + (new - average) * ((POWER + 1) / (seen + 1 + POWER))
