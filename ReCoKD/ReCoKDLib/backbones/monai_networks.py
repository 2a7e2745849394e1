"""Networks of MONAI's.

Norms and activations stand as MONAI writes them: a name, or a list of a name and its options. MONAI looks the name up
in its own tables.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import PlanError
from .base import Backbone, Kwargs, narrow, triple

if TYPE_CHECKING:
    from torch import nn

    from ..plan import Int3


class DynUNet(Backbone):
    """MONAI's nnU-Net. Its deep-supervision heads are part of it where ``deep_supervision`` is among its arguments."""

    name = "DynUNet"
    class_name = "monai.networks.nets.DynUNet"
    arguments = frozenset(
        {
            *("kernel_size", "strides", "upsample_kernel_size", "filters", "dropout", "norm_name", "act_name"),
            *("deep_supervision", "deep_supr_num", "res_block", "trans_bias"),
        }
    )

    def features(self, kwargs: Kwargs) -> tuple[int, ...]:
        stages = len(kwargs["strides"])
        filters = kwargs.get("filters") or [min(32 << stage, 320) for stage in range(stages)]
        return tuple(int(c) for c in filters[:stages])

    def strides(self, kwargs: Kwargs) -> tuple[Int3, ...]:
        strides: tuple[Int3, ...] = tuple(triple(stride, int, "strides") for stride in kwargs["strides"])
        if strides[0] != (1, 1, 1):
            raise PlanError(
                f"The plan's DynUNet begins with the stride {strides[0]}, so that its output is coarser than its "
                "input. Only networks whose first stride is 1 can be used."
            )
        return strides

    def stage_paths(self, kwargs: Kwargs) -> tuple[str, ...]:
        between = len(kwargs["strides"]) - 2
        return ("input_block", *(f"downsamples.{stage}" for stage in range(between)), "bottleneck")

    def outputs(self, kwargs: Kwargs) -> int:
        return 1 + int(kwargs.get("deep_supr_num", 1)) if kwargs.get("deep_supervision") else 1

    def narrowed(self, kwargs: Kwargs, t: int, minimum: int) -> dict[str, Any]:
        filters = [narrow(c, t, minimum) for c in self.features(kwargs)]
        return _with_groups({**kwargs, "filters": filters}, "norm_name", filters)

    def for_topology(
        self, features: Sequence[int], strides: Sequence[Int3], kernel_sizes: Sequence[Int3]
    ) -> dict[str, Any]:
        if len(strides) < 3:
            raise PlanError("A DynUNet needs at least three stages; the patch allows two. Choose another backbone.")
        return {
            "kernel_size": [list(kernel) for kernel in kernel_sizes],
            "strides": [list(stride) for stride in strides],
            "upsample_kernel_size": [list(stride) for stride in strides[1:]],
            "filters": list(features),
            "norm_name": ["INSTANCE", {"affine": True}],
            "act_name": ["leakyrelu", {"inplace": True, "negative_slope": 0.01}],
            "deep_supervision": True,
            "deep_supr_num": len(strides) - 2,
            "res_block": False,
            "trans_bias": True,
        }

    def build(self, kwargs: Kwargs, in_channels: int, out_channels: int, deep_supervision: bool) -> nn.Module:
        from monai.networks.nets import dynunet

        network = dynunet.DynUNet(spatial_dims=3, in_channels=in_channels, out_channels=out_channels, **kwargs)
        if not network.deep_supervision:
            return network
        # MONAI would blow all outputs up to full resolution and stack them.
        network.deep_supervision = False
        if deep_supervision:
            network.register_forward_hook(_all_outputs)
        else:
            for layer in network.modules():
                if isinstance(layer, dynunet.DynUNetSkipLayer):
                    layer.heads = None  # so that the head is not run
        return network


def _all_outputs(network: Any, _: Any, output: Any) -> list[Any]:
    """nnU-Net's list of outputs, from what the heads left behind; nothing of it is kept until the next step."""
    outputs = [output, *network.heads]
    network.heads[:] = [output.new_empty(0)] * len(network.heads)
    return outputs


