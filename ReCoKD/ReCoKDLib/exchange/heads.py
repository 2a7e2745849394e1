"""The order of a network's outputs: regions are painted one over another in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..errors import PlanError
from ..plan import Architecture

if TYPE_CHECKING:
    import torch

# The modules of each backbone that have one channel for each output, and those among them that also take such.
_LAST = {
    "UNet": ("model.2.",),
    "SegResNet": ("conv_final.2.",),
    "DynUNet": ("output_block.", "deep_supervision_heads."),
}
_FROM_HEADS = ("model.2.1.",)


def reordered_heads(
    architecture: Architecture, weights: Mapping[str, torch.Tensor], order: Sequence[int], in_channels: int
) -> dict[str, torch.Tensor]:
    """The weights of the network whose output n is output ``order[n]`` of the given one; tried on noise.

    Raises:
        PlanError: The weights do not fit the architecture, or its outputs cannot be reordered.
    """
    import torch

    from ..networks import build_network, check_weights, load_weights

    given = build_network(architecture, in_channels, len(order)).eval()
    turned = build_network(architecture, in_channels, len(order)).eval()
    result = check_weights(given, weights)
    chosen = list(order)
    for name, module in given.named_modules():
        if not f"{name}.".startswith(_LAST.get(architecture.backbone.name, ())):
            continue
        for key, tensor in module.state_dict(prefix=f"{name}.").items():
            if "." in key[len(name) + 1 :] or key not in result or tensor.ndim == 0:
                continue
            values = result[key]
            transposed = isinstance(module, torch.nn.ConvTranspose3d) and tensor.ndim > 1
            if transposed:
                values = values[:, chosen]
            elif values.shape[0] == len(order):  # not PReLU's single slope
                values = values[chosen]
                if tensor.ndim > 1 and key.startswith(_FROM_HEADS):
                    values = values[:, chosen]
            result[key] = values.contiguous()
    load_weights(given, weights)
    load_weights(turned, result)
    total = [1, 1, 1]
    for stride in architecture.strides:
        total = [t * s for t, s in zip(total, stride, strict=True)]
    noise = torch.randn((1, in_channels, *(2 * n for n in total)), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        if not torch.allclose(turned(noise), given(noise)[:, chosen], atol=1e-4, rtol=1e-4):
            raise PlanError(f"The outputs of this {architecture.backbone.name} cannot be put into another order.")
    return result
