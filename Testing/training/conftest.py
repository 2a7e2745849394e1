"""Fixtures of the training tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from raw_dataset import make_raw_dataset
from ReCoKDTrainingLib.cli import main


@pytest.fixture(scope="session")
def raw_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six cases of two labels in one channel, oblique ones among them; not to be changed by a test."""
    return make_raw_dataset(tmp_path_factory.mktemp("raw data, größer") / "Dataset901_Blobs")


@pytest.fixture(scope="session")
def teacher(raw_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package of a teacher of `raw_dataset`, in the folder of its short run; not to be changed by a test."""
    output = tmp_path_factory.mktemp("Lehrer, groß") / "run"
    short = ["--epochs", "2", "--steps-per-epoch", "2", "--batch-size", "2", "--workers", "0", "--device", "cpu"]
    assert main(["--task", "teacher", "--dataset", str(raw_dataset), "--output", str(output), *short]) == 0
    return output / "blobs-teacher.recokd.zip"