class SegResNet(Backbone):
    """MONAI's SegResNet: every stage halves all axes and doubles the channels; one output."""

    name = "SegResNet"
    class_name = "monai.networks.nets.SegResNet"
    arguments = frozenset({"init_filters", "dropout_prob", "act", "norm", "blocks_down", "blocks_up", "upsample_mode"})

    def features(self, kwargs: Kwargs) -> tuple[int, ...]:
        return tuple(int(kwargs.get("init_filters", 8)) << stage for stage in range(self._stages(kwargs)))

    def strides(self, kwargs: Kwargs) -> tuple[Int3, ...]:
        return ((1, 1, 1), *[(2, 2, 2)] * (self._stages(kwargs) - 1))

    def _stages(self, kwargs: Kwargs) -> int:
        stages = len(kwargs.get("blocks_down", (1, 2, 2, 4)))
        if len(kwargs.get("blocks_up", (1, 1, 1))) != stages - 1:
            raise PlanError(f"The plan's SegResNet has {stages} entries in blocks_down; blocks_up must have one less.")
        return stages

    def stage_paths(self, kwargs: Kwargs) -> tuple[str, ...]:
        return tuple(f"down_layers.{stage}" for stage in range(self._stages(kwargs)))

    def ends_in_activation(self, kwargs: Kwargs) -> bool:
        return False

    def outputs(self, kwargs: Kwargs) -> int:
        return 1

    def narrowed(self, kwargs: Kwargs, t: int, minimum: int) -> dict[str, Any]:
        first = narrow(self.features(kwargs)[0], t, minimum)
        groups = {"norm": ["GROUP", {"num_groups": 8}], **kwargs, "init_filters": first}
        return _with_groups(groups, "norm", [first])

    def for_topology(
        self, features: Sequence[int], strides: Sequence[Int3], kernel_sizes: Sequence[Int3]
    ) -> dict[str, Any]:
        # As many stages as the coarsest axis is halved times; MONAI's own configurations have five at most.
        stages = 1 + min(sum(stride[axis] == 2 for stride in strides) for axis in range(3))
        if stages < 2:
            raise PlanError(
                "A SegResNet halves every axis, and the patch is too flat for that. Choose another backbone."
            )
        stages = min(stages, 5)
        return {
            "init_filters": features[0],
            "act": ["RELU", {"inplace": True}],
            "norm": ["GROUP", {"num_groups": 8}],
            "blocks_down": [(1, 2, 2, 4, 4)[stage] for stage in range(stages)],
            "blocks_up": [1] * (stages - 1),
            "upsample_mode": "nontrainable",
        }

    def build(self, kwargs: Kwargs, in_channels: int, out_channels: int, deep_supervision: bool) -> nn.Module:
        from monai.networks.nets import segresnet

        return segresnet.SegResNet(spatial_dims=3, in_channels=in_channels, out_channels=out_channels, **kwargs)


class UNet(Backbone):
    """MONAI's UNet: the first stage may already be strided, and the bottleneck is not; one output."""

    name = "UNet"
    class_name = "monai.networks.nets.UNet"
    arguments = frozenset(
        {
            *("channels", "strides", "kernel_size", "up_kernel_size", "num_res_units", "act", "norm", "dropout"),
            *("bias", "adn_ordering"),
        }
    )

    def features(self, kwargs: Kwargs) -> tuple[int, ...]:
        return tuple(int(c) for c in kwargs["channels"])

    def strides(self, kwargs: Kwargs) -> tuple[Int3, ...]:
        before = kwargs["strides"][: len(kwargs["channels"]) - 1]
        return (*(triple(stride, int, "strides") for stride in before), (1, 1, 1))

    def stage_paths(self, kwargs: Kwargs) -> tuple[str, ...]:
        levels = ["model" + ".1.submodule" * level for level in range(len(kwargs["channels"]))]
        return (*(f"{level}.0" for level in levels[:-1]), levels[-1])

    def ends_in_activation(self, kwargs: Kwargs) -> bool:
        return not kwargs.get("num_res_units")

    def outputs(self, kwargs: Kwargs) -> int:
        return 1

    def narrowed(self, kwargs: Kwargs, t: int, minimum: int) -> dict[str, Any]:
        channels = [narrow(c, t, minimum) for c in self.features(kwargs)]
        return _with_groups({**kwargs, "channels": channels}, "norm", channels)

    def for_topology(
        self, features: Sequence[int], strides: Sequence[Int3], kernel_sizes: Sequence[Int3]
    ) -> dict[str, Any]:
        return {
            "channels": list(features),
            "strides": [list(stride) for stride in strides[1:]],
            "num_res_units": 2,
            "norm": ["INSTANCE", {"affine": True}],
        }

    def build(self, kwargs: Kwargs, in_channels: int, out_channels: int, deep_supervision: bool) -> nn.Module:
        from monai.networks.nets import unet

        return unet.UNet(spatial_dims=3, in_channels=in_channels, out_channels=out_channels, **kwargs)


def _with_groups(kwargs: dict[str, Any], key: str, channels: Sequence[int]) -> dict[str, Any]:
    """The same, but with no more groups in a group norm than all the ``channels`` can be divided into."""
    norm = kwargs.get(key)
    if not isinstance(norm, Sequence) or isinstance(norm, str) or str(norm[0]).upper() != "GROUP":
        return kwargs
    options = dict(norm[1])
    return {**kwargs, key: [norm[0], {**options, "num_groups": math.gcd(int(options["num_groups"]), *channels)}]}
