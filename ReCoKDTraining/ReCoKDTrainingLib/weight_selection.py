"""A student that starts from a part of a wider network's weights instead of random ones.

Weight selection of Xu et al., "Initializing Models with Larger Ones" (arXiv 2311.18823): of each tensor of the wider
network, evenly spaced channels. Layers that follow one another choose the same ones. What the channels that are left
out gave to the next layer is missing, so the student has to be trained; but its filters belong together from the start.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ReCoKDLib.networks import load_weights, plain_state


def load_selected_weights(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load a state dictionary of the same network, or of a wider one.

    Args:
        network: With C' channels where the other has C >= C'. Channel i of it becomes channel floor(i C / C') of the
            other. Behind a concatenation that is so for each half.
        weights: Of the same kind of network with the same stages, kernels and outputs.

    Raises:
        PlanError: A tensor is missing, unexpected, narrower, or of another kernel; the first one is named.
    """
    shapes = {key: tensor.shape for key, tensor in plain_state(network).items()}
    load_weights(network, {key: _selected(w, shapes[key]) if key in shapes else w for key, w in weights.items()})


def _selected(wide: Tensor, shape: torch.Size) -> Tensor:
    """Evenly spaced channels, which are the first two axes of a kernel and the only one of a bias or a norm.

    A tensor that is no wider version of ``shape`` stays as it is, for the caller to refuse.
    """
    if wide.shape[2:] != shape[2:] or any(many < few for many, few in zip(wide.shape, shape, strict=False)):
        return wide
    for axis, (many, few) in enumerate(zip(wide.shape, shape, strict=False)):
        wide = wide.index_select(axis, torch.arange(few) * many // few)
    return wide
