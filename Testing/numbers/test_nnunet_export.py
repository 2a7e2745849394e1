"""Students as results folders of nnU-Net's, run by nnU-Net itself."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from geometries import oblique, oblique_left_handed
from nnunet_oracle import nnunet_files, single_precision
from packages import small_card, small_package
from plans import plans_json
from ReCoKDLib.card import ChannelInfo
from ReCoKDLib.cli import main
from ReCoKDLib.errors import OutputError, PackageError, PlanError
from ReCoKDLib.exchange.checkpoints import read_checkpoint
from ReCoKDLib.exchange.nnunet_export import export_nnunet, results_folder, what_is_lost
from ReCoKDLib.exchange.nnunet_import import import_nnunet
from ReCoKDLib.image_io import read_volume
from ReCoKDLib.labels import LabelSet
from ReCoKDLib.networks import build_network
from ReCoKDLib.package import ModelPackage, write_package
from ReCoKDLib.plan import Plan
from ReCoKDLib.segment import segment_files
from ReCoKDLib.students import shipped_folder
from ReCoKDLib.volume import Volume

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")

REQUIRED = 0.9999
RESULTS = "nnUNetTrainer__nnUNetPlans__3d_fullres"
DATASET = "Dataset901_Blobs"
REGIONS = {"labels": {"background": 0, "whole": [1, 2], "core": 2}, "regions_class_order": [1, 2]}


@pytest.fixture
def student(tmp_path: Path) -> ModelPackage:
    return ModelPackage.open(small_package(tmp_path / "blobs-x4.recokd.zip"))


def two_channel_student(path: Path, orientation: str | None = "RAS", **card: Any) -> ModelPackage:
    """Random weights: two channels, overlapping regions, two folds; it is no flip's or permutation's equal."""
    plan = Plan.from_nnunet(plans_json(features=(4, 8), schemes=("ZScoreNormalization",) * 2, spacing=(2.0, 1.0, 1.3)))
    label_set = LabelSet.from_dataset_json(REGIONS)
    folds = []
    for seed in range(2):
        torch.manual_seed(seed)
        network = build_network(plan.architecture, 2, label_set.number_of_heads)
        folds.append({key: tensor * (4 if "seg_layers" in key else 1) for key, tensor in network.state_dict().items()})
    channels = (ChannelInfo("T1", "MR"), ChannelInfo("T2", "MR"))
    written = small_card("two", channels=channels, orientation=orientation, mirror_axes=(0, 2), **card)
    return ModelPackage.open(write_package(path, written, plan, label_set, folds))


def write_image(volume: Volume, path: Path) -> Path:
    image = sitk.GetImageFromArray(volume.array[0].astype(np.float32))
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.ijk_to_ras
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    sitk.WriteImage(image, str(path))
    return path


def assert_same_labels(ours: Path, theirs: Path, values: set[int]) -> None:
    a, b = read_volume(ours), read_volume(theirs)
    assert a.same_grid(b)
    assert set(np.unique(b.array).tolist()) == values
    agreement = float((a.array == b.array).mean())
    print(f"{theirs.name}: {100 * agreement:.4f} % of {a.array.size} voxels have the same label")
    assert agreement >= REQUIRED


def predict(command: str, *arguments: object, results: Path) -> str:
    """One of nnU-Net's commands, as a process of its own."""
    program = Path(sys.executable).parent / command
    if not program.exists():
        pytest.skip(f"needs {command}")
    environment = {**os.environ, **dict.fromkeys(("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"), str(results))}
    whole = [str(program), *map(str, arguments), "-f", "0", "-npp", "1", "-nps", "1", "-device", "cpu"]
    run = subprocess.run(whole, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


@pytest.mark.parametrize(
    "command", ["nnUNetv2_predict_from_modelfolder", pytest.param("nnUNetv2_predict", marks=pytest.mark.slow)]
)
def test_the_shipped_student_runs_under_nnunet(tmp_path: Path, command: str) -> None:
    """nnU-Net unmodified and mirrored, on a sample case as it is and turned, mirrored and in another order of axes."""
    case = read_volume(shipped_folder() / "SampleCases" / "hippocampus_025_0000.nii.gz")
    images = tmp_path / "images"
    images.mkdir()
    write_image(case, images / "asis_0000.nii.gz")
    turned = case.reoriented("PSL")
    directions = turned.ijk_to_ras / np.array([*np.linalg.norm(turned.ijk_to_ras[:3, :3], axis=0), 1.0])
    tilt = oblique() @ np.diag([1.0, 1 / 1.1, 1 / 1.3, 1.0])
    write_image(replace(turned, ijk_to_ras=tilt @ directions), images / "turned_0000.nii.gz")
    assert main(["export", "nnunet", "hippocampus-x4", "--output", str(tmp_path / "results")]) == 0
    results = tmp_path / "results" / "Dataset004_Hippocampus" / RESULTS
    if command == "nnUNetv2_predict":  # as Slicer's nnU-Net calls it
        trainer, plans, configuration = RESULTS.split("__")
        chosen = ["-d", results.parent.name, "-tr", trainer, "-p", plans, "-c", configuration]
    else:
        chosen = ["-m", str(results)]
    predict(command, *chosen, "-i", images, "-o", tmp_path / "theirs", results=tmp_path / "results")
    for name in ("asis", "turned"):
        ours = tmp_path / f"{name}.nii.gz"
        segment_files([images / f"{name}_0000.nii.gz"], "hippocampus-x4", ours, device="cpu", mirroring=True)
        assert_same_labels(ours, tmp_path / "theirs" / f"{name}.nii.gz", {0, 1, 2})


@pytest.mark.usefixtures("nnunet")
@pytest.mark.parametrize("mirroring", [False, True])
@pytest.mark.parametrize("orientation", ["RAS", None, "LPS"])
def test_two_channels_and_regions_run_under_nnunet(
    orientation: str | None, mirroring: bool, two_blobs: Callable[..., tuple[Volume, Volume]], tmp_path: Path
) -> None:
    """In any orientation where nnU-Net brings images to RAS too; else on images that are stored as it wants them."""
    package = two_channel_student(tmp_path / "two", orientation)
    results = export_nnunet(package, tmp_path / "nnunet")
    volume, _ = two_blobs(ijk_to_ras=oblique_left_handed(), channels=2)
    if orientation == "LPS":
        volume = volume.reoriented("LPS")
    files = [
        write_image(volume.with_array(volume.array[[channel]]), tmp_path / f"case_000{channel}.nii.gz")
        for channel in range(2)
    ]
    ours = tmp_path / "ours.nii.gz"
    segment_files(files, package, ours, device="cpu", mirroring=mirroring)
    with single_precision():
        theirs = nnunet_files(results, ["0", "1"], files, tmp_path / "theirs", mirroring)
    assert_same_labels(ours, theirs, {0, 1, 2})


def test_import_gives_back_what_was_exported(tmp_path: Path) -> None:
    package = two_channel_student(tmp_path / "two")
    export_nnunet(package, tmp_path / "nnunet")
    again = ModelPackage.open(import_nnunet(tmp_path / "nnunet", tmp_path / "again.recokd.zip"))
    assert again.plan == package.plan
    assert again.label_set == package.label_set
    for fold in range(2):
        weights = again.weights(fold)
        assert weights.keys() == package.weights(fold).keys()
        assert all(torch.equal(tensor, weights[key]) for key, tensor in package.weights(fold).items())
    assert (again.card.orientation, again.card.mirror_axes, again.card.folds) == ("RAS", (0, 2), 2)
    assert again.card.training.options["folds"] == ["0", "1"]
    assert [channel.name for channel in again.card.channels] == ["T1", "T2"]


def test_a_checkpoint_has_every_name_of_every_weight(student: ModelPackage, tmp_path: Path) -> None:
    content = read_checkpoint(export_nnunet(student, tmp_path / "r") / "fold_0" / "checkpoint_final.pth")
    expected = build_network(student.plan.architecture, 1, 3).state_dict()
    assert content["network_weights"].keys() == expected.keys()
    assert "decoder.encoder.stages.0.0.convs.0.all_modules.0.weight" in content["network_weights"]
    assert all(tensor.dtype == torch.float32 for tensor in content["network_weights"].values())
    assert content["trainer_name"] == "nnUNetTrainer"
    assert content["inference_allowed_mirroring_axes"] == (0, 1, 2)


def test_no_mirror_axes_are_none(tmp_path: Path) -> None:
    """An empty tuple would stop nnU-Net."""
    package = ModelPackage.open(small_package(tmp_path / "p", mirror_axes=()))
    content = read_checkpoint(export_nnunet(package, tmp_path / "r") / "fold_0" / "checkpoint_final.pth")
    assert content["inference_allowed_mirroring_axes"] is None


def test_half_precision_becomes_single(tmp_path: Path) -> None:
    package = ModelPackage.open(small_package(tmp_path / "p", dtype="float16"))
    content = read_checkpoint(export_nnunet(package, tmp_path / "r") / "fold_0" / "checkpoint_final.pth")
    assert {tensor.dtype for tensor in content["network_weights"].values()} == {torch.float32}


def test_the_folder_has_the_names_by_which_nnunet_finds_it(student: ModelPackage, tmp_path: Path) -> None:
    expected = tmp_path / DATASET / RESULTS
    for given in (tmp_path, tmp_path / DATASET, expected):
        assert results_folder(student, given) == expected
    assert results_folder(student, tmp_path / "Dataset902_Other") == tmp_path / "Dataset902_Other" / RESULTS
    with pytest.raises(OutputError, match=f"Call the folder {RESULTS}"):
        results_folder(student, tmp_path / "nnUNetTrainer__nnUNetPlans__3d_lowres")


@pytest.mark.parametrize("name", ["Blobs", "Dataset001/../../elsewhere", ""])
def test_other_names_of_datasets_are_replaced(student: ModelPackage, tmp_path: Path, name: str) -> None:
    package = replace(student, plan=replace(student.plan, dataset_name=name))
    assert results_folder(package, tmp_path) == tmp_path / "Dataset_blobs-x4" / RESULTS


@pytest.mark.parametrize("name", ["../x", "a/b", "a__b", ""])
def test_names_that_leave_the_folder_are_refused(student: ModelPackage, tmp_path: Path, name: str) -> None:
    for plan in (replace(student.plan, plans_name=name), replace(student.plan, configuration=name)):
        with pytest.raises(PlanError, match="cannot be called"):
            export_nnunet(replace(student, plan=plan), tmp_path)


def test_nothing_is_overwritten_unasked(student: ModelPackage, tmp_path: Path) -> None:
    folder = export_nnunet(student, tmp_path / "r")
    before = (folder / "plans.json").stat().st_mtime_ns
    with pytest.raises(OutputError, match="exists already"):
        export_nnunet(student, tmp_path / "r")
    assert (folder / "plans.json").stat().st_mtime_ns == before
    (folder / "stale").write_text("")
    export_nnunet(student, tmp_path / "r", overwrite=True)
    assert not (folder / "stale").exists()


def test_a_training_is_not_overwritten_even_when_asked(student: ModelPackage, tmp_path: Path) -> None:
    folder = export_nnunet(student, tmp_path / "r")
    description = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    del description["recokd"]
    (folder / "dataset.json").write_text(json.dumps(description), encoding="utf-8")
    with pytest.raises(OutputError, match="is not an export of ReCoKD"):
        export_nnunet(student, tmp_path / "r", overwrite=True)


def test_nothing_half_written_stays(student: ModelPackage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OutputError, match="No space left"):
        export_nnunet(student, tmp_path / "r")
    assert [path.name for path in (tmp_path / "r").rglob("*")] == [DATASET]


def test_what_nnunet_cannot_run_is_refused(student: ModelPackage, tmp_path: Path) -> None:
    guided = replace(student, card=replace(student.card, guidance_channels=2))
    plan = copy.copy(student.plan)
    foreign = replace(plan.architecture, network_class_name="monai.networks.nets.dynunet.DynUNet")
    object.__setattr__(plan, "architecture", foreign)
    twins = replace(student.label_set, segments=(student.label_set.segments[0],) * 2)
    ignored = replace(student.label_set, segments=(replace(student.label_set.segments[0], name="ignore"),))
    for package, error, message in (
        (guided, PackageError, "guided by clicks, which nnU-Net cannot give"),
        (replace(student, plan=plan), PlanError, "is a DynUNet .* nnU-Net cannot build. Export it as ONNX"),
        (replace(student, label_set=twins), PackageError, "cannot tell apart: anterior, anterior"),
        (replace(student, label_set=ignored), PackageError, "differ .* from 'background' and 'ignore'"),
    ):
        with pytest.raises(error, match=message):
            export_nnunet(package, tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_what_is_lost_is_said(student: ModelPackage, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(what_is_lost(student)) == 1
    path = small_package(tmp_path / "lps", orientation="LPS")
    assert main(["export", "nnunet", str(path), "--output", str(tmp_path / DATASET)]) == 0
    out = capsys.readouterr().out
    assert f"Exported blobs-x4: {tmp_path / DATASET / RESULTS}" in out
    assert f"nnUNetv2_predict -d {DATASET} -tr nnUNetTrainer -p nnUNetPlans -c 3d_fullres -f 0 --disable_tta" in out
    assert "Note: nnU-Net cannot bring images to LPS" in out
    assert main(["export", "nnunet", str(path), "--output", str(tmp_path / DATASET)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["export", "nnunet", str(path), "--output", str(tmp_path / "plain" / RESULTS)]) == 0
    assert "want it in a folder whose name begins with Dataset" in capsys.readouterr().out
