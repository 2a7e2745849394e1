"""Recorders run a network and keep the features of its stages; which one, the backbone's entry tells."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Protocol, cast

from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from ReCoKDLib.backbones import triple
from ReCoKDLib.errors import ReCoKDError
from ReCoKDLib.plan import Architecture, Int3

from .losses.base import NetworkOutputs


class Recorder(Protocol):
    """Runs a network and keeps the features of its encoder stages, and of its decoder's where that is asked for."""

    @property
    def decoder(self) -> bool:
        """Whether the decoder's stages follow the encoder's, full resolution first, where the logits are wanted."""

    def channels(self, network: nn.Module) -> tuple[int, ...]:
        """Channels of the encoder stages, full resolution first, bottleneck last."""

    def strides(self, network: nn.Module) -> tuple[Int3, ...]:
        """Strides of the encoder stages along the three axes."""

    def run(self, network: nn.Module, images: Tensor, with_logits: bool) -> NetworkOutputs:
        """One forward pass on (B, C, D, H, W); the logits are empty where they aren't wanted."""

    def shared_weight(self, network: nn.Module, stage: int) -> nn.Parameter:
        """The weight of the last layer of an encoder stage."""


class EncoderDecoderRecorder:
    """For nnU-Net's networks, whose encoder returns every stage's output: call encoder, then decoder.

    Args:
        decoder: whether the decoder's stages are recorded too: one for each of the encoder's but the bottleneck, with
            its channels on its grid.
    """

    def __init__(self, decoder: bool = False) -> None:
        self.decoder = decoder

    def channels(self, network: nn.Module) -> tuple[int, ...]:
        """As the encoder declares them."""
        return tuple(int(c) for c in cast(Any, network).encoder.output_channels)

    def strides(self, network: nn.Module) -> tuple[Int3, ...]:
        """As the encoder declares them."""
        return tuple(triple(stride, int, "strides") for stride in cast(Any, network).encoder.strides)

    def run(self, network: nn.Module, images: Tensor, with_logits: bool) -> NetworkOutputs:
        """Encoder, then (where the logits are wanted) decoder."""
        parts = cast(Any, network)
        return self._outputs(parts.encoder, parts.decoder, images, with_logits)

    def _outputs(
        self, encoder: Callable[..., Any], decoder: Callable[..., Any], images: Tensor, with_logits: bool
    ) -> NetworkOutputs:
        features = tuple(encoder(images))
        if not with_logits:
            return NetworkOutputs(features, ())
        decoded: list[Tensor] = []
        stages = cast(Any, decoder).stages if self.decoder else ()
        handles = [stage.register_forward_hook(lambda module, _, output: decoded.append(output)) for stage in stages]
        try:
            logits = _listed(decoder(features))
        finally:
            for handle in handles:
                handle.remove()
        return NetworkOutputs((*features, *reversed(decoded)), logits)

    def shared_weight(self, network: nn.Module, stage: int) -> nn.Parameter:
        """The last convolution's weight of the stage."""
        return _last_weight(cast(Any, network).encoder.stages[stage])


