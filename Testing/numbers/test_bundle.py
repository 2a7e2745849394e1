"""A package run by MONAI's own runner."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from geometries import oblique
from packages import backbone_package, small_package
from ReCoKDLib import bundle
from ReCoKDLib.backbones import BACKBONES
from ReCoKDLib.errors import InputError, OutputError
from ReCoKDLib.image_io import read_volume, write_label_map
from ReCoKDLib.segment import segment
from ReCoKDLib.volume import Volume

TwoBlobs = Callable[..., tuple[Volume, Volume]]


@pytest.fixture
def image(tmp_path: Path, two_blobs: TwoBlobs) -> Path:
    volume, _ = two_blobs(ijk_to_ras=oblique())
    path = tmp_path / "two blobs.nii.gz"
    write_label_map(volume.with_array(volume.array.astype(np.uint8)), path)
    return path


@pytest.mark.parametrize("backbone", BACKBONES)
def test_monai_runs_a_package(backbone: str, tmp_path: Path, image: Path) -> None:
    pytest.importorskip("fire")
    package = backbone_package(tmp_path / "blobs", backbone)
    output = tmp_path / "labels.nii.gz"
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", "configs/inference.json"]
    command += ["--meta_file", "configs/metadata.json", "--bundle_root", ".", "--device", "cpu"]
    command += ["--input", str(image), "--output", str(output)]
    done = subprocess.run(command, cwd=package, capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    labels = read_volume(output)
    expected = segment(read_volume(image), package, device="cpu").labels
    np.testing.assert_array_equal(labels.array, expected.array)
    np.testing.assert_allclose(labels.ijk_to_ras, expected.ijk_to_ras, atol=1e-4)
    assert len(np.unique(labels.array)) > 1
    # the run leaves nothing in the package
    assert segment(read_volume(image), package, device="cpu").student == f"blobs-{backbone}"


def test_its_function_wants_names_and_keeps_files(tmp_path: Path, image: Path) -> None:
    package = str(small_package(tmp_path / "blobs"))
    with pytest.raises(InputError, match="--input IMAGE --output SEGMENTATION"):
        bundle.segment(package, "", "")
    output = tmp_path / "labels.nii.gz"
    assert bundle.segment(package, [str(image)], str(output), device="cpu").student == "blobs-x4"
    with pytest.raises(OutputError, match="exists already"):
        bundle.segment(package, str(image), str(output), device="cpu")
    bundle.segment(package, str(image), str(output), device="cpu", overwrite=True)
