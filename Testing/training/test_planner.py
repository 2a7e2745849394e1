"""The planner against nnU-Net's own on the same fingerprints, and what it refuses."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ReCoKDLib.errors import DatasetError, PlanError
from ReCoKDLib.labels import LabelSet
from ReCoKDLib.networks import build_network
from ReCoKDLib.plan import Plan
from ReCoKDTrainingLib.fingerprint import CaseFingerprint, Fingerprint
from ReCoKDTrainingLib.planner import plan_dataset, with_backbone
from ReCoKDTrainingLib.topology import topology_for

Triple = tuple[float, float, float]


def fingerprint_of(
    spacings: Sequence[Triple], shapes: Sequence[Sequence[int]], channels: int = 1, share: float = 1.0
) -> Fingerprint:
    cases = tuple(
        CaseFingerprint(
            f"case_{n:03d}",
            (int(shape[0]), int(shape[1]), int(shape[2])),
            (float(spacing[0]), float(spacing[1]), float(spacing[2])),
            share,
            "RAS",
            ((0.0, 50.0, 100.0),) * channels,
            "0" * 64,
        )
        for n, (spacing, shape) in enumerate(zip(spacings, shapes, strict=True))
    )
    intensities = {
        "max": 1000.0,
        "mean": 100.0,
        "median": 90.0,
        "min": -50.0,
        "percentile_00_5": -20.0,
        "percentile_99_5": 300.0,
        "std": 40.0,
    }
    return Fingerprint(cases, (intensities,) * channels)


def scattered(
    seed: int, count: int, spacing: Triple, shape: Sequence[int], spread: float = 0.1, **options: Any
) -> Fingerprint:
    """Cases whose sizes, and whose spacings along the coarsest axis, scatter about the given ones."""
    random = np.random.default_rng(seed)
    coarse = int(np.argmax(spacing))
    spacings, shapes = [], []
    for _ in range(count):
        one = list(spacing)
        one[coarse] *= float(random.choice([0.8, 1.0, 1.0, 1.2])) if spread else 1.0
        spacings.append((one[0], one[1], one[2]))
        shapes.append([max(1, round(n * (1 + spread * random.uniform(-1, 1)))) for n in shape])
    return fingerprint_of(spacings, shapes, **options)


LABELS = LabelSet.from_dataset_json({"labels": {"background": 0, "anterior": 1, "posterior": 2}})
REGIONS = LabelSet.from_dataset_json(
    {
        "labels": {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3, "ignore": 4},
        "regions_class_order": [1, 2, 3],
    }
)
DATASETS: dict[str, tuple[Fingerprint, tuple[str, ...], LabelSet, float]] = {
    "abdominal CT": (scattered(1, 60, (3.0, 0.8, 0.8), (300, 512, 512)), ("CT",), LABELS, 8.0),
    "square CT": (scattered(2, 30, (3.0, 0.8, 0.8), (300, 512, 512), 0.0), ("CT",), LABELS, 8.0),
    "brain, two channels, regions": (
        scattered(3, 200, (1.0, 1.0, 1.0), (140, 170, 140), 0.1, channels=2, share=0.3),
        ("T1", "FLAIR"),
        REGIONS,
        8.0,
    ),
    "prostate": (
        scattered(4, 32, (3.6, 0.6, 0.6), (20, 320, 320), channels=2),
        ("T2", "ADC"),
        LABELS,
        8.0,
    ),
    "cardiac, thick slices last": (scattered(5, 100, (1.5, 1.5, 10.0), (220, 250, 9)), ("MRI",), LABELS, 8.0),
    "hippocampus": (scattered(6, 200, (1.0, 1.0, 1.0), (36, 50, 35), 0.08), ("MRI",), LABELS, 8.0),
    "hippocampus, small memory": (
        scattered(6, 200, (1.0, 1.0, 1.0), (36, 50, 35), 0.08),
        ("MRI",),
        LABELS,
        0.4,
    ),
    "a handful of large cases": (
        scattered(7, 5, (1.0, 0.7, 0.7), (180, 400, 400)),
        ("noNorm",),
        LABELS,
        24.0,
    ),
    "microscopy": (scattered(8, 10, (0.05, 0.01, 0.01), (64, 700, 900)), ("rescale_to_0_1",), LABELS, 8.0),
    "odd medians": (scattered(9, 8, (2.0, 1.9, 0.9), (33, 41, 77), 0.3), ("rgb_to_0_1",), LABELS, 8.0),
}
NnunetPlanner = Callable[..., dict[str, Any]]
RESIDUAL = {
    "resenc-m": "nnUNetPlannerResEncM",
    "resenc-l": "nnUNetPlannerResEncL",
    "resenc-xl": "nnUNetPlannerResEncXL",
}


@pytest.fixture
def nnunet_planner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NnunetPlanner:
    """nnU-Net's own planners on a made-up dataset."""
    module = pytest.importorskip("nnunetv2.experiment_planning.experiment_planners.default_experiment_planner")
    residual = pytest.importorskip(
        "nnunetv2.experiment_planning.experiment_planners.residual_unets.residual_encoder_unet_planners"
    )
    raw, preprocessed = tmp_path / "raw", tmp_path / "preprocessed"
    # Not every version reads the variables late; both ways lead to the temporary folders.
    for name, folder in (("nnUNet_raw", raw), ("nnUNet_preprocessed", preprocessed)):
        monkeypatch.setenv(name, str(folder))
        monkeypatch.setattr(module, name, str(folder))
    estimate = module.ExperimentPlanner.static_estimate_VRAM_usage

    def estimate_without_allocating(*args: Any) -> Any:
        with torch.device("meta"):
            return estimate(*args)

    monkeypatch.setattr(
        module.ExperimentPlanner, "static_estimate_VRAM_usage", staticmethod(estimate_without_allocating)
    )

    def plan(
        fingerprint: Fingerprint,
        channels: Sequence[str],
        labels: LabelSet,
        memory_gb: float | None = None,
        planner: str = "default",
    ) -> dict[str, Any]:
        name = "Dataset999_Made"
        dataset = {
            "channel_names": {str(n): channel for n, channel in enumerate(channels)},
            **labels.to_dataset_json(),
            "numTraining": len(fingerprint.cases),
            "file_ending": ".nii.gz",
            "overwrite_image_reader_writer": "SimpleITKIO",
        }
        for folder in (raw / name / "imagesTr", raw / name / "labelsTr", preprocessed / name):
            folder.mkdir(parents=True)
        (raw / name / "imagesTr" / "a_0000.nii.gz").touch()
        (raw / name / "dataset.json").write_text(json.dumps(dataset), encoding="utf-8")
        (preprocessed / name / "dataset_fingerprint.json").write_text(
            json.dumps(fingerprint.to_nnunet()), encoding="utf-8"
        )
        options = {} if memory_gb is None else {"gpu_memory_target_in_gb": memory_gb}
        kind = getattr(residual, RESIDUAL[planner]) if planner in RESIDUAL else module.ExperimentPlanner
        made = kind(name, **options)
        made.plan_experiment()
        written = preprocessed / name / f"{made.plans_identifier}.json"
        result: dict[str, Any] = json.loads(written.read_text(encoding="utf-8"))
        return result

    return plan


