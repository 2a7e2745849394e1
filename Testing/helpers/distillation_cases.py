"""Small networks, label sets and batches for the tests of losses and distiller."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ReCoKDLib.labels import LabelSet, Segment
from ReCoKDLib.networks import build_network
from ReCoKDLib.plan import Architecture

GREY = (0.5, 0.5, 0.5)
CONV = "torch.nn.modules.conv.Conv3d"
NORM = "torch.nn.modules.instancenorm.InstanceNorm3d"


def plain_labels(classes: int, ignore: bool = False) -> LabelSet:
    """Labels 1..classes; the ignore label is the next value."""
    segments = tuple(Segment(f"structure {v}", v, (v,), GREY) for v in range(1, classes + 1))
    return LabelSet(segments, False, classes + 1 if ignore else None)


def region_labels(ignore: bool = False) -> LabelSet:
    """Three nested regions of three labels, like BraTS: whole (1, 2, 3), core (2, 3), enhancing (3)."""
    regions = {"whole": (1, 2, 3), "core": (2, 3), "enhancing": (3,)}
    segments = tuple(Segment(n, i + 1, r, GREY) for i, (n, r) in enumerate(regions.items()))
    return LabelSet(segments, True, 4 if ignore else None)


def architecture(features: list[int]) -> Architecture:
    """nnU-Net's plain U-Net with these widths, one stage for each, all strides 2 after the first."""
    n = len(features)
    return Architecture(
        "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        {
            "n_stages": n,
            "features_per_stage": features,
            "conv_op": CONV,
            "kernel_sizes": [[3, 3, 3]] * n,
            "strides": [[1, 1, 1]] + [[2, 2, 2]] * (n - 1),
            "n_conv_per_stage": [2] * n,
            "n_conv_per_stage_decoder": [2] * (n - 1),
            "conv_bias": True,
            "norm_op": NORM,
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        ("conv_op", "norm_op", "dropout_op", "nonlin"),
    )


def network(features: list[int], heads: int = 3, channels: int = 1) -> nn.Module:
    """A plain U-Net under deep supervision, initialised as nnU-Net does."""
    return build_network(architecture(features), channels, heads, deep_supervision=True)


def block_labels(shape: tuple[int, int, int] = (8, 8, 8), batch: int = 2) -> Tensor:
    """(batch, 1, *shape): label 1 in one corner block, label 2 in another, the rest 0."""
    labels = torch.zeros((batch, 1, *shape), dtype=torch.int16)
    d, h, w = (n // 2 for n in shape)
    labels[:, :, :d, :h, :w] = 1
    labels[:, :, d:, h:, w:] = 2
    return labels
