"""The distiller on real (small) networks, with the checks of the method that need them, by their numbers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distillation_cases import architecture, block_labels, network, plain_labels
from ReCoKDLib.errors import ReCoKDError
from ReCoKDLib.networks import build_network, count_parameters
from ReCoKDTrainingLib.distiller import Distiller, WeightedLoss
from ReCoKDTrainingLib.losses import DistillationLoss, NetworkOutputs, SegmentationLoss, build_loss
from ReCoKDTrainingLib.precision import arranged_teacher
from ReCoKDTrainingLib.recorders import EncoderDecoderRecorder

WIDE, NARROW = [16, 24, 32], [4, 6, 8]
LABELS = plain_labels(2)


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 1, 16, 16, 16, generator=generator), block_labels((16, 16, 16))


def loss_named(name: str, student: list[int] = NARROW, **options: Any) -> DistillationLoss:
    return build_loss(name, teacher_channels=WIDE, student_channels=student, label_set=LABELS, options=options)


def distiller(
    *names: str, eta: float = 1.0, student: list[int] = NARROW, teacher: nn.Module | None = None, **kwargs: Any
) -> Distiller:
    torch.manual_seed(0)
    return Distiller(
        network(student),
        teacher or network(WIDE),
        SegmentationLoss(LABELS, 2),
        {name: WeightedLoss(loss_named(name, student), eta) for name in names},
        **kwargs,
    )


def step(made: Distiller, optimiser: torch.optim.Optimizer, progress: float = 1.0) -> None:
    optimiser.zero_grad()
    torch.autograd.backward(made.training_loss(*batch(), progress).total)
    optimiser.step()


# -- the checks of the method ------------------------------------------------------------------------------


@pytest.mark.parametrize("teacher_dtype", [None, torch.bfloat16])
def test_check_04_the_teacher_stays_bit_identical(teacher_dtype: torch.dtype | None) -> None:
    plan = architecture(WIDE)
    kwargs = {**plan.arch_kwargs, "norm_op": "torch.nn.modules.batchnorm.BatchNorm3d"}  # has buffers
    teacher = build_network(type(plan)(plan.network_class_name, kwargs, plan.requires_import), 1, 3, True)
    made = distiller("reco", "logits", teacher=teacher, teacher_dtype=teacher_dtype)
    made.train()
    before = copy.deepcopy(teacher.state_dict())
    assert any("running_var" in key for key in before)
    optimiser = torch.optim.SGD(made.trained_parameters(), lr=0.1, weight_decay=1e-2)
    step(made, optimiser)
    after = teacher.state_dict()
    assert all(torch.equal(before[key].view(-1), after[key].view(-1)) for key in before)
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    assert not teacher.training
    trained = {id(p) for p in made.trained_parameters()}
    assert not trained & {id(p) for p in teacher.parameters()}


def test_check_09_the_adapters_learn() -> None:
    made = distiller("reco")
    optimiser = torch.optim.SGD(made.trained_parameters(), lr=0.05)
    adapters = {k: p for k, p in made.named_parameters() if k.startswith(("connectors.", "losses."))}
    sides = ("connectors", "losses.reco.student_blocks", "losses.reco.teacher_blocks")
    assert {k for k in adapters if not k.startswith(sides)} == set()
    assert all(any(k.startswith(side) for k in adapters) for side in sides)
    first = {k for k in adapters if k.startswith("connectors.") or ".expand." in k}
    start = {k: p.detach().clone() for k, p in adapters.items()}
    step(made, optimiser)
    assert {k for k, p in adapters.items() if not torch.equal(p, start[k])} == first
    step(made, optimiser)
    assert {k for k, p in adapters.items() if not torch.equal(p, start[k])} == set(adapters)


def test_check_11_the_ramp() -> None:
    made = distiller("reco", eta=0.5)
    assert made.eta("reco", 0.0) == 0
    assert made.eta("reco", 0.3) == pytest.approx(0.25)
    assert made.eta("reco", 0.6) == 0.5
    assert made.eta("reco", 0.8) == made.eta("reco", 1.0) == 0.5
    assert distiller("reco", ramp=0.0).eta("reco", 0.0) == 1


def test_a_loss_that_ends_early_is_off_from_then_on() -> None:
    teacher, label_loss = network(WIDE), SegmentationLoss(LABELS, 2)
    losses = {"reco": WeightedLoss(loss_named("reco"), 1.0, 0.5), "logits": WeightedLoss(loss_named("logits"), 1.0)}
    made = Distiller(network(NARROW), teacher, label_loss, losses, ramp=0.2)
    assert [made.eta("reco", progress) for progress in (0.1, 0.49, 0.5, 1.0)] == [0.5, 1, 0, 0]
    assert [made.eta("logits", progress) for progress in (0.1, 0.49, 0.5, 1.0)] == [0.5, 1, 1, 1]
    assert "reco/fg" in made.training_loss(*batch(), 0.49).terms
    assert set(made.training_loss(*batch(), 0.5).terms) == {"segmentation", "logits/kl", "total"}
    assert made.eta("reco", None) == made.eta("logits", None) == 1
    assert made.gradient_norms(*batch(), None)["reco"] > 0
    with pytest.raises(ReCoKDError, match="larger than 0"):
        Distiller(network(NARROW), teacher, label_loss, {"reco": WeightedLoss(loss_named("reco"), 1.0, 0)})
    with pytest.raises(ReCoKDError, match="at most 1"):  # no percentage
        Distiller(network(NARROW), teacher, label_loss, {"reco": WeightedLoss(loss_named("reco"), 1.0, 50)})


def test_check_11_the_teacher_rests_while_eta_is_zero() -> None:
    made = distiller("reco", "logits")
    called: list[int] = []
    assert made.teacher is not None
    made.teacher.get_submodule("encoder").register_forward_hook(lambda *_: called.append(1))
    report = made.training_loss(*batch(), 0.0)
    assert called == []
    assert set(report.terms) == {"segmentation", "total"}
    assert report.total.item() == report.terms["segmentation"].item()
    assert made.gradient_norms(*batch(), 0.0)["reco"] == 0
    made.training_loss(*batch(), 0.01)
    assert called == [1]


@pytest.mark.parametrize(
    ("features", "counts"),
    [
        ([32, 64, 128, 256], [5_603_177, 1_402_297, 351_329, 88_213]),
        ([32, 64, 128, 256, 320, 320], [31_196_399, 7_803_007, 1_952_711, 489_163]),
    ],
)
def test_check_12_parameter_counts(features: list[int], counts: list[int]) -> None:
    plan = architecture(features)
    made = [count_parameters(build_network(plan.with_width(t), 1, 3, True)) for t in range(4)]
    assert made == counts


# -- what the distiller owes -------------------------------------------------------------------------------


def test_without_teacher_it_is_plain_training() -> None:
    torch.manual_seed(0)
    student = network(NARROW)
    made = Distiller(student, None, SegmentationLoss(LABELS, 2))
    images, labels = batch()
    report = made.training_loss(images, labels, 1.0)
    assert report.total.item() == SegmentationLoss(LABELS, 2)(student(images), labels).item()
    assert [id(p) for p in made.trained_parameters()] == [id(p) for p in student.parameters()]
    assert made.adapter_state() == {}
    made.load_adapter_state({})


def test_the_total_is_the_sum_of_its_terms() -> None:
    made = distiller("reco", "logits", eta=0.3)
    report = made.training_loss(*batch(), 0.3)
    names = {"segmentation", "reco/fg", "reco/bg", "reco/att", "reco/ctx", "logits/kl", "total"}
    assert set(report.terms) == names
    assert all(not value.requires_grad and value.numel() == 1 for value in report.terms.values())
    expected = report.terms["segmentation"] + 0.15 * sum(v for k, v in report.terms.items() if "/" in k)
    assert report.total.item() == pytest.approx(expected.item())
    assert report.terms["total"].item() == report.total.item()


def test_everything_trained_is_listed_once_and_reached_by_the_gradient() -> None:
    made = distiller("reco", "logits")
    parameters = made.trained_parameters()
    assert len(parameters) == len({id(p) for p in parameters})
    count = count_parameters(made.student) + count_parameters(made.connectors) + count_parameters(made.losses)
    assert sum(p.numel() for p in parameters) == count
    torch.autograd.backward(made.training_loss(*batch(), 1.0).total)
    without = {k for k, p in made.named_parameters() if p.requires_grad and p.grad is None}
    assert without == {"student.decoder.seg_layers.0.weight", "student.decoder.seg_layers.0.bias"}


def test_connectors_are_built_only_where_they_are_needed() -> None:
    assert len(distiller("logits").connectors) == 0
    made = distiller("reco")
    assert [type(c) for c in made.connectors.values()] == [nn.Conv3d, nn.Conv3d]
    assert all(c.bias is not None and c.kernel_size == (1, 1, 1) for c in made.connectors.values())
    half = distiller("reco", student=[16, 6, 8])
    assert [type(c) for c in half.connectors.values()] == [nn.Identity, nn.Conv3d]


def test_a_teacher_for_features_alone_runs_no_decoder() -> None:
    for name, expected in (("reco", []), ("logits", [1])):
        called: list[int] = []
        made = distiller(name)
        assert made.teacher is not None
        decoder = made.teacher.get_submodule("decoder")
        decoder.register_forward_hook(lambda *_, calls=called: calls.append(1))
        made.training_loss(*batch(), 1.0)
        assert called == expected


def test_the_student_state_is_the_plain_architectures() -> None:
    made = distiller("reco")
    plain = network(NARROW)
    state = made.student_state()
    assert list(state) == list(plain.state_dict())
    plain.load_state_dict(state)
    images, _ = batch()
    assert torch.equal(plain(images)[0], made.student(images)[0])


def test_adapters_come_back() -> None:
    made, other = distiller("reco"), distiller("reco")
    optimiser = torch.optim.SGD(made.trained_parameters(), lr=0.1)
    for _ in range(2):
        step(made, optimiser)
    state = made.adapter_state()
    assert state
    assert all(key.startswith(("connectors.", "losses.reco.")) for key in state)
    other.student.load_state_dict(made.student_state())
    other.load_adapter_state(copy.deepcopy(state))
    assert made.training_loss(*batch(), 1.0).total.item() == other.training_loss(*batch(), 1.0).total.item()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda state: state.pop("connectors.0.weight"),
        lambda state: state.update({"connectors.9.weight": torch.zeros(1)}),
        lambda state: state.update({"connectors.0.weight": torch.zeros(1)}),
    ],
    ids=["missing", "unexpected", "shape"],
)
def test_adapters_of_another_run_are_refused(spoil: Callable[[dict[str, Tensor]], object]) -> None:
    made = distiller("reco")
    state = dict(made.adapter_state())
    spoil(state)
    with pytest.raises(ReCoKDError, match=r"connectors\..*Resume with the losses"):
        made.load_adapter_state(state)


def test_train_keeps_the_teacher_in_evaluation_mode() -> None:
    made = distiller("reco")
    assert made.teacher is not None
    assert not made.teacher.training
    made.eval()
    made.train()
    assert made.student.training
    assert not made.teacher.training


def test_losses_see_float32_under_autocast_of_the_student() -> None:
    made = distiller("reco", "logits", amp_dtype=torch.bfloat16, teacher_dtype=torch.bfloat16)
    seen: list[NetworkOutputs] = []
    made.losses["reco"].register_forward_pre_hook(lambda _, args: seen.extend(args[:2]))
    report = made.training_loss(*batch(), 1.0)
    student, teacher = seen
    assert student.features[0].dtype == torch.bfloat16
    assert teacher.features[0].dtype == torch.bfloat16
    assert student.aligned[0].dtype == torch.float32
    assert not teacher.features[0].requires_grad
    assert all(value.dtype == torch.float32 for value in report.terms.values())
    exact = distiller("reco", "logits").training_loss(*batch(), 1.0)
    for name, value in exact.terms.items():
        assert report.terms[name].item() == pytest.approx(value.item(), rel=0.1), name


def test_gradient_norms_are_those_of_the_parts_and_leave_no_trace() -> None:
    torch.manual_seed(0)
    losses = {"reco": WeightedLoss(loss_named("reco", normalise="ema"), 0.5)}
    made = Distiller(network(NARROW), network(WIDE), SegmentationLoss(LABELS, 2), losses)
    made.training_loss(*batch(), 1.0)
    made.pop_statistics()
    before = copy.deepcopy(made.state_dict())
    norms = made.gradient_norms(*batch(), 0.3)
    assert set(norms) == {"segmentation", "reco"}
    assert all(value > 0 for value in norms.values())
    assert made.losses.training
    assert all(p.grad is None for p in made.parameters())
    assert all(torch.equal(before[key], value) for key, value in made.state_dict().items())
    assert made.pop_statistics()["reco/present_pairs"] == 0
    weight = EncoderDecoderRecorder().shared_weight(made.student, 1)  # the last stage before the bottleneck
    assert weight.shape == (6, 6, 3, 3, 3)
    images, labels = batch()
    segmentation = SegmentationLoss(LABELS, 2)(made.student(images), labels)
    (gradient,) = torch.autograd.grad(segmentation, weight)
    assert norms["segmentation"] == pytest.approx(gradient.norm().item(), rel=1e-5)
    assert made.gradient_norms(*batch(), 0.6)["reco"] == pytest.approx(2 * norms["reco"], rel=1e-4)


def test_statistics_carry_the_losses_name() -> None:
    made = distiller("reco", "logits")
    made.training_loss(*batch(), 1.0)
    assert made.pop_statistics() == {
        "reco/present_pairs": 4,
        "reco/lost_pairs_0": 0,
        "reco/lost_pairs_1": 0,
    }


def test_the_decoder_is_taught_where_its_stages_are_compared() -> None:
    def gradients(decoder: bool) -> dict[str, float]:
        loss = loss_named("reco", decoder=decoder)
        recorder = EncoderDecoderRecorder(decoder)
        torch.manual_seed(0)
        made = Distiller(
            network(NARROW),
            network(WIDE),
            SegmentationLoss(LABELS, 2),
            {"reco": WeightedLoss(loss, 1.0)},
            recorder=recorder,
        )
        assert made.needs_teachers_logits == decoder
        assert list(made.connectors) == ["0", "1"] + ["3", "4"] * decoder
        images, labels = batch()
        _, terms = made.terms(images, labels, 1.0)
        torch.autograd.backward(torch.stack(list(terms["reco"].values())).sum())
        stages = made.student.decoder.stages.parameters()  # type: ignore[union-attr]
        norms = [float(p.grad.norm()) if p.grad is not None else 0.0 for p in stages if p.ndim > 1]
        assert made.gradient_norms(images, labels, 1.0)["reco"] > 0
        return {str(place): norm for place, norm in enumerate(norms)}

    assert all(norm > 0 for norm in gradients(True).values())
    assert not any(gradients(False).values())


def test_what_does_not_fit_is_refused_when_it_is_built() -> None:
    student, loss = network(NARROW), SegmentationLoss(LABELS, 2)
    entry = WeightedLoss(loss_named("logits"), 1.0)
    with pytest.raises(ReCoKDError, match=r"Distillation \(logits\) needs a teacher"):
        Distiller(student, None, loss, {"logits": entry})
    for eta in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ReCoKDError, match="eta must be a number of 0 or more"):
            Distiller(student, network(WIDE), loss, {"logits": WeightedLoss(entry.loss, eta)})
    with pytest.raises(ReCoKDError, match="between 0 and 1"):
        Distiller(student, network(WIDE), loss, {"logits": entry}, ramp=1.5)
    shallow = network(WIDE[:2])  # its bottleneck is on the grid of the student's second stage
    compared = {"reco": WeightedLoss(loss_named("reco", decoder=True), 1.0)}
    with pytest.raises(ReCoKDError, match="no decoder stage for one of the student's"):
        Distiller(student, shallow, loss, compared, recorder=EncoderDecoderRecorder(decoder=True))


def test_the_teacher_labels_what_nobody_annotated() -> None:
    """In L_seg as in the masks of the other losses, from the first step on."""
    labels = plain_labels(2, ignore=True)
    torch.manual_seed(0)
    images, annotated = torch.randn(2, 1, 16, 16, 16), torch.randint(0, 3, (2, 1, 16, 16, 16))
    nobody = annotated.clone()
    nobody[1] = 3

    def made(fills: bool, loss: DistillationLoss) -> Distiller:
        torch.manual_seed(1)
        student, teacher = network(NARROW), network(WIDE)
        return Distiller(
            student, teacher, SegmentationLoss(labels, 2), {"seen": WeightedLoss(loss, 1.0)}, teacher_fills=fills
        )

    class Seen(DistillationLoss):
        def forward(self, student: NetworkOutputs, teacher: NetworkOutputs, labels: Tensor) -> dict[str, Tensor]:
            self.labels, self.logits = labels, teacher.logits
            return {"nothing": student.logits[0].sum() * 0}

    seen = Seen()
    filling = made(True, seen)
    filled = filling.training_loss(images, nobody, 1.0)
    assert torch.equal(seen.labels[0], annotated[0])
    assert torch.equal(seen.labels[1, 0], seen.logits[0][1].argmax(0))
    own = seen.labels
    plain = made(False, seen).training_loss(images, nobody, 1.0)
    assert torch.equal(seen.labels, nobody)
    taught = made(False, seen).training_loss(images, own, 1.0)
    assert torch.equal(filled.terms["segmentation"], taught.terms["segmentation"])
    assert float(filled.terms["segmentation"]) != float(plain.terms["segmentation"])
    # While every eta is 0 the teacher's labels are needed all the same
    assert torch.equal(filling.training_loss(images, nobody, 0.0).terms["segmentation"], taught.terms["segmentation"])
    # Without voxels that nobody annotated the decoder of the teacher rests.
    filling.training_loss(images, annotated, 1.0)
    assert seen.logits == ()


def test_without_a_teacher_voxels_that_nobody_annotated_have_no_segmentation_loss() -> None:
    labels = plain_labels(2, ignore=True)
    student = network(NARROW)
    made = Distiller(student, None, SegmentationLoss(labels, 2))
    images = torch.randn(2, 1, 16, 16, 16)
    loss = made.training_loss(images, torch.full((2, 1, 16, 16, 16), 3), 1.0).total
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(loss.detach()) == pytest.approx(0.0, abs=1e-6)
    assert all(p.grad is None or not p.grad.abs().max() > 1e-7 for p in student.parameters())


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_teacher_in_the_order_of_its_device_says_the_same(dtype: torch.dtype | None) -> None:
    images = torch.randn(2, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    plain = network(WIDE).eval()
    arranged = arranged_teacher(copy.deepcopy(plain), torch.device("cpu"))
    assert not any(isinstance(module, nn.InstanceNorm3d) for module in arranged.modules())
    assert {key: value.tolist() for key, value in arranged.state_dict().items()} == {
        key: value.tolist() for key, value in plain.state_dict().items()
    }
    with torch.no_grad():
        exact = EncoderDecoderRecorder().run(plain, images, True)
        with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
            before, after = (EncoderDecoderRecorder().run(made, images, True) for made in (plain, arranged))
    for truth, ours, own in zip(*((*o.features, *o.logits) for o in (exact, before, after)), strict=True):
        error = (own - truth).abs().mean()
        assert error <= 1e-5 if dtype is None else error <= 1.2 * (ours - truth).abs().mean()


def test_elsewhere_a_teacher_is_left_as_it_is() -> None:
    teacher = network(WIDE)
    assert arranged_teacher(teacher, torch.device("cuda")) is teacher
    assert any(isinstance(module, nn.InstanceNorm3d) for module in teacher.modules())