@pytest.mark.parametrize("dataset", DATASETS)
def test_plan_is_that_of_nnunet(dataset: str, nnunet_planner: NnunetPlanner) -> None:
    fingerprint, channels, labels, memory_gb = DATASETS[dataset]
    theirs = nnunet_planner(fingerprint, channels, labels, memory_gb)
    ours = plan_dataset(fingerprint, channels, labels, dataset_name="Dataset999_Made", memory_gb=memory_gb).to_nnunet()

    require_the_same_plan(theirs, ours)


@pytest.mark.parametrize("planner", RESIDUAL)
@pytest.mark.parametrize("dataset", ["abdominal CT", "prostate", "cardiac, thick slices last", "hippocampus"])
def test_plan_of_residual_encoders_is_that_of_nnunet(dataset: str, planner: str, nnunet_planner: NnunetPlanner) -> None:
    fingerprint, channels, labels, _ = DATASETS[dataset]
    theirs = nnunet_planner(fingerprint, channels, labels, planner=planner)
    ours = plan_dataset(fingerprint, channels, labels, dataset_name="Dataset999_Made", planner=planner).to_nnunet()
    # Their plans share the default plan's preprocessed data in nnU-Net; ours are never read by that name.
    del (
        theirs["configurations"]["3d_fullres"]["data_identifier"],
        ours["configurations"]["3d_fullres"]["data_identifier"],
    )
    require_the_same_plan(theirs, ours)


def test_residual_encoders_differ_in_size() -> None:
    """The comparison above would say little if M, L and XL were the same plan."""
    made = [plan_dataset(*DATASETS["abdominal CT"][:3], planner=planner) for planner in ("default", *RESIDUAL)]
    patches = [math.prod(plan.patch_size) * plan.batch_size for plan in made]
    assert patches[1:] == sorted(set(patches[1:]))
    assert [plan.architecture.backbone.name for plan in made] == ["PlainConvUNet"] + ["ResidualEncoderUNet"] * 3
    assert made[1].architecture.arch_kwargs["n_blocks_per_stage"][:4] == [1, 3, 4, 6]


