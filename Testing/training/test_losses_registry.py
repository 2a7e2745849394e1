"""Every distillation loss of the registry: what all of them promise, and what each promises of its own."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

from distillation_cases import (
    SPLIT_LOSSES,
    block_labels,
    network,
    one_process_of_several_losses,
    plain_labels,
    random_features,
    region_labels,
    split_batch_losses,
)
from ReCoKDLib.errors import ReCoKDError
from ReCoKDLib.labels import LabelSet
from ReCoKDTrainingLib.distiller import Distiller, WeightedLoss
from ReCoKDTrainingLib.losses import (
    DistillationLoss,
    NetworkOutputs,
    SegmentationLoss,
    available_losses,
    build_loss,
)
from ReCoKDTrainingLib.losses.class_means import class_mean
from ReCoKDTrainingLib.losses.dprd import case_embedding, normalised_displacements, usual_weights
from ReCoKDTrainingLib.losses.emkd import region_affinity
from ReCoKDTrainingLib.losses.mgd import MgdLoss
from ReCoKDTrainingLib.losses.skd import similarities

WIDE, NARROW = [8, 12, 16], [4, 6, 8]
ALL = ("at", "cirkd", "cwd", "dprd", "emkd", "fitnet", "ifvd", "logits", "mgd", "reco", "skd")
ON_STAGES = tuple(name for name in ALL if name not in ("logits", "reco"))
WITH_CONNECTORS = ("cwd", "dprd", "fitnet", "mgd")
BY_LABELS = ("dprd", "emkd", "ifvd")


def loss_named(name: str, label_set: LabelSet | None = None, **options: Any) -> DistillationLoss:
    torch.manual_seed(0)
    return build_loss(
        name,
        teacher_channels=WIDE,
        student_channels=NARROW,
        label_set=label_set or plain_labels(2),
        options=options,
    )


def student_like(name: str, seed: int = 1, batch: int = 2) -> list[Tensor]:
    """Features as the loss gets them: at the teacher's width where it wants connectors, else at the student's."""
    channels = WIDE if name in WITH_CONNECTORS else NARROW
    return [f.requires_grad_() for f in random_features(channels, seed=seed, batch=batch)]


def teacher_features(batch: int = 2) -> list[Tensor]:
    return random_features(WIDE, seed=2, batch=batch)


def seen(features: list[Tensor]) -> NetworkOutputs:
    return NetworkOutputs(tuple(features), (), dict(enumerate(features)))


def total(loss: DistillationLoss, student: list[Tensor], teacher: list[Tensor], labels: Tensor | None = None) -> Tensor:
    labels = block_labels(batch=student[0].shape[0]) if labels is None else labels
    return torch.stack(list(loss(seen(student), seen(teacher), labels).values())).sum()


def gradients(value: Tensor, features: list[Tensor]) -> list[Tensor]:
    return [
        torch.zeros_like(f) if g is None else g
        for f, g in zip(features, torch.autograd.grad(value, features, allow_unused=True), strict=True)
    ]


# -- what all promise --------------------------------------------------------------------------------------


def test_these_are_registered() -> None:
    assert set(ALL) <= set(available_losses())


@pytest.mark.parametrize("name", [n for n in ON_STAGES if n != "mgd"])
def test_equal_features_cost_nothing(name: str) -> None:
    features = teacher_features()
    assert total(loss_named(name), features, features).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", ON_STAGES)
def test_other_features_cost_and_pull_towards_the_teacher(name: str) -> None:
    loss, student, teacher = loss_named(name), student_like(name), teacher_features()
    loss.eval()
    before = total(loss, student, teacher)
    slopes = gradients(before, student)
    assert before > 0
    assert all(torch.isfinite(g).all() and g.abs().sum() > 0 for g in slopes)
    norm = math.sqrt(sum(float(g.square().sum()) for g in slopes))
    moved = [f.detach() - 0.05 * g / norm for f, g in zip(student, slopes, strict=True)]
    assert total(loss, moved, teacher) < before


@pytest.mark.parametrize("name", ON_STAGES)
def test_it_says_whether_it_needs_connectors(name: str) -> None:
    assert loss_named(name).needs_connectors == (name in WITH_CONNECTORS)


@pytest.mark.parametrize("name", [n for n in ON_STAGES if n != "mgd"])
def test_the_order_of_the_batch_changes_nothing(name: str) -> None:
    student, teacher, labels = student_like(name, batch=3), teacher_features(batch=3), block_labels(batch=3)
    labels[0][labels[0] == 2] = 0
    order = torch.tensor([2, 0, 1])
    loss = loss_named(name)
    first = total(loss, student, teacher, labels)
    second = total(loss, [f[order] for f in student], [f[order] for f in teacher], labels[order])
    torch.testing.assert_close(first, second)


@pytest.mark.parametrize("name", ALL)
def test_the_student_and_adapters_learn_and_the_teacher_stays(name: str) -> None:
    torch.manual_seed(0)
    student, teacher = network(NARROW), network(WIDE)
    distiller = Distiller(
        student, teacher, SegmentationLoss(plain_labels(2), 2), {name: WeightedLoss(loss_named(name), 1.0)}, ramp=0
    )
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    optimiser = torch.optim.SGD(distiller.trained_parameters(), lr=0.01)
    images = torch.randn(2, 1, 8, 8, 8)
    report = distiller.training_loss(images, block_labels().long(), 1.0)
    (report.total - report.terms["segmentation"]).backward()  # type: ignore[no-untyped-call]
    norms = distiller.gradient_norms(images, block_labels().long(), 1.0)
    assert norms[name] > 0
    adapters = [*distiller.connectors.parameters()]
    assert bool(adapters) == (name in (*WITH_CONNECTORS, "reco"))
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in adapters if p.ndim > 1)
    optimiser.step()
    assert all(p.grad is None for p in teacher.parameters())
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())


@pytest.mark.parametrize("name", ON_STAGES)
def test_huge_half_precision_features_stay_finite(name: str) -> None:
    student = [(f.detach() * 2e4).clamp(-6e4, 6e4).half().requires_grad_() for f in student_like(name)]
    teacher = [(f * 1e4).half() for f in teacher_features()]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = total(loss_named(name), student, teacher)
    assert value.dtype == torch.float32
    assert torch.isfinite(value)


@pytest.mark.parametrize("name", ON_STAGES)
def test_flat_features_have_finite_gradients(name: str) -> None:
    student = [torch.zeros_like(f).requires_grad_() for f in student_like(name)]
    for teacher in (teacher_features(), [torch.zeros_like(f) for f in teacher_features()]):
        value = total(loss_named(name), student, teacher)
        assert torch.isfinite(value)
        assert all(torch.isfinite(g).all() for g in gradients(value, student))


@pytest.mark.parametrize("name", BY_LABELS)
@pytest.mark.parametrize("value", [0, 3])
def test_nothing_but_background_or_ignored_has_finite_gradients(name: str, value: int) -> None:
    labels = torch.full((2, 1, 8, 8, 8), value, dtype=torch.int16)
    student = student_like(name)
    loss = loss_named(name, plain_labels(2, ignore=True))
    terms = loss(seen(student), seen(teacher_features()), labels)
    silent = {"dprd": terms.values(), "emkd": [terms.get("affinity")], "ifvd": terms.values() if value == 3 else []}
    assert all(term is not None and term.item() == 0 for term in silent[name])
    assert all(torch.isfinite(g).all() for g in gradients(torch.stack(list(terms.values())).sum(), student))


@pytest.mark.parametrize("name", BY_LABELS)
def test_an_absent_class_changes_nothing(name: str) -> None:
    labels = block_labels()
    labels[labels == 2] = 0
    student, teacher = student_like(name), teacher_features()
    values = [total(loss_named(name, plain_labels(classes)), student, teacher, labels) for classes in (1, 2, 4)]
    torch.testing.assert_close(values[1], values[0])
    torch.testing.assert_close(values[2], values[0])


@pytest.mark.parametrize("name", BY_LABELS)
def test_ignored_voxels_have_no_say(name: str) -> None:
    labels = block_labels()
    labels[..., 4:] = 3
    loss = loss_named(name, plain_labels(2, ignore=True), stages=[0], **({"importance": 0} if name == "emkd" else {}))
    student, teacher = student_like(name), teacher_features()
    before = total(loss, student, teacher, labels)
    with torch.no_grad():
        student[0][..., 4:] = 7
        teacher[0][..., 4:] = -3
    torch.testing.assert_close(total(loss, student, teacher, labels), before)


@pytest.mark.parametrize("name", [n for n in ON_STAGES if n not in BY_LABELS])
def test_the_others_go_by_features_alone(name: str) -> None:
    student, teacher = student_like(name), teacher_features()
    values = [total(loss_named(name), student, teacher, labels) for labels in (block_labels(), 0 * block_labels())]
    assert values[0] == values[1]


@pytest.mark.parametrize("name", BY_LABELS)
def test_overlapping_regions_are_understood(name: str) -> None:
    labels = block_labels()
    labels[:, :, :2] = 3
    value = total(loss_named(name, region_labels()), student_like(name), teacher_features(), labels)
    assert torch.isfinite(value)
    assert value > 0


@pytest.mark.parametrize("name", [n for n in ON_STAGES if n not in WITH_CONNECTORS])
def test_without_connectors_grids_may_differ(name: str) -> None:
    student = [f.detach()[:, :, ::2].contiguous().requires_grad_() for f in student_like(name)]
    value = total(loss_named(name), student, teacher_features())
    assert torch.isfinite(value)
    assert all(torch.isfinite(g).all() for g in gradients(value, student))


# mgd: each choice of stages has generators of its own, with other random weights
@pytest.mark.parametrize("name", [n for n in ON_STAGES if n != "mgd"])
def test_stages_and_their_weights_are_options(name: str) -> None:
    student, teacher = student_like(name), teacher_features()
    alone = [total(loss_named(name, stages=[k], stage_weights=[1]), student, teacher) for k in (0, -1)]
    both = total(loss_named(name, stages=[0, 2], stage_weights=[2, 0.5]), student, teacher)
    torch.testing.assert_close(both, 2 * alone[0] + 0.5 * alone[1])
    assert loss_named(name, stages=[0, -1]).stages == (0, 2)


def test_wrong_stages_are_refused() -> None:
    with pytest.raises(ReCoKDError, match=r"stages 0 to 2; \[5\]"):
        loss_named("at", stages=[5])
    with pytest.raises(ReCoKDError, match="each once"):
        loss_named("at", stages=[2, -1])
    with pytest.raises(ReCoKDError, match="1 stage weights for 2 stages"):
        loss_named("at", stages=[0, 1], stage_weights=[1])
    with pytest.raises(ReCoKDError, match="1 stage weights for 3 stages"):
        loss_named("at", stage_weights=[1])
    with pytest.raises(ReCoKDError, match="0 or more"):
        loss_named("at", stages=[0], stage_weights=[-1])


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("cwd", {"tau": 0}, "tau must be above 0"),
        ("cirkd", {"tau": -1}, "tau must be above 0"),
        ("skd", {"scale": 0.9}, "scale must be between 0.125 and 0.5"),
        ("mgd", {"masked": 1}, "at least 0 and below 1"),
        ("emkd", {"affinity": -1}, "coefficients must be 0 or more"),
        ("dprd", {"distance": -1}, "coefficients must be 0 or more"),
        ("emkd", {"importance": 0, "affinity": 0}, "Both of EMKD's coefficients are 0"),
        ("dprd", {"displacement": 0, "distance": 0}, "Both of DPRD's coefficients are 0"),
        ("at", {"stage_weights": [0, 0, 0]}, "All stage weights are 0"),
        ("fitnet", {"tau": 1}, "no option 'tau'"),
        ("fitnet", {"stages": 0}, "option 'stages' of the loss 'fitnet' must be a list, each entry a whole number"),
        ("fitnet", {"stages": [0.5]}, "each entry a whole number"),
        ("fitnet", {"stage_weights": [math.nan, 1, 1]}, "each entry a finite number"),
        ("cwd", {"tau": "4"}, "must be a finite number, not '4'"),
        ("cwd", {"tau": math.inf}, "must be a finite number"),
        ("cwd", {"tau": 10**400}, "must be a finite number"),
        ("emkd", {"power": 1.5}, "must be a whole number"),
        ("logits", {"by_class": "no"}, "must be true or false, not 'no'"),
        ("logits", {"temperature": True}, "must be a finite number"),
        ("reco", {"uniform": 1}, "must be true or false"),
        ("reco", {"fg": math.nan}, "must be a finite number"),
        ("reco", {"alpha": -400.0}, "alpha must be between -10 and 10"),
        ("reco", {"chunk_bytes": "many"}, "must be a whole number or null"),
        ("reco", {"normalise": 3}, "must be a word or null"),
    ],
)
def test_wrong_options_are_refused(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ReCoKDError, match=said):
        loss_named(name, **options)


def test_a_split_batch_has_the_losses_of_a_whole_one(tmp_path: Path) -> None:
    whole = split_batch_losses(slice(0, 2))
    spawn(one_process_of_several_losses, args=(2, str(tmp_path)), nprocs=2)  # type: ignore[no-untyped-call]
    split = torch.load(tmp_path / "values.pt", weights_only=True)
    assert len(whole) == 2 * len(SPLIT_LOSSES)
    for name, value in whole.items():
        torch.testing.assert_close(split[name], value, rtol=1e-4, atol=1e-7)


# -- what each promises ------------------------------------------------------------------------------------


def test_fitnet_is_the_mean_square_error_of_each_stage() -> None:
    student, teacher = student_like("fitnet"), teacher_features()
    expected = sum(nn.functional.mse_loss(s, t) for s, t in zip(student, teacher, strict=True)) / 3
    torch.testing.assert_close(total(loss_named("fitnet"), student, teacher), torch.as_tensor(expected))


@pytest.mark.parametrize("name", ["at", "skd", "cirkd", "ifvd", "emkd"])
def test_the_scale_of_the_features_changes_nothing(name: str) -> None:
    student, teacher = student_like(name), teacher_features()
    loss = loss_named(name)
    torch.testing.assert_close(total(loss, [5 * f for f in student], teacher), total(loss, student, teacher))


@pytest.mark.parametrize("name", ["at", "skd", "cirkd", "ifvd", "emkd"])
def test_the_order_of_the_student_s_channels_changes_nothing(name: str) -> None:
    student, teacher = student_like(name), teacher_features()
    loss = loss_named(name)
    torch.testing.assert_close(total(loss, [f.flip(1) for f in student], teacher), total(loss, student, teacher))


def test_attention_transfer_is_the_distance_of_unit_maps() -> None:
    student, teacher = student_like("at")[0], teacher_features()[0]
    maps = [f.double().square().mean(1).flatten(1) for f in (student, teacher)]
    unit = [m / m.norm(dim=1, keepdim=True) for m in maps]
    expected = (unit[0] - unit[1]).square().sum(1).mean()
    value = total(loss_named("at", stages=[0]), student_like("at"), teacher_features())
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)


def test_cwd_does_not_see_a_number_added_to_a_channel() -> None:
    student, teacher = student_like("cwd"), teacher_features()
    moved = [f + torch.arange(f.shape[1]).view(1, -1, 1, 1, 1) for f in student]
    loss = loss_named("cwd")
    torch.testing.assert_close(total(loss, moved, teacher), total(loss, student, teacher), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_cwd_is_the_divergence_over_the_voxels(tau: float) -> None:
    student, teacher = (f[0].detach().double().flatten(2) / tau for f in (student_like("cwd"), teacher_features()))
    p, q = teacher.softmax(2), student.softmax(2)
    expected = tau**2 * (p * (p / q).log()).sum() / (2 * 8)
    value = total(loss_named("cwd", tau=tau, stages=[0]), student_like("cwd"), teacher_features())
    assert value.item() == pytest.approx(expected.item(), rel=1e-4)


def test_skd_compares_few_nodes_of_however_large_a_stage() -> None:
    features = torch.randn(1, 3, 20, 18, 9)
    nodes = similarities(features, (2, 2, 2))
    assert nodes.shape == (1, 8, 8)
    torch.testing.assert_close(nodes.diagonal(dim1=1, dim2=2), torch.ones(1, 8))
    assert nodes.abs().max() <= 1 + 1e-6


def test_cirkd_looks_across_images() -> None:
    student, teacher = student_like("cirkd"), teacher_features()
    loss = loss_named("cirkd")
    together = total(loss, student, teacher)
    apart = [total(loss, [f[b : b + 1] for f in student], [f[b : b + 1] for f in teacher]) for b in range(2)]
    across = (4 * together - apart[0] - apart[1]) / 2
    assert across > 0.1 * together


def test_ifvd_compares_with_the_class_s_own_mean() -> None:
    features, mask = torch.randn(2, 4, 10), torch.zeros(2, 10)
    mask[0, :3] = 1
    means = class_mean(features, mask)
    torch.testing.assert_close(means[0], features[0, :, :3].mean(1))
    assert means[1].abs().max() == 0
    # every voxel like its class: nothing varies within the classes, on neither side
    labels = block_labels()
    flat = [
        nn.functional.interpolate(labels.float(), f.shape[2:], mode="nearest-exact") + torch.ones_like(f)
        for f in teacher_features()
    ]
    assert total(loss_named("ifvd"), flat, flat, labels).item() == pytest.approx(0, abs=1e-10)
    assert total(loss_named("ifvd"), [f[:, :4] for f in flat], flat, labels).item() == pytest.approx(0, abs=1e-10)


def test_mgd_with_generators_that_copy_is_the_error_of_what_is_not_masked() -> None:
    loss = loss_named("mgd", masked=0.25).eval()
    assert isinstance(loss, MgdLoss)
    for generator in loss.generators.values():
        for layer in generator.modules():
            if isinstance(layer, nn.Conv3d):
                nn.init.dirac_(layer.weight)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    student, teacher = [f.detach().abs() for f in student_like("mgd")], teacher_features()
    masks = [loss.mask(k, f) for k, f in enumerate(student)]
    expected = sum(nn.functional.mse_loss(s * m, t) for s, m, t in zip(student, masks, teacher, strict=True)) / len(
        masks
    )
    torch.testing.assert_close(total(loss, student, teacher), torch.as_tensor(expected))
    assert set(masks[0].flatten().tolist()) == {0, 1}
    assert masks[0].mean().item() == pytest.approx(0.75, abs=0.05)


def test_mgd_draws_new_masks_and_goes_on_with_them_after_a_resumption() -> None:
    loss, features = loss_named("mgd"), student_like("mgd")
    assert isinstance(loss, MgdLoss)
    first = loss.mask(0, features[0])
    total(loss, features, teacher_features())
    second = loss.mask(0, features[0])
    assert not torch.equal(first, second)
    resumed = loss_named("mgd")
    resumed.load_state_dict(loss.state_dict())
    assert isinstance(resumed, MgdLoss)
    assert torch.equal(resumed.mask(0, features[0]), second)
    loss.eval()
    total(loss, features, teacher_features())
    assert torch.equal(loss.mask(0, features[0]), second)


def test_emkd_contrasts_the_regions() -> None:
    features = torch.randn(1, 4, 6)
    masks = torch.tensor([[[1.0, 1, 0, 0, 0, 0], [0, 0, 1, 1, 1, 1]]])
    inside, outside = features[0, :, 2:].mean(1), features[0, :, :2].mean(1)
    expected = nn.functional.cosine_similarity(inside, outside, dim=0)
    torch.testing.assert_close(region_affinity(features, masks)[0, 0, 1], expected)


def test_dprd_sees_neither_scale_nor_a_common_displacement() -> None:
    whole = torch.ones(2, 1, 8, 8, 8, dtype=torch.int16)
    student, teacher = student_like("dprd"), teacher_features()
    loss = loss_named("dprd")
    moved = [3 * f + 2 for f in student]
    torch.testing.assert_close(
        total(loss, moved, teacher, whole), total(loss, student, teacher, whole), rtol=1e-4, atol=1e-6
    )


def test_dprd_averages_over_the_foreground_of_each_cell() -> None:
    features, roi = torch.randn(1, 2, 8, 8, 8), torch.zeros(1, 1, 8, 8, 8)
    roi[..., :2, :2, :2] = 1
    embedding = case_embedding(features, roi).reshape(2, 2, 2, 2)
    torch.testing.assert_close(embedding[:, 0, 0, 0], features[0, :, :2, :2, :2].mean((1, 2, 3)))
    assert embedding.flatten(1)[:, 1:].abs().max() == 0
    assert normalised_displacements(torch.randn(5, 7)).norm(dim=1).mean().item() == pytest.approx(1, rel=1e-4)


def test_dprd_weighs_the_deep_stages_most() -> None:
    assert usual_weights(6) == pytest.approx((0.05, 0.1, 0.1, 0.15, 0.25, 0.35))
    assert usual_weights(3) == pytest.approx((0.2, 1 / 3, 0.35 / 0.75))
    assert len(usual_weights(8)) == 8
    assert sum(usual_weights(8)) == pytest.approx(1)
    assert loss_named("dprd", stages=[-1]).stage_weights == pytest.approx((0.35 / 0.75,))


def test_one_case_has_no_displacement() -> None:
    student = student_like("dprd", batch=1)
    value = total(loss_named("dprd"), student, teacher_features(batch=1))
    assert value.item() == 0
    assert all((g == 0).all() for g in gradients(value, student))
