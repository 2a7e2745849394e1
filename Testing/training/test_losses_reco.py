"""The checks of the method's description that concern the loss itself, by their numbers, and its references.

Checks 4, 9, 11 and 12 need networks and are in test_distiller.py.
"""

from __future__ import annotations

import logging
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

from distillation_cases import (
    block_labels,
    one_process_of_several,
    outputs,
    plain_labels,
    random_features,
    region_labels,
    split_batch_case,
)
from ReCoKDLib.errors import ReCoKDError
from ReCoKDLib.labels import LabelSet
from ReCoKDTrainingLib.losses import build_loss
from ReCoKDTrainingLib.losses.context import (
    GcBlock,
    affinity,
    affinity_difference,
    affinity_grid,
    row_divergence,
)
from ReCoKDTrainingLib.losses.pairs import attention_pool, magnitudes, pair_sums
from ReCoKDTrainingLib.losses.reco import (
    ReCoLoss,
    ReCoOptions,
    attention,
    stage_weights,
)
from ReCoKDTrainingLib.losses.reduction import mean_over_present
from ReCoKDTrainingLib.losses.regions import class_masks, region_terms, region_weights

CHANNELS = [8, 12, 16]
CONTEXTS = ["gc", "gc_shared", "affinity"]


def reco(label_set: LabelSet | None = None, channels: list[int] | None = None, **options: Any) -> ReCoLoss:
    torch.manual_seed(0)
    return ReCoLoss(tuple(channels or CHANNELS), label_set or plain_labels(2), ReCoOptions(**options))


def one_stage(**options: Any) -> ReCoLoss:
    """Over a single stage, so that terms are not weighted sums."""
    return reco(channels=[8, 8], **options)


