"""``--task check`` finds what ``--task distill`` would refuse before its first step."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from packages import TWO_WIDE, small_card, small_package, small_weights
from plans import small_plan
from raw_dataset import make_raw_dataset
from ReCoKDLib.files import read_json, write_json
from ReCoKDLib.networks import build_network
from ReCoKDLib.package import ModelPackage, write_package
from ReCoKDTrainingLib.cli import main
from ReCoKDTrainingLib.datasets import NnunetRawDataset

SHORT = ["--epochs", "1", "--steps-per-epoch", "1", "--batch-size", "1", "--workers", "0", "--device", "cpu"]
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return make_raw_dataset(tmp_path / "Dataset901_Blobs", cases=4, geometries=("axis-aligned",))


def described(dataset: Path, **changes: object) -> None:
    write_json(dataset / "dataset.json", {**read_json(dataset / "dataset.json"), **changes}, overwrite=True)


def without_structures(dataset: Path, unlabelled: Sequence[int]) -> None:
    """Some cases lose their label map, the others' are all background."""
    for number, path in enumerate(sorted((dataset / "labelsTr").iterdir())):
        if number in unlabelled:
            path.unlink()
            continue
        image = sitk.ReadImage(str(path))
        empty = sitk.GetImageFromArray(np.zeros_like(sitk.GetArrayFromImage(image)))
        empty.CopyInformation(image)
        sitk.WriteImage(empty, str(path))


def refused(arguments: Sequence[str], tmp_path: Path, capsys: Capture) -> str:
    """What both say; that of the check."""
    assert main(["--task", "distill", *arguments, "--output", str(tmp_path / "run"), *SHORT]) == 2
    error = capsys.readouterr().err.strip().removeprefix("recokd-training: ")
    assert main(["--task", "check", *arguments, "--output", str(tmp_path / "checked")]) == 1
    told = capsys.readouterr().out
    (line,) = [line for line in told.splitlines() if line.startswith("ERROR")]
    assert error in line
    return line


def test_regions_against_labels(dataset: Path, tmp_path: Path, capsys: Capture) -> None:
    described(dataset, labels={"background": 0, "anterior": [1, 2], "posterior": [2]}, regions_class_order=[1, 2])
    teacher = small_package(tmp_path / "teacher.recokd.zip")
    arguments = ["--dataset", str(dataset), "--teacher", str(teacher)]
    assert "losses: Of teacher and student" in refused([*arguments, "--losses", "reco=1,logits=1"], tmp_path, capsys)


def test_regions_against_labels_where_the_teacher_would_stand_in(
    dataset: Path, tmp_path: Path, capsys: Capture
) -> None:
    described(dataset, labels={"background": 0, "anterior": [1, 2], "posterior": [2]}, regions_class_order=[1, 2])
    (dataset / "labelsTr" / "blobs_001.nii.gz").unlink()
    teacher = small_package(tmp_path / "teacher.recokd.zip")
    arguments = ["--dataset", str(dataset), "--teacher", str(teacher)]
    assert "can't stand in where nobody annotated" in refused(arguments, tmp_path, capsys)


def test_a_teacher_of_several_folds(dataset: Path, tmp_path: Path, capsys: Capture) -> None:
    teacher = small_package(tmp_path / "teacher.recokd.zip", folds=2)
    line = refused(["--dataset", str(dataset), "--teacher", str(teacher)], tmp_path, capsys)
    assert "is an ensemble of 2 folds" in line


def test_annotated_cases_without_any_structure(dataset: Path, tmp_path: Path, capsys: Capture) -> None:
    without_structures(dataset, unlabelled=(0, 1))
    (tmp_path / "split.json").write_text(json.dumps({"train": [f"blobs_00{n}" for n in range(3)], "val": []}))
    teacher = small_package(tmp_path / "teacher.recokd.zip")
    arguments = ["--dataset", str(dataset), "--teacher", str(teacher), "--split", str(tmp_path / "split.json")]
    assert "labels: No case has a labelled voxel" in refused(arguments, tmp_path, capsys)


def test_initial_weights_for_other_labels(dataset: Path, tmp_path: Path, capsys: Capture) -> None:
    described(dataset, labels={"background": 0, "posterior": 1, "anterior": 2})
    model = small_package(tmp_path / "model.recokd.zip")
    arguments = ["--dataset", str(dataset), "--teacher", str(model), "--initial", str(model)]
    assert "initial weights: The model blobs-x4 has the labels" in refused(arguments, tmp_path, capsys)