def require_the_same_plan(theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    # nnU-Net's file is read to the same plan.
    assert Plan.from_nnunet(theirs).architecture == Plan.from_nnunet(ours).architecture
    theirs_3d = theirs["configurations"]["3d_fullres"]
    ours_3d = json.loads(json.dumps(ours["configurations"]["3d_fullres"]))
    assert ours_3d.pop("spacing") == pytest.approx(theirs_3d.pop("spacing"), rel=1e-12)
    assert ours_3d == theirs_3d
    assert ours["original_median_spacing_after_transp"] == theirs["original_median_spacing_after_transp"]
    for key in (
        "dataset_name",
        "plans_name",
        "transpose_forward",
        "transpose_backward",
        "foreground_intensity_properties_per_channel",
    ):
        assert ours[key] == theirs[key]


def test_datasets_exercise_the_rules() -> None:
    """The comparison above would say little if all datasets took the same path."""
    plans = {name: plan_dataset(f, c, s, memory_gb=m) for name, (f, c, s, m) in DATASETS.items()}
    assert len({plan.patch_size for plan in plans.values()}) >= 8
    assert {plan.batch_dice for plan in plans.values()} == {False, True}
    assert plans["cardiac, thick slices last"].transpose_forward == (2, 0, 1)
    assert plans["cardiac, thick slices last"].spacing[0] < 10
    assert plans["brain, two channels, regions"].use_mask_for_norm == (True, True)
    assert plans["abdominal CT"].normalization_schemes == ("CTNormalization",)
    assert any((1, 3, 3) in topology_kernels(plan) for plan in plans.values())
    assert {plan.architecture.features_per_stage[-1] for plan in plans.values()} >= {256, 320}


def topology_kernels(plan: Plan) -> list[tuple[int, ...]]:
    return [tuple(kernel) for kernel in plan.architecture.arch_kwargs["kernel_sizes"]]


def test_hippocampus_plan_is_the_published_one() -> None:
    plan = plan_dataset(*DATASETS["hippocampus"][:3])
    assert plan.spacing == (1.0, 1.0, 1.0)
    assert plan.patch_size == (40, 56, 40)
    assert plan.architecture.features_per_stage == (32, 64, 128, 256)
    assert plan.architecture.strides == ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2))


@pytest.mark.parametrize("backbone", ["PlainConvUNet", "ResidualEncoderUNet"])
@pytest.mark.parametrize(
    ("spacing", "patch"),
    [((1.0, 1.0, 1.0), (40, 56, 40)), ((3.0, 0.7, 0.7), (48, 192, 160)), ((1, 2, 4), (96, 64, 16))],
)
def test_memory_estimate_counts_what_the_network_makes(spacing: Triple, patch: Triple, backbone: str) -> None:
    topology = topology_for(spacing, patch)
    counted = 0

    def count(module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> None:
        nonlocal counted
        counted += output.numel()

    with torch.device("meta"):
        network = build_network(topology.architecture(backbone), 1, 3)
        for module in network.modules():
            if isinstance(module, torch.nn.Conv3d | torch.nn.ConvTranspose3d):
                module.register_forward_hook(count)
        network(torch.zeros(1, 1, *topology.patch_size))
        estimated = network.compute_conv_feature_map_size(topology.patch_size)  # type: ignore[operator]
    assert topology.feature_map_values(3, backbone) == estimated
    # nnU-Net reckons with a convolution in the skip of every stride, also where the channels stay and there is none.
    if backbone == "PlainConvUNet":
        assert estimated == counted


def test_spacing_can_be_given() -> None:
    fingerprint, channels, labels, _ = DATASETS["hippocampus"]
    plan = plan_dataset(fingerprint, channels, labels, spacing=(1.0, 1.0, 2.0))
    assert plan.transpose_forward == (2, 0, 1)
    assert plan.spacing == (2.0, 1.0, 1.0)
    assert plan.median_shape[0] == pytest.approx(18, abs=1)


def test_wrong_number_of_channels_is_refused() -> None:
    with pytest.raises(DatasetError, match=r"names 2 channels and the fingerprint has 1.*anew"):
        plan_dataset(DATASETS["hippocampus"][0], ["T1", "T2"], LABELS)


def test_single_slices_are_refused() -> None:
    with pytest.raises(DatasetError, match="single slice"):
        plan_dataset(fingerprint_of([(5.0, 1.0, 1.0)] * 3, [(1, 200, 200)] * 3), ["MRI"], LABELS)


def test_tiny_images_are_refused() -> None:
    with pytest.raises(DatasetError, match="too small"):
        plan_dataset(fingerprint_of([(1.0, 1.0, 1.0)] * 3, [(6, 6, 6)] * 3), ["MRI"], LABELS)


@pytest.mark.parametrize("memory_gb", [0.0, -1.0, float("nan")])
def test_senseless_memory_is_refused(memory_gb: float) -> None:
    with pytest.raises(PlanError, match="must be positive"):
        plan_dataset(DATASETS["hippocampus"][0], ["MRI"], LABELS, memory_gb=memory_gb)


def test_too_little_memory_is_refused() -> None:
    with pytest.raises(PlanError, match="does not suffice"):
        plan_dataset(DATASETS["hippocampus"][0], ["MRI"], LABELS, memory_gb=1e-6)


def test_unknown_names_are_refused() -> None:
    fingerprint, channels, labels, _ = DATASETS["hippocampus"]
    with pytest.raises(PlanError, match="no planner 'resenc-s'. There are: default, resenc-m, resenc-l, resenc-xl"):
        plan_dataset(fingerprint, channels, labels, planner="resenc-s")
    with pytest.raises(PlanError, match="no backbone 'VNet'. There are: PlainConvUNet, .*UNet"):
        with_backbone(plan_dataset(fingerprint, channels, labels), "VNet")
