"""A student that really segments ``two_blobs``: a U-Net whose weights were set by hand to threshold intensities."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from packages import small_card
from plans import small_plan
from ReCoKDLib.labels import LabelSet
from ReCoKDLib.networks import build_network
from ReCoKDLib.package import write_package
from ReCoKDLib.prediction import Predictor
from ReCoKDLib.preprocessing import preprocess
from ReCoKDLib.volume import Volume

PATCH = (24, 24, 28)


def threshold_package(path: Path, image: Volume, labels: Volume, label_set: LabelSet, **card: Any) -> Path:
    """Write a student that gives ``labels`` for ``image``, as far as single voxels' intensities tell them.

    Every convolution passes the image on unchanged (so each voxel speaks for itself), and the last one compares it
    with two thresholds, half-way between the labels' mean values after all those normalisations.

    Args:
        path: Of the package.
        image: One channel whose label values 0, 1, 2 are ever brighter.
        labels: Its labels.
        label_set: Two segments.
        **card: Changes of the card.
    """
    plan = small_plan(features=(4, 4), patch_size=PATCH)
    network: Any = build_network(plan.architecture, 1, 3)
    _pass_on(network)
    head = network.decoder.seg_layers[-1]
    head.weight.data[1, 0] = 1.0
    seen = _second_logit(Predictor(plan, label_set, [network], orientation="RAS"), image)
    means = [float(seen[labels.array[0] == value].mean()) for value in range(3)]
    low, high = (means[0] + means[1]) / 2, (means[1] + means[2]) / 2
    # Of the lines 0, x - low and 2 x - low - high each is the highest between its thresholds.
    head.weight.data[:, 0] = torch.tensor([0.0, 1.0, 2.0]).reshape(3, 1, 1, 1)
    head.bias.data[:] = torch.tensor([0.0, -low, -low - high])
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_package(path, small_card(**card), plan, label_set, [network.state_dict()])


def _pass_on(network: Any) -> None:
    """Make the first feature of each stage the image, normalised, and all others zero."""
    for name, module in network.named_modules():
        if isinstance(module, torch.nn.Conv3d | torch.nn.ConvTranspose3d):
            module.weight.data.zero_()
            if module.bias is not None:
                module.bias.data.zero_()
        if isinstance(module, torch.nn.Conv3d) and "seg_layers" not in name:
            # Where a decoder joins what comes from below with what was skipped, the latter are its last inputs.
            skipped = module.in_channels - module.out_channels if name.startswith("decoder.stages") else 0
            middle = [n // 2 for n in module.kernel_size]
            module.weight.data[(0, skipped, *middle)] = 1.0


def _second_logit(predictor: Predictor, image: Volume) -> Any:
    """(k, j, i) values of the second output, on the image's own grid."""
    in_ras = image.reoriented("RAS")
    logits = predictor.patch_logits(preprocess(in_ras, predictor.plan)).numpy()[1]
    return in_ras.with_array(np.ascontiguousarray(logits[None])).reoriented(image.axis_codes).array[0]