def trained(loss: ReCoLoss) -> ReCoLoss:
    """With context blocks that are not the identity any more."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in loss.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return loss


def pair(channels: list[int], **shape: Any) -> tuple[list[Tensor], list[Tensor]]:
    """Features of student (with gradient) and teacher."""
    ours = [f.requires_grad_() for f in random_features(channels, seed=1, **shape)]
    return ours, random_features(channels, seed=2, **shape)


# -- the checks of the method ------------------------------------------------------------------------------


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("masks", ["nearest", "area"])
def test_check_01_equal_features_give_zero(context: str, masks: str) -> None:
    features = random_features(CHANNELS)
    terms = reco(context=context, masks=masks)(outputs(*features), outputs(*features), block_labels())
    assert set(terms) == {"fg", "bg", "att", "ctx"}
    for name in ("fg", "bg", "ctx"):
        assert terms[name].item() == 0, name
    assert terms["att"].item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("context", ["gc_shared", "affinity"])
def test_check_01_shared_contexts_are_zero_at_equality_after_training_too(context: str) -> None:
    features = random_features(CHANNELS)
    loss = trained(reco(context=context))
    assert loss(outputs(*features), outputs(*features), block_labels())["ctx"].item() == 0


def test_check_01_separate_blocks_differ_once_trained() -> None:
    features = random_features(CHANNELS)
    loss = trained(reco(context="gc"))
    assert loss(outputs(*features), outputs(*features), block_labels())["ctx"].item() > 1e-3


def test_check_02_gc_starts_as_the_mean_square_error() -> None:
    ours, theirs = pair([8, 8])
    terms = one_stage(context="gc")(outputs(*ours), outputs(*theirs), block_labels())
    expected = nn.functional.mse_loss(ours[0], theirs[0])
    torch.testing.assert_close(terms["ctx"], expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(torch.autograd.grad(terms["ctx"], ours[0]), torch.autograd.grad(expected, ours[0]))


@pytest.mark.parametrize("context", CONTEXTS)
def test_check_03_the_order_of_the_batch_changes_nothing(context: str) -> None:
    ours, theirs = random_features(CHANNELS, batch=3, seed=1), random_features(CHANNELS, batch=3, seed=2)
    labels = block_labels(batch=3)
    labels[0][labels[0] == 2] = 0
    order = torch.tensor([2, 0, 1])
    loss = trained(reco(context=context))
    first = loss(outputs(*ours), outputs(*theirs), labels)
    second = loss(outputs(*(f[order] for f in ours)), outputs(*(f[order] for f in theirs)), labels[order])
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=1e-6, atol=1e-7)


def test_check_05_an_absent_class_contributes_nothing() -> None:
    ours, theirs = pair([8, 8])
    labels = block_labels()
    labels[labels == 2] = 0
    two = one_stage()(outputs(*ours), outputs(*theirs), labels)
    three = reco(plain_labels(3), channels=[8, 8])(outputs(*ours), outputs(*theirs), labels)
    assert three["fg"].item() == pytest.approx(two["fg"].item())
    (gradient,) = torch.autograd.grad(torch.stack(list(three.values())).sum(), ours[0])
    assert torch.isfinite(gradient).all()


def test_check_05_a_background_patch_has_no_foreground_loss() -> None:
    ours, theirs = pair([8, 8])
    terms = one_stage()(outputs(*ours), outputs(*theirs), torch.zeros_like(block_labels()))
    assert terms["fg"].item() == 0
    assert terms["bg"].item() > 0
    (gradient,) = torch.autograd.grad(terms["fg"], ours[0])
    assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("masks", ["nearest", "area"])
def test_check_05_a_wholly_ignored_patch_has_no_region_loss(masks: str) -> None:
    ours, theirs = pair(CHANNELS)
    label_set = plain_labels(2, ignore=True)
    terms = reco(label_set, masks=masks)(outputs(*ours), outputs(*theirs), torch.full_like(block_labels(), 3))
    assert terms["fg"].item() == 0
    assert terms["bg"].item() == 0
    (gradient,) = torch.autograd.grad(terms["fg"] + terms["bg"], ours[0])
    assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("edge", [1, 2, 4])
def test_check_06_every_class_counts_the_same_whatever_its_volume(edge: int) -> None:
    labels = torch.zeros(1, 1, 8, 8, 8, dtype=torch.int16)
    labels[..., :edge, :edge, :edge] = 1
    labels[..., 6:, 6:, 6:] = 2
    flat = torch.full((1, 8, 8, 8, 8), 0.7)
    masks = list(class_masks(labels, (8, 8, 8), plain_labels(2), "nearest"))
    sums = pair_sums((flat + 1).flatten(2), flat.flatten(2), torch.ones(1, 8), 100)
    error = sums.error / 8
    for mask in masks:
        assert ((error * mask).sum() / mask.sum()).item() == pytest.approx(1)
    terms = one_stage()(outputs(flat + 1, flat), outputs(flat, flat), labels)
    assert terms["fg"].item() == pytest.approx(1)
    assert terms["bg"].item() == pytest.approx(1)


def test_check_07_attentions_and_masks_are_normalised() -> None:
    features = random_features([8])[0].flatten(2)
    sizes = magnitudes(features, 50)
    spatial, channel = attention(sizes.over_channels, 0.5), attention(sizes.over_voxels, 0.5)
    torch.testing.assert_close(spatial.mean(1), torch.ones(2))
    torch.testing.assert_close(channel.mean(1), torch.ones(2))
    assert spatial.std() > 0.01
    for method, shape in (("nearest", (4, 4, 4)), ("area", (4, 4, 4)), ("area", (3, 8, 5))):
        for mask in class_masks(block_labels(), shape, plain_labels(2), method):
            weights = region_weights([mask, mask])
            torch.testing.assert_close(weights.background.sum(1), torch.ones(2))


def test_check_08_affinities() -> None:
    ours = [f.requires_grad_() for f in random_features([4, 6], seed=1)]
    theirs = random_features([8, 12], seed=2)
    p, p_next = affinity(ours[0], (4, 4, 4)), affinity(ours[1], (4, 4, 4))
    torch.testing.assert_close(p.sum(2), torch.ones(2, 64))
    torch.testing.assert_close((p @ p_next).sum(2), torch.ones(2, 64))
    assert torch.equal(torch.diagonal(p, dim1=1, dim2=2), torch.zeros(2, 64))
    loss = affinity_difference(ours[0], theirs[0], ours[1], theirs[1])  # C' != C
    assert loss.item() > 0
    assert all(torch.isfinite(g).all() and g.abs().max() > 0 for g in torch.autograd.grad(loss, ours))
    assert affinity_difference(theirs[0], theirs[0], theirs[1], theirs[1]).item() == 0


def test_check_08_levels_with_different_grids_meet_on_the_coarser_one() -> None:
    ours, theirs = random_features([4, 6], (4, 8, 8), seed=1), random_features([8, 12], (4, 8, 8), seed=2)
    assert affinity_grid(ours[0].shape[2:]) == (4, 4, 4)
    assert affinity_grid(ours[1].shape[2:]) == (2, 4, 4)
    grid = (2, 4, 4)
    expected = row_divergence(affinity(theirs[0], (4, 4, 4)), affinity(ours[0], (4, 4, 4))) + row_divergence(
        affinity(theirs[0], grid) @ affinity(theirs[1], grid), affinity(ours[0], grid) @ affinity(ours[1], grid)
    )
    assert affinity_difference(ours[0], theirs[0], ours[1], theirs[1]).item() == expected.item()


def test_check_08_a_stage_of_one_voxel_has_no_affinity() -> None:
    ours = torch.randn(2, 4, 1, 1, 1, requires_grad=True)
    loss = affinity_difference(ours, torch.randn(2, 8, 1, 1, 1), None, None)
    assert loss.item() == 0
    assert torch.equal(torch.autograd.grad(loss, ours)[0], torch.zeros_like(ours))


def test_check_08_affinity_alone_needs_no_adapter() -> None:
    loss = reco(context="affinity", fg=0, bg=0, att=0)
    assert not loss.needs_connectors
    assert list(loss.parameters()) == []
    ours, theirs = random_features([4, 6, 8], seed=1), random_features(CHANNELS, seed=2)
    terms = loss(outputs(*ours), outputs(*theirs), block_labels())
    assert list(terms) == ["ctx"]
    assert terms["ctx"].item() > 0


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("chunk_bytes", [1, 1000, 7777])
def test_check_10_chunked_equals_unchunked(context: str, chunk_bytes: int) -> None:
    results = []
    for size in (chunk_bytes, 10**9):
        ours, theirs = pair(CHANNELS)
        loss = trained(reco(context=context, chunk_bytes=size))
        terms = loss(outputs(*ours), outputs(*theirs), block_labels())
        torch.autograd.backward(torch.stack(list(terms.values())).sum())
        gradients = [f.grad for f in ours[:2]] + [p.grad for p in loss.parameters()]
        results.append((terms, gradients))
    (terms, gradients), (whole_terms, whole_gradients) = results
    for name, value in whole_terms.items():
        torch.testing.assert_close(terms[name], value, rtol=1e-5, atol=1e-7)
    for mine, whole in zip(gradients, whole_gradients, strict=True):
        torch.testing.assert_close(mine, whole, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("context", CONTEXTS)
def test_check_10_half_precision_features_stay_finite(context: str) -> None:
    largest = 6e4  # whose square, and whose sum over two voxels, float16 can't hold
    ours, theirs = (
        [(3e4 * f).clamp(-largest, largest).half() for f in random_features(CHANNELS, seed=seed)] for seed in (1, 2)
    )
    ours = [f.requires_grad_() for f in ours]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = reco(context=context)(outputs(*ours), outputs(*theirs), block_labels())
    for name, value in terms.items():
        assert value.dtype == torch.float32
        assert torch.isfinite(value), name
    gradients = torch.autograd.grad(1e-9 * torch.stack(list(terms.values())).sum(), ours[:2])
    assert all(torch.isfinite(g).all() for g in gradients)


def test_check_13_ignored_voxels_change_neither_region_loss() -> None:
    label_set = plain_labels(2, ignore=True)
    ours, theirs = random_features([8, 8], seed=1), random_features([8, 8], seed=2)
    labels = block_labels()
    labels[:, :, :, :, :2] = 3
    changed = torch.where(labels == 3, ours[0] + 5, ours[0])
    loss = reco(label_set, channels=[8, 8])
    before = loss(outputs(*ours), outputs(*theirs), labels)  # the attentions are the teacher's, so held fixed
    after = loss(outputs(changed, ours[1]), outputs(*theirs), labels)
    assert after["fg"].item() == before["fg"].item()
    assert after["bg"].item() == before["bg"].item()
    assert after["ctx"].item() != before["ctx"].item()
    as_background = torch.where(labels == 3, 0, labels)  # the trap in the authors' port
    assert loss(outputs(*ours), outputs(*theirs), as_background)["bg"].item() != before["bg"].item()


# -- references --------------------------------------------------------------------------------------------


def by_loops(ours: Tensor, theirs: Tensor, labels: Tensor, classes: int, tau: float) -> tuple[float, float, float]:
    """L_fg, L_bg, L_att of one stage, written down from the equations: plain loops in float64."""
    batch, channels, voxels = ours.shape
    f, g, y = ours.tolist(), theirs.tolist(), labels.tolist()

    def softmax(values: list[float]) -> list[float]:
        powers = [math.exp(v / tau) for v in values]
        return [len(values) * p / sum(powers) for p in powers]

    def attentions(features: list[list[float]]) -> tuple[list[float], list[float]]:
        spatial = [sum(abs(features[c][x]) for c in range(channels)) / channels for x in range(voxels)]
        channel = [sum(abs(features[c][x]) for x in range(voxels)) / voxels for c in range(channels)]
        return softmax(spatial), softmax(channel)

    foreground: list[float] = []
    background: list[float] = []
    spatial_gap = channel_gap = 0.0
    for b in range(batch):
        a_s, a_c = attentions(g[b])
        own_s, own_c = attentions(f[b])
        spatial_gap += sum(abs(own_s[x] - a_s[x]) for x in range(voxels)) / voxels / batch
        channel_gap += sum(abs(own_c[c] - a_c[c]) for c in range(channels)) / channels / batch
        error = [
            a_s[x] * sum(a_c[c] * (f[b][c][x] - g[b][c][x]) ** 2 for c in range(channels)) / channels
            for x in range(voxels)
        ]
        for value in range(classes + 1):
            inside = [x for x in range(voxels) if y[b][x] == value]
            if inside:
                (background if value == 0 else foreground).append(sum(error[x] for x in inside) / len(inside))

    def mean(values: list[float]) -> float:
        return sum(values) / len(values) if values else 0.0

    return mean(foreground), mean(background), spatial_gap + channel_gap


@pytest.mark.parametrize("chunk_bytes", [None, 100])
def test_ms_sard_is_what_plain_loops_give(chunk_bytes: int | None) -> None:
    generator = torch.Generator().manual_seed(5)
    ours = torch.randn(3, 4, 3, 4, 2, generator=generator, dtype=torch.float64)
    theirs = torch.randn(3, 4, 3, 4, 2, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 4, (3, 1, 3, 4, 2), generator=generator)
    labels[0][labels[0] == 2] = 1  # one class missing in one case
    label_set = plain_labels(2, ignore=True)  # 3 is ignored
    terms = reco(label_set, channels=[4, 4], tau=0.7, chunk_bytes=chunk_bytes, ctx=0)(
        outputs(ours, ours), outputs(theirs, theirs), labels
    )
    expected = by_loops(ours.flatten(2), theirs.flatten(2), labels.flatten(1), 2, 0.7)
    for name, value in zip(("fg", "bg", "att"), expected, strict=True):
        assert terms[name].item() == pytest.approx(value, rel=1e-6), name


def test_affinities_are_what_plain_loops_give() -> None:
    generator = torch.Generator().manual_seed(7)
    ours, theirs = (torch.randn(2, c, 4, 2, 2, generator=generator, dtype=torch.float64) for c in (3, 5))
    ours_next, theirs_next = (torch.randn(2, c, 2, 1, 2, generator=generator, dtype=torch.float64) for c in (4, 6))

    def rows(features: Tensor, grid: tuple[int, int, int]) -> list[list[float]]:
        blocks = [n // g for n, g in zip(features.shape[1:], grid, strict=True)]
        tokens = []
        for k in range(grid[0]):
            for j in range(grid[1]):
                for i in range(grid[2]):
                    block = features[
                        :,
                        k * blocks[0] : (k + 1) * blocks[0],
                        j * blocks[1] : (j + 1) * blocks[1],
                        i * blocks[2] : (i + 1) * blocks[2],
                    ]
                    vector = [float(channel.sum()) / math.prod(blocks) for channel in block]
                    length = math.sqrt(sum(v * v for v in vector))
                    tokens.append([v / length for v in vector])
        result = []
        for a, z in enumerate(tokens):
            powers = [
                0.0 if a == b else math.exp(sum(p * q for p, q in zip(z, other, strict=True)) / 0.1)
                for b, other in enumerate(tokens)
            ]
            result.append([p / sum(powers) for p in powers])
        return result

    def product(p: list[list[float]], q: list[list[float]]) -> list[list[float]]:
        return [[sum(row[m] * q[m][n] for m in range(len(q))) for n in range(len(q))] for row in p]

    def divergence(p: list[list[float]], q: list[list[float]]) -> float:
        terms = [x * math.log(x / y) for a, b in zip(p, q, strict=True) for x, y in zip(a, b, strict=True) if x > 0]
        return sum(terms) / len(p)

    expected = 0.0
    for b in range(2):
        expected += divergence(rows(theirs[b], (4, 2, 2)), rows(ours[b], (4, 2, 2))) / 2
        across = [
            product(rows(first[b], (2, 1, 2)), rows(second[b], (2, 1, 2)))
            for first, second in ((theirs, theirs_next), (ours, ours_next))
        ]
        expected += divergence(*across) / 2
    assert affinity_difference(ours, theirs, ours_next, theirs_next).item() == pytest.approx(expected, rel=1e-9)


def test_the_gradients_written_by_hand_are_right() -> None:
    generator = torch.Generator().manual_seed(6)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    ours, theirs, weights = random(2, 3, 7).requires_grad_(), random(2, 3, 7), random(2, 3).abs()
    assert torch.autograd.gradcheck(lambda f: tuple(pair_sums(f, theirs, weights, 3)), ours)
    vector = random(3).requires_grad_()
    assert torch.autograd.gradcheck(lambda f, w: attention_pool(f, w, 3), (ours, vector))
    assert torch.autograd.gradcheck(lambda w: attention_pool(theirs, w, 3), vector)


def test_the_context_term_is_the_distance_of_the_two_blocks_outputs() -> None:
    ours, theirs = pair([8, 8])
    loss = trained(one_stage())
    terms = loss(outputs(*ours), outputs(*theirs), block_labels())
    mine, its = loss.student_blocks[0], loss.teacher_blocks[0]
    expected = (mine(ours[0]) - its(theirs[0])).square().mean()
    torch.testing.assert_close(terms["ctx"], expected)
    wanted = [ours[0], *loss.parameters()]
    for a, b in zip(torch.autograd.grad(terms["ctx"], wanted), torch.autograd.grad(expected, wanted), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_the_block_is_gcnets() -> None:
    block = GcBlock(6)
    features = torch.randn(2, 6, 2, 3, 4)
    assert torch.equal(block(features), features)
    with torch.no_grad():
        block.expand.weight.normal_()
    flat = features.flatten(2)
    weights = torch.einsum("c,bcx->bx", block.attention.weight[0], flat).softmax(1)
    pooled = torch.einsum("bx,bcx->bc", weights, flat)
    hidden = pooled @ block.reduce.weight.T + block.reduce.bias
    hidden = (hidden - hidden.mean(1, keepdim=True)) / (hidden.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    added = hidden.relu() @ block.expand.weight.T
    torch.testing.assert_close(block(features), features + added[:, :, None, None, None])


def test_the_losses_of_a_split_batch_are_those_of_the_whole(tmp_path: Any) -> None:
    spawn(one_process_of_several, args=(2, str(tmp_path)), nprocs=2)  # type: ignore[no-untyped-call]
    split, whole = torch.load(tmp_path / "values.pt"), split_batch_case(slice(None))
    assert set(split) == set(whole) >= {"fg", "bg", "att", "ctx", "dice", "connector", "head"}
    torch.testing.assert_close(split, whole, rtol=1e-4, atol=1e-6)


def test_nothing_present_gives_zero_in_the_graph() -> None:
    total = torch.tensor(0.0, requires_grad=True)
    value = mean_over_present(total * 2, torch.tensor(0.0))
    assert value.item() == 0
    assert torch.autograd.grad(value, total)[0].item() == 0


# -- masks -------------------------------------------------------------------------------------------------


def test_masks_hold_background_first_and_no_ignored_voxel() -> None:
    labels = torch.tensor([0, 1, 2, 3, 0, 3], dtype=torch.int16).view(1, 1, 6, 1, 1)
    masks = torch.stack(list(class_masks(labels, (6, 1, 1), plain_labels(2, ignore=True), "nearest")), 1)
    assert masks[0].tolist() == [[1, 0, 0, 0, 1, 0], [0, 1, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0]]
    small = torch.stack(list(class_masks(labels, (3, 1, 1), plain_labels(2, ignore=True), "area")), 1)
    assert small[0].tolist() == [[0.5, 0, 0.5], [0.5, 0, 0], [0, 0.5, 0]]


def test_overlapping_regions_are_classes_of_their_own() -> None:
    labels = torch.tensor([0, 1, 2, 3, 4], dtype=torch.int16).view(1, 1, 5, 1, 1)
    masks = list(class_masks(labels, (5, 1, 1), region_labels(ignore=True), "nearest"))
    assert torch.cat(masks).tolist() == [[1, 0, 0, 0, 0], [0, 1, 1, 1, 0], [0, 0, 1, 1, 0], [0, 0, 0, 1, 0]]
    separate, merged = region_weights(masks), region_weights(masks, merged=True)
    third = 1 / 3
    torch.testing.assert_close(separate.foreground, torch.tensor([[0, third, third + 0.5, third + 1.5, 0]]))
    torch.testing.assert_close(merged.foreground, torch.tensor([[0, third, 0.5, 1, 0]]))
    assert separate.foreground_present.tolist() == [[True, True, True]]


@pytest.mark.parametrize("merged", [False, True])
def test_a_constant_error_is_the_same_however_regions_overlap(merged: bool) -> None:
    labels = torch.randint(0, 4, (2, 1, 8, 8, 8), generator=torch.Generator().manual_seed(0))
    labels[1][labels[1] == 3] = 0
    weights = region_weights(class_masks(labels, (8, 8, 8), region_labels(), "nearest"), merged)
    foreground, background = region_terms(torch.full((2, 512), 0.7), weights)
    assert foreground.item() == pytest.approx(0.7)
    assert background.item() == pytest.approx(0.7)


def test_merged_regions_are_weighted_as_by_the_authors() -> None:
    """Sum of error times the voxel-wise maximum of M / n over the sum of these weights."""
    labels = torch.randint(0, 4, (2, 1, 8, 8, 8), generator=torch.Generator().manual_seed(0))
    masks = list(class_masks(labels, (8, 8, 8), region_labels(), "nearest"))
    error = torch.rand(2, 512)
    largest = torch.stack([m / m.sum(1, keepdim=True) for m in masks[1:]]).amax(0)
    foreground, _ = region_terms(error, region_weights(masks, merged=True))
    torch.testing.assert_close(foreground, (error * largest).sum() / largest.sum())


def test_merging_changes_nothing_where_nothing_overlaps() -> None:
    ours, theirs = pair(CHANNELS)
    terms = [
        reco(regions=regions)(outputs(*ours), outputs(*theirs), block_labels())["fg"].item()
        for regions in ("separate", "merged")
    ]
    assert terms[0] == pytest.approx(terms[1])


def test_separate_regions_are_summed_as_pairs() -> None:
    labels = torch.randint(0, 4, (2, 1, 8, 8, 8), generator=torch.Generator().manual_seed(0))
    error = torch.rand(2, 512)
    masks = list(class_masks(labels, (8, 8, 8), region_labels(), "nearest"))
    foreground, background = region_terms(error, region_weights(masks))
    expected = [(error[b] * m[b]).sum() / m[b].sum() for b in range(2) for m in masks[1:]]
    torch.testing.assert_close(foreground, torch.stack(expected).mean())
    expected = [(error[b] * masks[0][b]).sum() / masks[0][b].sum() for b in range(2)]
    torch.testing.assert_close(background, torch.stack(expected).mean())


def test_lost_pairs_are_counted_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    labels = torch.zeros(2, 1, 8, 8, 8, dtype=torch.int16)
    labels[:, :, 4:, 4:, 4:] = 1
    labels[0, 0, 0, 0, 0] = 2  # one voxel, gone after downsampling by nearest neighbour
    features = random_features(CHANNELS)
    loss = reco()
    loss(outputs(*features), outputs(*features), labels)
    with caplog.at_level(logging.INFO):
        assert loss.pop_statistics() == {"present_pairs": 3, "lost_pairs_0": 0, "lost_pairs_1": 1}
    assert "lost of 3 (case, class) pairs: 1 at stage 1" in caplog.text
    assert loss.pop_statistics() == {"present_pairs": 0, "lost_pairs_0": 0, "lost_pairs_1": 0}
    by_area = reco(masks="area")
    by_area(outputs(*features), outputs(*features), labels)
    assert by_area.pop_statistics()["lost_pairs_1"] == 0
    loss.eval()(outputs(*features), outputs(*features), labels)
    assert loss.pop_statistics()["present_pairs"] == 0


# -- options -----------------------------------------------------------------------------------------------


def test_stage_weights() -> None:
    assert stage_weights(range(4), 0.4, uniform=True) == (0.25,) * 4
    weights = stage_weights(range(3), 0.4)
    assert sum(weights) == pytest.approx(1)
    assert weights[1] / weights[0] == pytest.approx(2**-1.2)
    assert weights[2] / weights[1] == pytest.approx(2**-1.2)


def test_stages_are_weighted_and_the_bottleneck_is_left_out_unless_asked_for() -> None:
    ours, theirs = pair(CHANNELS)
    single = [
        reco(channels=[CHANNELS[k], 1])(outputs(ours[k], ours[k]), outputs(theirs[k], theirs[k]), block_labels())["bg"]
        for k in range(3)
    ]
    for stages in (2, 3):
        loss = reco(include_bottleneck=stages == 3)
        assert loss.stages == tuple(range(stages))
        terms = loss(outputs(*ours), outputs(*theirs), block_labels())
        expected = sum(w * t.item() for w, t in zip(stage_weights(range(stages), 0.4), single, strict=False))
        assert terms["bg"].item() == pytest.approx(expected)


def test_stages_of_the_decoder_have_the_weight_of_their_grid() -> None:
    """Features are those of three encoder stages, then of two decoder stages on the first two's grids."""
    ours, theirs = pair(CHANNELS)
    more, further = random_features(CHANNELS[:2], seed=3), random_features(CHANNELS[:2], seed=4)
    loss = reco(decoder=True)
    assert loss.uses_decoder
    assert not reco().uses_decoder
    assert loss.stages == (0, 1, 3, 4)
    assert loss.stage_weights[0] == loss.stage_weights[3] == pytest.approx(2**1.2 * loss.stage_weights[4])
    both = loss(outputs(*ours, *more), outputs(*theirs, *further), block_labels())
    encoder = reco()(outputs(*ours), outputs(*theirs), block_labels())
    decoder = reco()(outputs(*more, ours[2]), outputs(*further, theirs[2]), block_labels())
    for term in ("fg", "bg", "att", "ctx"):
        assert both[term].item() == pytest.approx((encoder[term].item() + decoder[term].item()) / 2)
    # Affinities across levels stay within the encoder, and within the decoder.
    alike = reco(decoder=True, include_bottleneck=True, context="affinity", fg=0, bg=0, att=0)
    assert alike.stages == (0, 1, 2, 3, 4)
    whole = alike(outputs(*ours, *more), outputs(*theirs, *further), block_labels())["ctx"].item()
    parts = [affinity_difference(ours[k], theirs[k], ours[k + 1], theirs[k + 1]).item() for k in (0, 1)]
    parts += [affinity_difference(ours[2], theirs[2], None, None).item()]
    parts += [affinity_difference(more[0], further[0], more[1], further[1]).item()]
    parts += [affinity_difference(more[1], further[1], None, None).item()]
    weights = [alike.stage_weights[k] for k in range(5)]
    assert whole == pytest.approx(sum(w * part for w, part in zip(weights, parts, strict=True)))


