"""nnU-Net's networks, from ``dynamic-network-architectures``."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from .base import Backbone, Kwargs, narrow, triple

if TYPE_CHECKING:
    from torch import nn

    from ..plan import Int3


class NnunetUNet(Backbone):
    """What the two have in common.

    Attributes:
        stage_counts: The argument that counts what is in each encoder stage: convolutions, or residual blocks of two.
    """

    stage_counts: ClassVar[str]
    arguments = frozenset(
        {
            *("n_stages", "features_per_stage", "conv_op", "kernel_sizes", "strides", "n_conv_per_stage_decoder"),
            *("conv_bias", "norm_op", "norm_op_kwargs", "dropout_op", "dropout_op_kwargs", "nonlin", "nonlin_kwargs"),
        }
    )
    imports = ("conv_op", "norm_op", "dropout_op", "nonlin")
    encoder_returns_stages = True

    def features(self, kwargs: Kwargs) -> tuple[int, ...]:
        return tuple(int(c) for c in kwargs["features_per_stage"])

    def strides(self, kwargs: Kwargs) -> tuple[Int3, ...]:
        return tuple(triple(stride, int, "strides") for stride in kwargs["strides"])

    def stage_paths(self, kwargs: Kwargs) -> tuple[str, ...]:
        return tuple(f"encoder.stages.{stage}" for stage in range(len(kwargs["strides"])))

    def outputs(self, kwargs: Kwargs) -> int:
        return len(kwargs["strides"]) - 1

    def narrowed(self, kwargs: Kwargs, t: int, minimum: int) -> dict[str, Any]:
        return {**kwargs, "features_per_stage": [narrow(c, t, minimum) for c in self.features(kwargs)]}

    def for_topology(
        self, features: Sequence[int], strides: Sequence[Int3], kernel_sizes: Sequence[Int3]
    ) -> dict[str, Any]:
        encoder, decoder = self._blocks(len(strides))
        return self.planned(features, strides, kernel_sizes, encoder, [decoder] * (len(strides) - 1))

    def planned(
        self,
        features: Sequence[int],
        strides: Sequence[Sequence[int]],
        kernel_sizes: Sequence[Sequence[int]],
        encoder: Sequence[int],
        decoder: Sequence[int],
    ) -> dict[str, Any]:
        """The arguments that nnU-Net's planners give, of which norm, activation and biases are always the same.

        Args:
            features: Channels of each stage.
            strides: Of each stage.
            kernel_sizes: Of each stage.
            encoder: What ``stage_counts`` names, for each stage.
            decoder: Convolutions of each decoder stage.
        """
        return {
            "n_stages": len(features),
            "features_per_stage": list(features),
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [list(kernel) for kernel in kernel_sizes],
            "strides": [list(stride) for stride in strides],
            self.stage_counts: list(encoder),
            "n_conv_per_stage_decoder": list(decoder),
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        }

    @abstractmethod
    def _blocks(self, stages: int) -> tuple[list[int], int]:
        """What ``stage_counts`` names, and the convolutions of a decoder stage, as nnU-Net plans them."""

    def build(self, kwargs: Kwargs, in_channels: int, out_channels: int, deep_supervision: bool) -> nn.Module:
        from dynamic_network_architectures.architectures import unet

        network: nn.Module = getattr(unet, self.name)(
            input_channels=in_channels, num_classes=out_channels, deep_supervision=deep_supervision, **kwargs
        )
        initialize: Any = network.initialize
        return network.apply(initialize)


class PlainConvUNet(NnunetUNet):
    """nnU-Net's default."""

    name = "PlainConvUNet"
    class_name = "dynamic_network_architectures.architectures.unet.PlainConvUNet"
    stage_counts = "n_conv_per_stage"
    arguments = NnunetUNet.arguments | {stage_counts, "nonlin_first"}

    def _blocks(self, stages: int) -> tuple[list[int], int]:
        return [2] * stages, 2


class ResidualEncoderUNet(NnunetUNet):
    """nnU-Net's residual encoder, with few convolutions in the decoder."""

    name = "ResidualEncoderUNet"
    class_name = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"
    stage_counts = "n_blocks_per_stage"
    arguments = NnunetUNet.arguments | {stage_counts, "bottleneck_channels", "stem_channels"}

    def narrowed(self, kwargs: Kwargs, t: int, minimum: int) -> dict[str, Any]:
        result = super().narrowed(kwargs, t, minimum)
        for key in ("bottleneck_channels", "stem_channels"):
            value = kwargs.get(key)
            if value is not None:
                many = isinstance(value, Sequence)
                result[key] = [narrow(c, t, minimum) for c in value] if many else narrow(value, t, minimum)
        return result

    def _blocks(self, stages: int) -> tuple[list[int], int]:
        return [(1, 3, 4, 6)[min(stage, 3)] for stage in range(stages)], 1
