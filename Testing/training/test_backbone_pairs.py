"""Distillation between networks of different classes, and between different sets of labels."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from distillation_cases import block_labels, plain_labels, region_labels
from packages import small_card
from plans import backbone_plan, small_plan
from ReCoKDLib.backbones import BACKBONES
from ReCoKDLib.errors import PlanError, ReCoKDError
from ReCoKDLib.image_io import read_volume
from ReCoKDLib.labels import LabelSet
from ReCoKDLib.networks import build_network, count_parameters, plain_state
from ReCoKDLib.package import ModelPackage, write_package
from ReCoKDLib.plan import Architecture
from ReCoKDLib.prediction import Predictor
from ReCoKDLib.segment import segment
from ReCoKDTrainingLib.class_matching import ClassMap, match_classes
from ReCoKDTrainingLib.cli import main
from ReCoKDTrainingLib.datasets import NnunetRawDataset
from ReCoKDTrainingLib.distiller import Distiller, WeightedLoss
from ReCoKDTrainingLib.losses import NetworkOutputs, SegmentationLoss, build_loss
from ReCoKDTrainingLib.planner import with_backbone
from ReCoKDTrainingLib.progress import Progress
from ReCoKDTrainingLib.recorders import pair_stages, recorder_for
from ReCoKDTrainingLib.run_settings import RunSettings
from ReCoKDTrainingLib.runs import prepare_run
from ReCoKDTrainingLib.training_data import DataSettings

LABELS = plain_labels(2)
SHORT = ["--epochs", "2", "--steps-per-epoch", "2", "--batch-size", "2", "--workers", "0", "--device", "cpu"]
PAIRS = [(teacher, student) for teacher in BACKBONES for student in BACKBONES]


def batch(generator_seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(generator_seed)
    return torch.randn(2, 1, 16, 16, 16, generator=generator), block_labels((16, 16, 16))


def distiller(
    teacher: Architecture,
    student: Architecture,
    losses: Mapping[str, Mapping[str, Any]],
    *,
    taught: LabelSet = LABELS,
    learned: LabelSet = LABELS,
    class_map: ClassMap | None = None,
    **options: Any,
) -> Distiller:
    """The way that runs put one together."""
    torch.manual_seed(0)
    paired = [teacher.features_per_stage[place] for place in pair_stages(student.strides, teacher.strides)]
    made = {
        name: WeightedLoss(
            build_loss(
                name,
                teacher_channels=paired,
                student_channels=student.features_per_stage,
                label_set=learned,
                options=given,
            ),
            1.0,
        )
        for name, given in losses.items()
    }
    return Distiller(
        build_network(student, 1, learned.number_of_heads, deep_supervision=True),
        build_network(teacher, 1, taught.number_of_heads),
        SegmentationLoss(learned, student.outputs),
        made,
        recorder=recorder_for(student),
        teacher_recorder=recorder_for(teacher),
        class_map=class_map,
        **options,
    )


@pytest.mark.parametrize(("teacher", "student"), PAIRS, ids=[f"{t} to {s}" for t, s in PAIRS])
def test_every_backbone_teaches_every_other(teacher: str, student: str, tmp_path: Path) -> None:
    plan = backbone_plan(student, features=(8, 16, 16)).with_width(1)
    made = distiller(
        backbone_plan(teacher, features=(8, 16, 24)).architecture,
        plan.architecture,
        {"reco": {}, "logits": {}},
        teacher_dtype=torch.bfloat16,
        amp_dtype=torch.bfloat16,
    )
    made.train()
    assert made.teacher is not None
    before = copy.deepcopy(made.teacher.state_dict())
    start = {name: p.detach().clone() for name, p in made.named_parameters() if p.requires_grad}
    optimiser = torch.optim.SGD(made.trained_parameters(), lr=0.05, momentum=0.9, nesterov=True)
    for _ in range(2):
        optimiser.zero_grad()
        report = made.training_loss(*batch(), 1.0)
        assert all(torch.isfinite(value) for value in report.terms.values())
        assert report.terms["reco/fg"] > 0
        torch.autograd.backward(report.total)
        optimiser.step()
    still = {name for name, p in made.named_parameters() if p.requires_grad and torch.equal(p, start[name])}
    adapters = {name for name in start if name.startswith(("connectors.", "losses."))}
    assert adapters
    assert not {name for name in adapters & still if name.startswith("connectors.") or ".expand." in name}
    # The rest of a block learns from the second step on, at first by less than the numbers are rounded to.
    gradients = {name: p.grad for name, p in made.named_parameters() if name in adapters}
    assert [name for name, g in gradients.items() if g is None or not g.abs().max() > 0] == []
    # The coarsest output has the weight 0; what lies before a residual block's last norm, which starts at 0, is slow.
    slow = ("seg_layers.0", "deep_supervision_heads", "norm.weight")
    assert not [n for n in still - adapters if not any(part in n for part in slow)]
    after = made.teacher.state_dict()
    assert all(torch.equal(before[key].view(-1), after[key].view(-1)) for key in before)
    norms = made.gradient_norms(*batch(), 1.0)
    assert set(norms) == {"segmentation", "reco", "logits"}
    assert all(value > 0 for value in norms.values())

    path = write_package(tmp_path / "s.recokd.zip", small_card(), plan, LABELS, [plain_state(made.student)])
    package = ModelPackage.open(path)
    assert package.card.parameters == count_parameters(made.student)
    network = Predictor.from_package(package, "cpu").networks[0]
    with torch.no_grad():
        outputs = made.student.eval()(batch()[0])
        assert torch.equal(network(batch()[0]), outputs if isinstance(outputs, Tensor) else outputs[0])


@pytest.mark.parametrize("teacher", ["UNet", "SegResNet"])
@pytest.mark.parametrize("options", [{"context": "affinity"}, {"context": "gc_shared", "include_bottleneck": True}])
def test_other_options_cope_with_differing_grids(teacher: str, options: dict[str, Any]) -> None:
    made = distiller(
        backbone_plan(teacher, features=(8, 16, 16, 16)).architecture,
        backbone_plan("PlainConvUNet", features=(4, 8, 8)).architecture,
        {"reco": options},
    )
    report = made.training_loss(*batch(), 1.0)
    torch.autograd.backward(report.total)
    assert all(torch.isfinite(value) for value in report.terms.values())
    assert report.terms["reco/ctx"] > 0
    assert all(torch.isfinite(p.grad).all() for p in made.trained_parameters() if p.grad is not None)


def test_features_are_brought_to_the_teachers_grid() -> None:
    """MONAI's UNet begins with a stride, so that its first stage has half the student's resolution."""
    student = backbone_plan("PlainConvUNet", features=(4, 8, 8)).architecture
    made = distiller(backbone_plan("UNet", features=(8, 16, 16)).architecture, student, {"reco": {}})
    assert made.pairing == (0, 0, 2)
    seen: list[NetworkOutputs] = []
    made.losses["reco"].register_forward_pre_hook(lambda _, args: seen.extend(args[:2]))
    made.training_loss(*batch(), 1.0)
    ours, theirs = seen
    assert [tuple(f.shape[2:]) for f in ours.features] == [(16,) * 3, (8,) * 3, (4,) * 3]
    assert [tuple(f.shape[2:]) for f in theirs.features] == [(8,) * 3, (8,) * 3, (4,) * 3]
    connector = made.connectors["0"]
    assert isinstance(connector, nn.Conv3d)
    projected = functional.conv3d(ours.features[0], connector.weight, connector.bias)
    expected = functional.interpolate(projected, size=(8, 8, 8), mode="trilinear", align_corners=False)
    assert torch.equal(ours.aligned[0], expected)
    # Halving by trilinear interpolation is the mean of eight voxels.
    torch.testing.assert_close(ours.aligned[0], functional.avg_pool3d(projected, 2))
    assert torch.equal(ours.aligned[1], made.connectors["1"](ours.features[1]))
    assert torch.equal(theirs.features[0], theirs.features[1])


def test_a_network_may_have_one_output() -> None:
    plan = backbone_plan("SegResNet", features=(8, 16, 16))
    made = distiller(plan.architecture, plan.architecture, {})
    images, labels = batch()
    report = made.training_loss(images, labels, 1.0)
    expected = SegmentationLoss(LABELS, 1)([made.student(images)], labels)
    assert report.total.item() == pytest.approx(expected.item())


# -- classes -----------------------------------------------------------------------------------------------


def test_the_teachers_logits_arrive_in_the_students_classes() -> None:
    taught = LabelSet.from_dataset_json({"labels": {"background": 0, "x": 1, "structure 2": 2, "structure 1": 3}})
    classes = match_classes(LABELS, taught, "data", "teacher")
    plan = backbone_plan("PlainConvUNet", features=(4, 8))
    made = distiller(plan.architecture, plan.architecture, {"logits": {}}, taught=taught, class_map=classes)
    seen: list[NetworkOutputs] = []
    made.losses["logits"].register_forward_pre_hook(lambda _, args: seen.append(args[1]))
    images, labels = batch()
    made.training_loss(images, labels, 1.0)
    assert made.teacher is not None
    with torch.no_grad():
        whole = made.teacher(images).softmax(1)
    torch.testing.assert_close(
        seen[0].logits[0].softmax(1), torch.stack([whole[:, :2].sum(1), whole[:, 3], whole[:, 2]], 1)
    )


def test_labels_and_regions_share_features_but_no_logits() -> None:
    taught = replace(
        plain_labels(3),
        segments=tuple(
            replace(s, name=n) for s, n in zip(plain_labels(3).segments, ("whole", "core", "enhancing"), strict=True)
        ),
    )
    learned = region_labels()
    classes = match_classes(learned, taught, "data", "teacher")
    plan = backbone_plan("PlainConvUNet", features=(4, 8))
    made = distiller(
        plan.architecture, plan.architecture, {"reco": {}}, taught=taught, learned=learned, class_map=classes
    )
    report = made.training_loss(*batch(), 1.0)
    assert torch.isfinite(report.total)
    assert report.terms["reco/fg"] > 0
    with pytest.raises(ReCoKDError, match=r"softmax.*sigmoid.*as logits would.*such as reco, work"):
        distiller(
            plan.architecture, plan.architecture, {"logits": {}}, taught=taught, learned=learned, class_map=classes
        )


# -- plans -------------------------------------------------------------------------------------------------

HIPPOCAMPUS = {"features": (32, 64, 128, 256), "patch_size": (40, 56, 40)}


@pytest.mark.parametrize("teacher", BACKBONES)
def test_a_student_of_another_backbone_has_the_counts_of_the_method(teacher: str) -> None:
    plan = backbone_plan(teacher, **HIPPOCAMPUS)
    student = with_backbone(plan, "PlainConvUNet")
    assert replace(student, architecture=plan.architecture) == plan
    with torch.device("meta"):
        counts = [count_parameters(build_network(student.with_width(t).architecture, 1, 3, True)) for t in range(4)]
    assert counts == [5_603_177, 1_402_297, 351_329, 88_213]


@pytest.mark.parametrize("student", BACKBONES)
def test_stages_line_up_with_the_teachers(student: str) -> None:
    flat = small_plan(features=(8, 16, 32), spacing=(3.0, 0.8, 0.8))
    kwargs = {**flat.architecture.arch_kwargs, "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]]}
    flat = replace(flat, architecture=replace(flat.architecture, arch_kwargs=kwargs))
    made = with_backbone(flat, student)
    if student in ("PlainConvUNet", "ResidualEncoderUNet", "DynUNet"):
        assert made.architecture.strides == flat.architecture.strides
        assert made.architecture.features_per_stage == (32, 64, 128)
    with torch.no_grad():
        assert (
            build_network(made.with_width(3).architecture, 1, 3)(torch.zeros(1, 1, 16, 16, 16)).shape[2:] == (16,) * 3
        )
    key = {"DynUNet": "kernel_size"}.get(student, "kernel_sizes")
    if key in made.architecture.arch_kwargs:
        assert made.architecture.arch_kwargs[key] == [[1, 3, 3], [3, 3, 3], [3, 3, 3]]


def test_the_patch_stays_the_teachers() -> None:
    """80 voxels can be halved four times, 24 three times and 20 twice."""
    plan = replace(backbone_plan("UNet", features=(8, 16, 16)), patch_size=(80, 24, 20))
    strides = with_backbone(plan, "PlainConvUNet").architecture.strides
    assert strides[:3] == ((1, 1, 1), (2, 2, 2), (2, 2, 2))
    assert len(strides) > 3
    assert all(stride[2] == 1 for stride in strides[3:])
    with pytest.raises(PlanError, match="Choose another backbone"):
        with_backbone(replace(plan, patch_size=(80, 24, 17), architecture=flat_architecture()), "SegResNet")


def flat_architecture() -> Architecture:
    return Architecture.for_topology("PlainConvUNet", (8, 16), [(1, 1, 1), (2, 2, 1)], [(3, 3, 3)] * 2)


# -- as the user runs it -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def segresnet(raw_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("SegResNet") / "run"
    arguments = ["--task", "teacher", "--backbone", "SegResNet", "--dataset", str(raw_dataset), "--output", str(output)]
    assert main([*arguments, "--plan", str(tiny_plan(output.parent)), *SHORT]) == 0
    return output / "blobs-segresnet-teacher.recokd.zip"


def tiny_plan(folder: Path) -> Path:
    from ReCoKDLib.files import write_json

    path = folder / "plans.json"
    write_json(path, small_plan(features=(8, 16), patch_size=(16, 16, 16)).to_nnunet(), overwrite=True)
    return path


def test_a_segresnet_teaches_a_plain_unet(segresnet: Path, raw_dataset: Path, tmp_path: Path) -> None:
    teacher = ModelPackage.open(segresnet)
    assert (teacher.card.role, teacher.plan.architecture.backbone.name) == ("teacher", "SegResNet")
    assert teacher.card.training.options["backbone"] == "SegResNet"
    arguments = ["--task", "distill", "--dataset", str(raw_dataset), "--teacher", str(segresnet), "--width", "1"]
    arguments += ["--backbone", "PlainConvUNet", "--losses", "reco=1,logits=1", "--output", str(tmp_path / "run")]
    assert main([*arguments, *SHORT]) == 0
    student = ModelPackage.open(tmp_path / "run" / "blobs-plainconvunet-x2.recokd.zip")
    assert student.plan.architecture.backbone.name == "PlainConvUNet"
    assert student.plan.architecture.features_per_stage == (16, 32)
    assert replace(student.plan, architecture=teacher.plan.architecture) == teacher.plan
    options = student.card.training.options
    assert (options["backbone"], options["teacher's backbone"]) == ("PlainConvUNet", "SegResNet")
    assert options["teacher's classes"] == {"anterior": "anterior", "posterior": "posterior"}
    log = (tmp_path / "run" / "log.csv").read_text(encoding="utf-8")
    assert "reco/fg" in log
    assert "logits/kl" in log
    case = read_volume(raw_dataset / "imagesTr" / "blobs_001_0000.nii.gz")
    assert segment(case, student, device="cpu").labels.same_grid(case)


def test_a_student_learns_one_of_the_teachers_classes(segresnet: Path, raw_dataset: Path, tmp_path: Path) -> None:
    arguments = ["--task", "distill", "--dataset", str(raw_dataset), "--teacher", str(segresnet), "--width", "1"]
    arguments += ["--labels", "Posterior", "--losses", "reco,logits", "--output", str(tmp_path / "run")]
    assert main([*arguments, *SHORT]) == 0
    path = tmp_path / "run" / "blobs-x2.recokd.zip"
    student = ModelPackage.open(path)
    assert [(s.name, s.value) for s in student.label_set.segments] == [("posterior", 1)]
    assert student.plan.architecture.backbone.name == "SegResNet"
    assert set(student.card.metrics["segments"]) == {"posterior"}
    assert student.card.training.options["teacher's classes"] == {"posterior": "posterior"}
    both = ["--model", str(segresnet), "--model", str(path), "--dataset", str(raw_dataset), "--device", "cpu"]
    assert main(["--task", "evaluate", *both, "--labels", "posterior", "--output", str(tmp_path / "one")]) == 0
    values = ModelPackage.open(path).card.metrics["segments"]["posterior"]["dice"]["mean"]
    found = json.loads((tmp_path / "one" / "evaluation.json").read_text(encoding="utf-8"))["models"]
    assert found["blobs-x2"]["summary"]["segments"]["posterior"]["dice"]["mean"] == values
    assert set(found["blobs-segresnet-teacher"]["summary"]["segments"]) == {"posterior"}
    measured = ModelPackage.open(segresnet).card.metrics["segments"]["posterior"]["dice"]["mean"]
    assert found["blobs-segresnet-teacher"]["summary"]["segments"]["posterior"]["dice"]["mean"] == measured


def test_a_run_between_backbones_resumes_bit_for_bit(segresnet: Path, raw_dataset: Path, tmp_path: Path) -> None:
    def run(name: str) -> RunSettings:
        return RunSettings(
            data=DataSettings((raw_dataset,)),
            output=tmp_path / name,
            teacher=segresnet,
            backbone="DynUNet",
            width=3,
            losses={"reco": 1.0},
            cache=tmp_path / "cache",
            epochs=2,
            steps_per_epoch=1,
            batch_size=2,
            device="cpu",
            workers=0,
        )

    with Progress("bar") as progress:
        with pytest.raises(PlanError, match="DynUNet needs at least three stages"):
            prepare_run(run("whole"), progress)
        settings = {name: replace(run(name), backbone="ResidualEncoderUNet") for name in ("whole", "broken")}
        whole = prepare_run(settings["whole"], progress)
        whole.trainer.run()
        broken = prepare_run(settings["broken"], progress).trainer
        save = broken.save

        def killed() -> None:
            save()
            raise KeyboardInterrupt

        broken.save = killed  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            broken.run()
        resumed = prepare_run(settings["broken"], progress, resume=True)
        assert resumed.trainer.epoch == 1
        resumed.trainer.run()
        one, two = (made.trainer.distiller.state_dict() for made in (whole, resumed))
        assert all(torch.equal(one[key], two[key]) for key in one)
        other = replace(settings["broken"], data=replace(settings["broken"].data, labels=("posterior",)))
        with pytest.raises(ReCoKDError, match="other settings: classes, labels, anterior is not there any more"):
            prepare_run(other, progress, resume=True)
        with pytest.raises(ReCoKDError, match="made with other settings: plan, configurations"):
            prepare_run(replace(settings["broken"], backbone="PlainConvUNet"), progress, resume=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--labels", "cortex"], "no label 'cortex'. It has: anterior, posterior"),
        (["--labels", "posterior", "--initial", "{teacher}"], "same labels in the same order"),
        (["--backbone", "DynUNet"], "at least three stages"),
    ],
)
def test_mistakes_are_said_in_words(
    arguments: list[str],
    message: str,
    segresnet: Path,
    raw_dataset: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    filled = [argument.format(teacher=segresnet) for argument in arguments]
    base = ["--task", "distill", "--dataset", str(raw_dataset), "--teacher", str(segresnet)]
    assert main([*base, "--output", str(tmp_path / "out"), *filled, *SHORT]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.*"))


def test_a_dataset_with_labels_that_the_teacher_does_not_know(
    segresnet: Path, raw_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from raw_dataset import make_raw_dataset

    folder = make_raw_dataset(tmp_path / "regions", regions=True)
    dataset = NnunetRawDataset(folder)
    assert [s.name for s in dataset.label_set.segments] == ["whole", "posterior"]
    base = ["--task", "distill", "--dataset", str(folder), "--teacher", str(segresnet), "--width", "1"]
    assert main([*base, "--output", str(tmp_path / "out"), *SHORT]) == 2
    error = capsys.readouterr().err
    assert "does not know whole" in error
    assert "anterior, posterior" in error
    # The one that both have is learned; the region of one value is a label then.
    assert main([*base, "--labels", "posterior", "--output", str(tmp_path / "one"), *SHORT]) == 0
