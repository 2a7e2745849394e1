"""The segmentation loss against nnU-Net's own, in value and gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from distillation_cases import plain_labels, region_labels
from ReCoKDLib.labels import LabelSet
from ReCoKDTrainingLib.losses.labels import downsample_labels
from ReCoKDTrainingLib.losses.segmentation import SegmentationLoss, deep_supervision_weights

SHAPES = [(12, 8, 10), (6, 4, 5), (3, 2, 5)]


def batch(label_set: LabelSet, seed: int = 0) -> tuple[list[Tensor], Tensor]:
    """Random logits at three resolutions, and labels with every value that the label set allows."""
    generator = torch.Generator().manual_seed(seed)
    heads = label_set.number_of_heads
    logits = [(3 * torch.randn(2, heads, *shape, generator=generator)).requires_grad_() for shape in SHAPES]
    highest = max(label_set.training_values)
    labels = torch.randint(0, highest + 1, (2, 1, *SHAPES[0]), generator=generator, dtype=torch.int16)
    return logits, labels


def nnunet_loss(label_set: LabelSet, batch_dice: bool) -> Any:
    """What nnUNetTrainer._build_loss makes for this label set."""
    pytest.importorskip("nnunetv2")
    from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss
    from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
    from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss

    dice = {"batch_dice": batch_dice, "smooth": 1e-5, "ddp": False}
    ignore = label_set.ignore_label
    loss: Any
    if label_set.has_regions:
        dice["do_bg"] = True
        loss = DC_and_BCE_loss({}, dice, use_ignore_label=ignore is not None, dice_class=MemoryEfficientSoftDiceLoss)
    else:
        dice["do_bg"] = False
        loss = DC_and_CE_loss(dice, {}, ignore_label=ignore, dice_class=MemoryEfficientSoftDiceLoss)
    return DeepSupervisionWrapper(loss, [2 / 3, 1 / 3, 0])


def nnunet_targets(label_set: LabelSet, labels: Tensor) -> list[Tensor]:
    """nnU-Net's own transforms: regions (and the ignore channel) first, then downsampling."""
    pytest.importorskip("batchgeneratorsv2")
    from batchgeneratorsv2.transforms.utils.deep_supervision_downsampling import DownsampleSegForDSTransform
    from batchgeneratorsv2.transforms.utils.seg_to_regions import ConvertSegmentationToRegionsTransform

    cases = []
    for case in labels:
        target = case
        if label_set.has_regions:
            regions: list[Sequence[int]] = [s.region for s in label_set.segments]
            if label_set.ignore_label is not None:
                regions.append([label_set.ignore_label])
            target = ConvertSegmentationToRegionsTransform(regions)(segmentation=case)["segmentation"]
        scales = [[s / f for s, f in zip(shape, SHAPES[0], strict=True)] for shape in SHAPES]
        cases.append(DownsampleSegForDSTransform(scales)(segmentation=target)["segmentation"])
    return [torch.stack(level) for level in zip(*cases, strict=True)]


@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize(
    "label_set",
    [plain_labels(2), plain_labels(2, ignore=True), region_labels(), region_labels(ignore=True)],
    ids=["labels", "labels+ignore", "regions", "regions+ignore"],
)
def test_it_is_nnunets_loss_in_value_and_gradient(label_set: LabelSet, batch_dice: bool) -> None:
    logits, labels = batch(label_set)
    theirs = nnunet_loss(label_set, batch_dice)(logits, nnunet_targets(label_set, labels))
    their_gradients = torch.autograd.grad(theirs, logits[:2])
    ours = SegmentationLoss(label_set, 3, batch_dice)(logits, labels)
    our_gradients = torch.autograd.grad(ours, logits[:2])
    torch.testing.assert_close(ours, theirs + 1, rtol=1e-6, atol=1e-6)
    for mine, its in zip(our_gradients, their_gradients, strict=True):
        assert its.abs().max() > 0
        torch.testing.assert_close(mine, its, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("label_set", [plain_labels(2, ignore=True), region_labels(ignore=True)])
def test_a_wholly_ignored_patch_gives_no_gradient(label_set: LabelSet) -> None:
    logits, labels = batch(label_set)
    assert label_set.ignore_label is not None
    loss = SegmentationLoss(label_set, 3)(logits, torch.full_like(labels, label_set.ignore_label))
    gradients = torch.autograd.grad(loss, logits[:2])
    assert torch.isfinite(loss)
    assert all(torch.equal(g, torch.zeros_like(g)) for g in gradients)


def test_a_perfect_prediction_costs_nothing() -> None:
    labels = torch.randint(0, 3, (1, 1, 6, 6, 6))
    logits = 100 * torch.nn.functional.one_hot(labels[:, 0], 3).movedim(-1, 1).float()
    assert SegmentationLoss(plain_labels(2), 1)([logits], labels).item() == pytest.approx(0, abs=1e-6)


def test_half_precision_under_autocast_is_computed_in_float32() -> None:
    logits, labels = batch(plain_labels(2))
    loss = SegmentationLoss(plain_labels(2), 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = loss([level.detach().bfloat16() for level in logits], labels)
    expected = loss([level.detach().bfloat16().float() for level in logits], labels)
    assert result.dtype == torch.float32
    assert result.item() == expected.item()


def test_deep_supervision_weights() -> None:
    assert deep_supervision_weights(1) == (1.0,)
    assert deep_supervision_weights(2) == (1.0, 0.0)
    assert deep_supervision_weights(4) == pytest.approx((4 / 7, 2 / 7, 1 / 7, 0))
    with pytest.raises(ValueError, match="at least one"):
        deep_supervision_weights(0)


def test_a_wrong_number_of_outputs_is_refused() -> None:
    logits, labels = batch(plain_labels(2))
    with pytest.raises(ValueError, match="2 network outputs were announced, 3 came"):
        SegmentationLoss(plain_labels(2), 2)(logits, labels)


def test_downsampling_keeps_type_and_takes_the_nearest_centre() -> None:
    labels = torch.arange(6, dtype=torch.int16).view(1, 1, 6, 1, 1)
    small = downsample_labels(labels, (3, 1, 1))
    assert small.dtype == torch.int16
    assert small.flatten().tolist() == [1, 3, 5]
    assert downsample_labels(labels, (6, 1, 1)) is labels
