"""In which number format and which order of a tensor's numbers a device computes fastest without harm."""

from __future__ import annotations

import torch
from torch import nn

from ReCoKDLib.errors import ReCoKDError
from ReCoKDLib.plan import Architecture

CHOICES = ("auto", "bf16", "off")
_NARROW = 16


def autocast_dtype(device: torch.device, choice: str = "auto") -> torch.dtype | None:
    """bfloat16 where the device has instructions for it, else None (float32).

    ``bf16`` asks for it everywhere, ``off`` nowhere. float16 is not offered: it needs loss scaling, and every GPU
    with tensor cores of the last generations has bfloat16.
    """
    if choice not in CHOICES:
        raise ReCoKDError(f"The precision must be one of {', '.join(CHOICES)}, not {choice!r}.")
    if choice == "off":
        return None
    if choice == "bf16":
        return torch.bfloat16
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else None
    if device.type == "cpu":
        # Without these instructions bfloat16 on a CPU is emulated, and slower than float32. torch has no public
        # question for them in all versions that we support.
        ask = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
        return torch.bfloat16 if ask is not None and ask() else None
    return None


def arranged(network: nn.Module, device: torch.device, architecture: Architecture) -> nn.Module:
    """A network that is to be trained, its weights in the order that the device trains it fastest with.

    That is channels last on a CPU where the first stage is narrow. Measured there, a step of nnU-Net's networks with 8
    or 4 channels in the first stage is by a quarter to a half cheaper; with 16 it is about equal, with 32 dearer, as a
    SegResNet's in bfloat16 is.
    """
    narrow = architecture.features_per_stage[0] < _NARROW
    if device.type == "cpu" and narrow and architecture.backbone.encoder_returns_stages:
        network = network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    return network


def arranged_teacher(network: nn.Module, device: torch.device) -> nn.Module:
    """A teacher, which is only run, its numbers in the order that the device runs it fastest with.

    That is channels last on a CPU. torch's instance norm there brings its data into the plain order and convolutions
    bring them back, so it becomes group norm with a group for each channel: the same function of the same weights, for
    any order. Measured, a forward pass of nnU-Net's hippocampus teacher takes 0.6 of the time in bfloat16 and 0.8 in
    float32. Gradients of such a group norm are slow, so it is nothing for students.
    """
    if device.type != "cpu":
        return network
    for parent in list(network.modules()):
        for name, module in list(parent.named_children()):
            if isinstance(module, nn.InstanceNorm3d) and module.affine and not module.track_running_stats:
                setattr(parent, name, _as_group_norm(module))
    return network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload, no-any-return]


def _as_group_norm(norm: nn.InstanceNorm3d) -> nn.GroupNorm:
    made = nn.GroupNorm(norm.num_features, norm.num_features, eps=norm.eps)
    made.weight, made.bias = norm.weight, norm.bias
    return made