def test_coefficients_scale_their_terms_and_zero_leaves_them_out() -> None:
    ours, theirs = pair(CHANNELS)
    terms = reco()(outputs(*ours), outputs(*theirs), block_labels())
    scaled = reco(fg=2, bg=0, att=0.5, ctx=0)
    assert list(scaled.parameters()) == []
    result = scaled(outputs(*ours), outputs(*theirs), block_labels())
    assert set(result) == {"fg", "att"}
    assert result["fg"].item() == pytest.approx(2 * terms["fg"].item())
    assert result["att"].item() == pytest.approx(0.5 * terms["att"].item())


def test_normalising_divides_by_the_running_mean() -> None:
    ours, theirs = pair([8, 8])
    plain, loss = one_stage(), one_stage(normalise="ema")
    first = loss(outputs(*ours), outputs(*theirs), block_labels())
    assert [value.item() for value in first.values()] == pytest.approx([1, 1, 1, 1])
    double = [f * 2 for f in ours]
    raw = plain(outputs(*ours), outputs(*theirs), block_labels())["ctx"].item()
    raw_double = plain(outputs(*double), outputs(*theirs), block_labels())["ctx"].item()
    second = loss(outputs(*double), outputs(*theirs), block_labels())["ctx"].item()
    assert second == pytest.approx(raw_double / (0.99 * raw + 0.01 * raw_double))
    state = loss.running_mean.clone()
    loss.eval()(outputs(*ours), outputs(*theirs), block_labels())
    assert torch.equal(loss.running_mean, state)


