"""Small networks, label sets and batches for the tests of losses and distiller."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, distributed, nn

from ReCoKDLib.labels import LabelSet, Segment
from ReCoKDLib.networks import build_network
from ReCoKDLib.plan import Architecture
from ReCoKDTrainingLib.losses import build_loss
from ReCoKDTrainingLib.losses.base import NetworkOutputs
from ReCoKDTrainingLib.losses.reco import ReCoLoss, ReCoOptions
from ReCoKDTrainingLib.losses.segmentation import SegmentationLoss

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


def outputs(*features: Tensor) -> NetworkOutputs:
    """Encoder features without logits; each stage aligned as it is."""
    return NetworkOutputs(features, (), dict(enumerate(features)))


def random_features(
    channels: list[int], shape: tuple[int, int, int] = (8, 8, 8), batch: int = 2, seed: int = 0
) -> list[Tensor]:
    """One tensor for each stage, halved in size from stage to stage; positive and negative values."""
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(batch, c, *(max(1, n >> k) for n in shape), generator=generator) for k, c in enumerate(channels)
    ]


def one_process_of_several(rank: int, processes: int, folder: str) -> None:
    """What one process of a split batch computes; values and averaged gradients go to ``folder``."""
    _in_one_process(split_batch_case, rank, processes, folder)


def one_process_of_several_losses(rank: int, processes: int, folder: str) -> None:
    """The same for the losses on encoder features."""
    _in_one_process(split_batch_losses, rank, processes, folder)


def _in_one_process(case: Callable[[slice], dict[str, Tensor]], rank: int, processes: int, folder: str) -> None:
    distributed.init_process_group(
        "gloo", init_method=(Path(folder) / "meeting").as_uri(), rank=rank, world_size=processes
    )
    try:
        values = case(slice(rank, rank + 1))
        for value in values.values():
            distributed.all_reduce(value)  # DistributedDataParallel's average
            value /= processes
        if rank == 0:
            torch.save(values, Path(folder) / "values.pt")
    finally:
        distributed.destroy_process_group()


def split_batch_case(part: slice) -> dict[str, Tensor]:
    """ReCo-KD and batch Dice on a part of a batch of two, whose cases hold different classes."""
    torch.manual_seed(0)
    label_set = plain_labels(2)
    labels = block_labels()
    labels[0][labels[0] == 2] = 0  # case 0 has class 1 only
    teacher = random_features([8, 8, 8], seed=1)
    student = random_features([8, 8, 8], seed=2)
    connector = nn.Conv3d(8, 8, 1)
    loss = ReCoLoss((8, 8, 8), label_set)
    normalised = ReCoLoss((8, 8, 8), label_set, ReCoOptions(normalise="ema"))
    seen = outputs(*(connector(f[part]) for f in student[:2]), student[2][part])
    shown = outputs(*(f[part] for f in teacher))
    terms = loss(seen, shown, labels[part])
    terms |= {f"normalised {name}": value for name, value in normalised(seen, shown, labels[part]).items()}
    head = nn.Conv3d(8, 3, 1)
    dice = SegmentationLoss(label_set, 1, batch_dice=True)([head(student[0][part])], labels[part])
    (torch.stack(list(terms.values())).sum() + dice).backward()
    gradients = {"connector": connector.weight.grad, "head": head.weight.grad}
    values = {name: value.detach().clone() for name, value in terms.items()} | {"dice": dice.detach().clone()}
    values["running mean"] = normalised.running_mean.clone()
    return values | {name: g.clone() for name, g in gradients.items() if g is not None}


SPLIT_LOSSES = ("at", "cirkd", "cwd", "dprd", "emkd", "fitnet", "ifvd", "skd")
"""Losses without chance."""


def split_batch_losses(part: slice) -> dict[str, Tensor]:
    """Every loss on encoder features on a part of a batch of two, whose cases hold different classes."""
    labels = block_labels()
    labels[0][labels[0] == 2] = 0
    teacher, student = random_features([8, 8], seed=1), random_features([8, 8], seed=2)
    values: dict[str, Tensor] = {}
    for name in SPLIT_LOSSES:
        torch.manual_seed(0)
        connector = nn.Conv3d(8, 8, 1)
        loss = build_loss(name, teacher_channels=[8, 8], student_channels=[8, 8], label_set=plain_labels(2))
        seen = outputs(*(connector(f[part]) for f in student))
        total = torch.stack(list(loss(seen, outputs(*(f[part] for f in teacher)), labels[part]).values())).sum()
        total.backward()  # type: ignore[no-untyped-call]
        assert connector.weight.grad is not None
        values |= {name: total.detach().clone(), f"{name}, gradient": connector.weight.grad.clone()}
    return values