class HookRecorder:
    """For any other network: forward hooks on its stages, there during the forward pass only.

    A pass that is repeated later, as by activation checkpointing, records nothing, and no tensor is kept from one
    step to the next. Under DistributedDataParallel the wrapper is called and the hooks sit on what it wraps.

    Args:
        paths: the modules whose outputs are the features, as ``named_modules`` calls them, in the order they run.
        channels: of these outputs.
        strides: of these modules.
        activate: bring the outputs to where nnU-Net's stages end, instance norm and leaky ReLU, in float32 [ours]. For
            networks whose stages end in a sum of residuals: its scale grows from stage to stage (in a trained SegResNet
            to twenty times that of nnU-Net's features), and the losses, which compare scales, would see nothing else.
    """

    decoder = False

    def __init__(
        self, paths: Sequence[str], channels: Sequence[int], strides: Sequence[Int3], activate: bool = False
    ) -> None:
        self.paths = tuple(paths)
        self._channels = tuple(channels)
        self._strides = tuple(strides)
        self.activate = activate

    def channels(self, network: nn.Module) -> tuple[int, ...]:
        """As they were given."""
        return self._channels

    def strides(self, network: nn.Module) -> tuple[Int3, ...]:
        """As they were given."""
        return self._strides

    def run(self, network: nn.Module, images: Tensor, with_logits: bool) -> NetworkOutputs:
        """The whole network, or (where the logits aren't wanted) as far as the last stage."""
        features: dict[str, Tensor] = {}
        logits: tuple[Tensor, ...] = ()
        with self._recording(network, features, not with_logits), suppress(_LastStageReached):
            logits = _listed(network(images))
        recorded = (features[path] for path in self.paths)
        return NetworkOutputs(tuple(_activated(f) if self.activate else f for f in recorded), logits)

    @contextmanager
    def _recording(self, network: nn.Module, features: dict[str, Tensor], stop: bool) -> Iterator[None]:
        def keep(path: str) -> Any:
            def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
                features[path] = output
                if stop and path == self.paths[-1]:
                    raise _LastStageReached

            return hook

        handles = [self._stage(network, path).register_forward_hook(keep(path)) for path in self.paths]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @staticmethod
    def _stage(network: nn.Module, path: str) -> nn.Module:
        return (network.module if isinstance(network, DistributedDataParallel) else network).get_submodule(path)

    def shared_weight(self, network: nn.Module, stage: int) -> nn.Parameter:
        """The last convolution's weight of the stage."""
        return _last_weight(self._stage(network, self.paths[stage]))


class _LastStageReached(Exception):  # noqa: N818 (it is no error)
    """Ends a forward pass whose remaining layers nobody asked for."""


def _activated(features: Tensor) -> Tensor:
    if features[0, 0].numel() > 1:  # a single voxel has no variance
        features = functional.instance_norm(features.float())
    return functional.leaky_relu(features, 0.01)


def _listed(output: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    return (output,) if isinstance(output, Tensor) else tuple(output)


def _last_weight(stage: nn.Module) -> nn.Parameter:
    return [parameter for parameter in stage.parameters() if parameter.ndim > 1][-1]


def recorder_for(architecture: Architecture, decoder: bool = False) -> Recorder:
    """The recorder for the network of an architecture.

    Raises:
        ReCoKDError: its decoder's stages are wanted, and it is none of nnU-Net's networks.
    """
    if architecture.backbone.encoder_returns_stages:
        return EncoderDecoderRecorder(decoder)
    if decoder:
        raise ReCoKDError(
            "The stages of a decoder can be compared in nnU-Net's own networks only, not in "
            f"{architecture.backbone.name}."
        )
    return HookRecorder(
        architecture.stage_paths,
        architecture.features_per_stage,
        architecture.strides,
        activate=not architecture.ends_in_activation,
    )


def pair_stages(student: Sequence[Int3], teacher: Sequence[Int3]) -> tuple[int, ...]:
    """For each of the student's stages the teacher's stage of the nearest cumulative stride.

    Args:
        student: strides of its encoder stages.
        teacher: the same of the teacher.

    Strides are compared as the sum over the axes of |log2|. Of equally near stages (a bottleneck without a stride of
    its own) the one at the same place is taken, so that equal encoders are paired stage by stage.
    """
    ours, theirs = _cumulative(student), _cumulative(teacher)

    def distance(k: int, j: int) -> tuple[float, int]:
        return sum(abs(math.log2(a / b)) for a, b in zip(ours[k], theirs[j], strict=True)), abs(k - j)

    return tuple(min(range(len(theirs)), key=lambda j, k=k: distance(k, j)) for k in range(len(ours)))  # type: ignore[misc]


def _cumulative(strides: Sequence[Int3]) -> list[tuple[int, int, int]]:
    total, result = (1, 1, 1), []
    for a, b, c in strides:
        total = (total[0] * a, total[1] * b, total[2] * c)
        result.append(total)
    return result