def test_a_vanishing_term_is_divided_by_the_floor() -> None:
    features = random_features([8, 8])
    terms = one_stage(normalise="ema")(outputs(*features), outputs(*features), block_labels())
    assert terms["fg"].item() == 0


def test_the_registry_builds_it() -> None:
    loss = build_loss(
        "reco",
        teacher_channels=[8, 16, 32],
        student_channels=[4, 4, 8],
        label_set=plain_labels(2),
        options={"context": "affinity", "alpha": 0.2},
    )
    assert isinstance(loss, ReCoLoss)
    assert loss.options == ReCoOptions(context="affinity", alpha=0.2)
    assert loss.needs_connectors
    assert not loss.uses_logits


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context": "gcn"}, "'context' is one of gc, gc_shared, affinity; it can't be 'gcn'"),
        ({"masks": "bilinear"}, "'masks' is one of nearest, area"),
        ({"regions": "both"}, "'regions' is one of separate, merged"),
        ({"normalise": "mean"}, "'normalise' is one of None, ema"),
        ({"fg": -1.0}, "must be 0 or more"),
        ({"fg": 0, "bg": 0, "att": 0, "ctx": 0}, "Raise one of them"),
        ({"tau": 0.0}, "tau must be above 0"),
        ({"chunk_bytes": 0}, "chunk_bytes must be at least 1"),
        ({"temperature": 2}, "has no option 'temperature'. It has: fg, bg"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ReCoKDError, match=message):
        build_loss(
            "reco",
            teacher_channels=[8, 16],
            student_channels=[4, 8],
            label_set=plain_labels(2),
            options=options,
        )


def test_an_encoder_of_one_stage_is_refused() -> None:
    with pytest.raises(ReCoKDError, match="a stage before the bottleneck"):
        ReCoLoss((8,), plain_labels(2))