def test_initial_weights_for_other_images(dataset: Path, tmp_path: Path, capsys: Capture) -> None:
    """Of the same width, so that every second input would be taken for every second channel."""
    model = small_package(tmp_path / "model.recokd.zip")
    write_json(tmp_path / "plan.json", ModelPackage.open(model).plan.to_nnunet())
    plan = small_plan(features=TWO_WIDE, schemes=("ZScoreNormalization",) * 2)
    card = small_card(channels=small_card().channels * 2)
    labels = NnunetRawDataset(dataset).label_set
    initial = write_package(tmp_path / "initial.recokd.zip", card, plan, labels, [small_weights(plan)])
    arguments = ["--dataset", str(dataset), "--plan", str(tmp_path / "plan.json"), "--width", "0"]
    told = refused([*arguments, "--initial", str(initial)], tmp_path, capsys)
    assert "initial weights: The model blobs-x4 needs 2 channel(s), the dataset Dataset901_Blobs has 1" in told


def test_initial_weights_of_a_teacher_and_of_a_student(dataset: Path, tmp_path: Path, capsys: Capture) -> None:
    model = small_package(tmp_path / "model.recokd.zip")
    plan = ModelPackage.open(model).plan.to_nnunet()
    write_json(tmp_path / "plan.json", plan)
    plan["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["features_per_stage"] = [16, 32]
    write_json(tmp_path / "wider.json", plan)
    arguments = ["--dataset", str(dataset), "--initial", str(model), "--plan"]
    wider = [*arguments, str(tmp_path / "wider.json"), "--width", "0"]
    assert "dataset: initial weights: The weights do not fit" in refused(wider, tmp_path, capsys)
    shutil.rmtree(tmp_path / "run")
    arguments.append(str(tmp_path / "plan.json"))
    narrower = [*arguments, "--width", "1", "--output", str(tmp_path / "narrower")]
    assert main(["--task", "check", *narrower]) == 0
    assert main(["--task", "check", *arguments, "--output", str(tmp_path / "full")]) == 0
    assert main(["--task", "teacher", *arguments, "--output", str(tmp_path / "run"), *SHORT]) == 0
    again = ["--config", str(tmp_path / "run" / "config.json"), "--task", "check"]
    assert main([*again, "--output", str(tmp_path / "again")]) == 0


def test_initial_weights_that_do_not_fit_are_told_beside_losses_that_do_not(
    dataset: Path, tmp_path: Path, capsys: Capture
) -> None:
    described(dataset, labels={"background": 0, "anterior": [1, 2], "posterior": [2]}, regions_class_order=[1, 2])
    teacher = small_package(tmp_path / "teacher.recokd.zip")
    plan, label_set = ModelPackage.open(teacher).plan.with_width(1), NnunetRawDataset(dataset).label_set
    narrow = [build_network(plan.architecture, plan.channels, label_set.number_of_heads).state_dict()]
    initial = write_package(tmp_path / "initial.recokd.zip", small_card(), plan, label_set, narrow)
    arguments = ["--dataset", str(dataset), "--teacher", str(teacher), "--losses", "reco=1,logits=1"]
    arguments += ["--initial", str(initial), "--width", "0", "--output", str(tmp_path / "checked")]
    assert main(["--task", "check", *arguments]) == 1
    told = capsys.readouterr().out
    assert "dataset: losses: Of teacher and student" in told
    assert "dataset: initial weights: The weights do not fit" in told


def test_nothing_to_choose_the_best_weights_by(dataset: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "split.json").write_text(json.dumps({"train": [f"blobs_00{n}" for n in range(4)], "val": []}))
    arguments = ["--dataset", str(dataset), "--split", str(tmp_path / "split.json"), "--ship", "best"]
    assert "split: Early stopping and the best weights need held-out cases" in refused(arguments, tmp_path, capsys)


def test_images_that_no_plan_can_be_made_for(tmp_path: Path, capsys: Capture) -> None:
    dataset = make_raw_dataset(tmp_path / "Dataset902_Flat", cases=4, shape=(9, 9, 9), geometries=("axis-aligned",))
    arguments = ["--dataset", str(dataset), "--memory", "0.001"]
    assert "ERROR  dataset: plan: " in refused(arguments, tmp_path, capsys)


def test_what_can_be_trained_is_not_refused(dataset: Path, tmp_path: Path, capsys: Capture) -> None:
    teacher = small_package(tmp_path / "teacher.recokd.zip")
    arguments = ["--dataset", str(dataset), "--teacher", str(teacher), "--losses", "reco=1,logits=1"]
    assert main(["--task", "check", *arguments, "--output", str(tmp_path / "checked")]) == 0
    assert "0 errors" in capsys.readouterr().out
