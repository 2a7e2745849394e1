"""A short distillation on real MRI, from nnU-Net's files to a student that segments: minutes, so in `make test-all`."""

from __future__ import annotations

from pathlib import Path

import pytest

from ReCoKDLib.exchange.nnunet_import import import_nnunet
from ReCoKDLib.package import ModelPackage
from ReCoKDTrainingLib.cli import main

# On two cores these 1,000 steps take 4.5 minutes and reach a mean Dice of 0.48: far from converged and from chance.
STEPS = ["--epochs", "20", "--steps-per-epoch", "50", "--batch-size", "2"]


@pytest.mark.slow
def test_a_student_learns_from_an_imported_teacher(shared_data: Path, tmp_path: Path) -> None:
    teacher = import_nnunet(shared_data / "teacher_hippocampus", tmp_path / "teacher.recokd.zip", orientation="RAS")
    arguments = ["--task", "distill", "--dataset", str(shared_data / "Dataset004_Hippocampus")]
    arguments += ["--split", str(shared_data / "split_hippocampus.json"), "--teacher", str(teacher)]
    arguments += ["--output", str(tmp_path / "run"), "--mirror-axes", "2", "--losses", "reco=1", "--device", "cpu"]
    arguments += STEPS
    assert main(arguments) == 0
    metrics = ModelPackage.open(tmp_path / "run" / "hippocampus-x4.recokd.zip").card.metrics
    assert metrics["cases"] == 40
    assert metrics["mean"]["dice"] > 0.35
