"""Logits distillation, and the registry that it is found in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from distillation_cases import plain_labels, region_labels
from ReCoKDLib.errors import ReCoKDError
from ReCoKDTrainingLib.losses import DistillationLoss, NetworkOutputs, available_losses, build_loss, register
from ReCoKDTrainingLib.losses.logits import sigmoid_divergence, softmax_divergence
from ReCoKDTrainingLib.losses.registry import LossSetting


def logits(seed: int, heads: int = 3) -> Tensor:
    return 2 * torch.randn(2, heads, 3, 4, 5, generator=torch.Generator().manual_seed(seed))


def logits_loss(regions: bool = False, **options: Any) -> DistillationLoss:
    label_set = region_labels() if regions else plain_labels(2)
    return build_loss("logits", teacher_channels=[8, 16], student_channels=[4, 8], label_set=label_set, options=options)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_it_is_the_divergence_of_the_softened_softmax(temperature: float) -> None:
    student, teacher = logits(0), logits(1)
    total = 0.0
    for z_s, z_t in zip(student.movedim(1, -1).reshape(-1, 3), teacher.movedim(1, -1).reshape(-1, 3), strict=True):
        p, q = (z_t.double() / temperature).softmax(0), (z_s.double() / temperature).softmax(0)
        total += sum(float(a) * float((a / b).log()) for a, b in zip(p, q, strict=True))
    expected = temperature**2 * total / (2 * 60)
    assert softmax_divergence(student, teacher, temperature).mean().item() == pytest.approx(expected, rel=1e-5)


def test_regions_have_a_divergence_each() -> None:
    student, teacher = logits(0), logits(1)
    p, q = (teacher / 3).double().sigmoid(), (student / 3).double().sigmoid()
    expected = 9 * (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean()
    assert sigmoid_divergence(student, teacher, 3).mean().item() == pytest.approx(expected.item(), rel=1e-5)


def test_sure_logits_stay_finite() -> None:
    student, teacher = (500 * logits(0)).requires_grad_(), -500 * logits(0)
    for divergence in (softmax_divergence, sigmoid_divergence):
        loss = divergence(student, teacher, 1.0).mean()
        assert torch.isfinite(loss)
        assert torch.isfinite(torch.autograd.grad(loss, student)[0]).all()


@pytest.mark.parametrize("regions", [False, True])
def test_equal_logits_cost_nothing_and_others_pull_towards_the_teacher(regions: bool) -> None:
    loss = logits_loss(regions)
    student, teacher = logits(0).requires_grad_(), logits(1).requires_grad_()
    labels = torch.zeros(2, 1, 3, 4, 5, dtype=torch.int16)
    same = loss(NetworkOutputs((), (student,)), NetworkOutputs((), (student.detach(),)), labels)["kl"]
    assert same.item() == pytest.approx(0, abs=1e-6)
    before = loss(NetworkOutputs((), (student,)), NetworkOutputs((), (teacher,)), labels)["kl"]
    before.backward()
    assert teacher.grad is None
    assert student.grad is not None
    moved = student.detach() - student.grad
    after = loss(NetworkOutputs((), (moved,)), NetworkOutputs((), (teacher,)), labels)["kl"]
    assert after < before


@pytest.mark.parametrize("regions", [False, True])
def test_by_class_each_counts_the_same_whatever_its_volume(regions: bool) -> None:
    loss = logits_loss(regions, by_class=True)
    student, teacher = logits(0), logits(1)
    labels = torch.zeros(2, 1, 3, 4, 5, dtype=torch.int16)
    labels[0, 0, 0, 0, :2] = 1
    labels[0, 0, 1] = 2
    found = loss(NetworkOutputs((), (student,)), NetworkOutputs((), (teacher,)), labels)
    by_voxel = (sigmoid_divergence if regions else softmax_divergence)(student, teacher, 3.0).double()
    label_set = region_labels() if regions else plain_labels(2)
    members = [torch.isin(labels[0, 0], torch.tensor(segment.region)) for segment in label_set.segments]
    expected = [by_voxel[0][mask].mean() for mask in members if mask.any()]
    assert found["fg"].item() == pytest.approx(float(sum(expected)) / len(expected), rel=1e-5)
    outside = [by_voxel[case][labels[case, 0] == 0].mean() for case in range(2)]  # the second case has nothing else
    assert found["bg"].item() == pytest.approx(float(sum(outside)) / 2, rel=1e-5)


def test_by_class_ignored_voxels_count_for_nothing() -> None:
    label_set = plain_labels(2, ignore=True)
    loss = build_loss(
        "logits", teacher_channels=[8], student_channels=[4], label_set=label_set, options={"by_class": True}
    )
    student = logits(0).requires_grad_()
    labels = torch.full((2, 1, 3, 4, 5), 3, dtype=torch.int16)
    found = loss(NetworkOutputs((), (student,)), NetworkOutputs((), (logits(1),)), labels)
    assert [found["fg"].item(), found["bg"].item()] == [0, 0]
    (found["fg"] + found["bg"]).backward()
    assert student.grad is not None
    assert not student.grad.any()


def test_only_the_full_resolution_counts_in_float32() -> None:
    loss = logits_loss()
    labels = torch.zeros(2, 1, 3, 4, 5, dtype=torch.int16)
    small = torch.full((2, 3, 1, 2, 2), torch.nan)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = loss(
            NetworkOutputs((), (logits(0).bfloat16(), small)), NetworkOutputs((), (logits(1), small)), labels
        )["kl"]
    assert result.dtype == torch.float32
    assert torch.isfinite(result)


def test_it_declares_what_it_reads() -> None:
    loss = logits_loss(temperature=2.0)
    assert (loss.uses_logits, loss.stages, loss.needs_connectors) == (True, (), False)
    assert list(loss.parameters()) == []
    with pytest.raises(ReCoKDError, match="temperature must be above 0"):
        logits_loss(temperature=0.0)
    with pytest.raises(ReCoKDError, match="no option 'tau'. It has: temperature, by_class"):
        logits_loss(tau=1.0)


def test_the_registry_names_what_it_has() -> None:
    assert {"logits", "reco"} <= set(available_losses())
    with pytest.raises(ReCoKDError, match=r"no distillation loss named 'rekko'. Choose one of: .*logits.*reco"):
        build_loss("rekko", teacher_channels=[8], student_channels=[4], label_set=plain_labels(1))
    with pytest.raises(ReCoKDError, match="got 3 and 2. Pair them first"):
        build_loss("reco", teacher_channels=[8, 16, 32], student_channels=[4, 8], label_set=plain_labels(1))


def test_a_name_is_given_once() -> None:
    def another(setting: LossSetting, options: Mapping[str, Any]) -> DistillationLoss:
        raise AssertionError

    with pytest.raises(ValueError, match="registered already"):
        register("logits")(another)
