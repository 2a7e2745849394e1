"""nnU-Net's segmentation loss: Dice plus cross-entropy under deep supervision.

Own short functions, not MONAI's: MONAI's Dice has no ignore label, and its masked Dice multiplies the logits
(not the probabilities) by the mask, which is another number than nnU-Net's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ReCoKDLib.labels import LabelSet

from .base import full_precision
from .labels import downsample_labels, region_mask
from .reduction import mean_over_present, several_processes, sum_over_processes

SMOOTH = 1e-5


def deep_supervision_weights(number_of_outputs: int) -> tuple[float, ...]:
    """2^-i for output i (full resolution first), the last 0, divided by their sum; (1,) for one output."""
    if number_of_outputs < 1:
        raise ValueError("a network has at least one output")
    if number_of_outputs == 1:
        return (1.0,)
    weights = [2.0**-i for i in range(number_of_outputs - 1)]
    return (*(w / sum(weights) for w in weights), 0.0)


def soft_dice_loss(probabilities: Tensor, target: Tensor, mask: Tensor | None, batch_dice: bool) -> Tensor:
    """1 - mean Dice, Dice = (2 sum p t + s) / (sum p + sum t + s) with s = 1e-5.

    Args:
        probabilities: (B, K, D, H, W) float.
        target: (B, K, D, H, W) bool or float, 1 inside.
        mask: (B, 1, D, H, W), 0 where the label is not known; None where all are.
        batch_dice: one Dice per class over the whole batch (and all processes), not one per case.

    Background is the caller's to leave out. nnU-Net returns the same less the constant 1.
    """
    axes = tuple(range(2, probabilities.ndim))
    target = target.to(probabilities.dtype)
    if mask is not None:
        target = target * mask
        prediction_sum = (probabilities * mask).sum(axes)
    else:
        prediction_sum = probabilities.sum(axes)
    intersection = (probabilities * target).sum(axes)  # the target is masked, so this is too
    target_sum = target.sum(axes)
    if batch_dice:
        sums = torch.stack([s.sum(0) for s in (intersection, prediction_sum, target_sum)])
        intersection, prediction_sum, target_sum = sum_over_processes(sums).unbind()
    dice = (2 * intersection + SMOOTH) / (prediction_sum + target_sum + SMOOTH)
    return 1 - dice.mean()


class SegmentationLoss(nn.Module):
    """nnU-Net's loss for a label set, over all deep-supervision outputs.

    Labels: softmax Dice without background + cross-entropy. Regions: sigmoid Dice + binary cross-entropy.
    Ignored voxels take part in neither.

    >>> loss = SegmentationLoss(label_set, number_of_outputs=3)   # doctest: +SKIP
    >>> loss(network(images), labels)                             # doctest: +SKIP

    Args:
        label_set: what the heads mean.
        number_of_outputs: outputs of the network, full resolution first.
        batch_dice: as in the plan.
    """

    def __init__(self, label_set: LabelSet, number_of_outputs: int, batch_dice: bool = False) -> None:
        super().__init__()
        self.label_set = label_set
        self.weights = deep_supervision_weights(number_of_outputs)
        self.batch_dice = batch_dice

    def forward(self, logits: Sequence[Tensor], labels: Tensor) -> Tensor:
        """The weighted sum over the outputs.

        Args:
            logits: (B, heads, D_i, H_i, W_i) each, full resolution first.
            labels: (B, 1, D, H, W) integers, ignore label possible.
        """
        if len(logits) != len(self.weights):
            raise ValueError(f"{len(self.weights)} network outputs were announced, {len(logits)} came")
        with torch.autocast(labels.device.type, enabled=False):
            terms = [
                weight * self.single(output, downsample_labels(labels, output.shape[2:]))
                for weight, output in zip(self.weights, logits, strict=True)
                if weight > 0
            ]
            if several_processes():  # a head without gradient would stop DistributedDataParallel
                terms += [o.float().sum() * 0 for o, w in zip(logits, self.weights, strict=True) if w == 0]
            return torch.stack(terms).sum()

    def single(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss of one output, computed in float32; ``labels`` at its resolution."""
        logits = full_precision(logits)
        ignore = self.label_set.ignore_label
        mask = None if ignore is None else (labels != ignore).to(logits.dtype)
        if self.label_set.has_regions:
            return self._regions(logits, labels, mask)
        return self._labels(logits, labels, mask)

    def _labels(self, logits: Tensor, labels: Tensor, mask: Tensor | None) -> Tensor:
        values = torch.arange(1, logits.shape[1], device=labels.device).view(1, -1, 1, 1, 1)
        log_probabilities = logits.log_softmax(1)
        dice = soft_dice_loss(log_probabilities[:, 1:].exp(), labels == values, mask, self.batch_dice)
        indices = labels[:, 0].long()
        if mask is None:
            return dice + functional.nll_loss(log_probabilities, indices)
        ignore = self.label_set.ignore_label
        assert ignore is not None
        total = functional.nll_loss(log_probabilities, indices, ignore_index=ignore, reduction="sum")
        return dice + mean_over_present(total, mask.sum())

    def _regions(self, logits: Tensor, labels: Tensor, mask: Tensor | None) -> Tensor:
        target = torch.cat([region_mask(labels, s.region) for s in self.label_set.segments], dim=1)
        dice = soft_dice_loss(logits.sigmoid(), target, mask, self.batch_dice)
        target = target.to(logits.dtype)
        if mask is None:
            return dice + functional.binary_cross_entropy_with_logits(logits, target)
        # nnU-Net divides by the voxels, not by voxels times regions, as soon as there is an ignore label
        entropy = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
        return dice + mean_over_present((entropy * mask).sum(), mask.sum())
