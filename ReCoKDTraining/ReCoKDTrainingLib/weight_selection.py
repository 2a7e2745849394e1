"""A student that starts from a part of a wider network's weights instead of random ones.

Weight selection of Xu et al., "Initializing Models with Larger Ones" (arXiv 2311.18823): of each tensor of the wider
network, evenly spaced channels. Layers that follow one another choose the same ones. What the channels that are left
out gave to the next layer is missing, so the student has to be trained; but its filters belong together from the start.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ReCoKDLib.errors import PlanError
from ReCoKDLib.networks import load_weights

REMEDY = "Start from a model of the same backbone and stages that is as wide, or wider by one factor throughout."


def load_selected_weights(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load a state dictionary of the same network, or of one with n times its channels, of which it takes each n-th.

    Args:
        network: Whose weights are replaced.
        weights: Of the same kind of network with the same stages, kernels, inputs and outputs. That it has the same
            inputs and outputs is the caller's to know: of twice as many it would take each second one.

    Raises:
        PlanError: A tensor is missing, unexpected, narrower or of another kernel, or some layers are wider by another
            factor than others (a student has at least 4 channels), so that their channels would not fit together.
    """
    shapes = {key: tensor.shape for key, tensor in network.state_dict().items()}
    found = {key: _factors(wide.shape, shapes[key]) for key, wide in weights.items() if key in shapes}
    factors = set().union(*found.values()) - {1}
    if len(factors) > 1 or not all(factor.is_integer() for factor in factors):
        raise PlanError(
            f"The initial weights do not fit: some layers are wider by another factor than others. {REMEDY}"
        )
    slices = {key: tuple(slice(None, None, int(factor)) for factor in of) for key, of in found.items()}
    try:
        load_weights(network, {key: wide[slices[key]] if key in slices else wide for key, wide in weights.items()})
    except PlanError as error:
        raise PlanError(str(error).replace("Use the plan they were trained with.", REMEDY)) from error


def _factors(wide: torch.Size, narrow: torch.Size) -> tuple[float, ...]:
    """By how much the channels are more, along the first two axes of a kernel or the only one of a bias or a norm.

    1 where they are fewer or the kernels differ, for :func:`load_weights` to refuse.
    """
    if wide[2:] != narrow[2:] or len(wide) != len(narrow):
        return ()
    return tuple(max(1.0, many / few) for many, few in zip(wide[:2], narrow[:2], strict=True))
