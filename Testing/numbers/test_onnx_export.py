"""Students as ONNX files, run by ONNX Runtime."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from packages import backbone_package, small_package
from ReCoKDLib.backbones import BACKBONES
from ReCoKDLib.cli import main
from ReCoKDLib.errors import MissingDependencyError, OutputError, PackageError
from ReCoKDLib.exchange import onnx_export
from ReCoKDLib.exchange.onnx_export import export_onnx
from ReCoKDLib.package import ModelPackage
from ReCoKDLib.plan import Plan
from ReCoKDLib.prediction import Predictor

runtime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")


def session_of(path: Path) -> Any:
    return runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_computes_the_same_on_any_size(backbone: str, tmp_path: Path) -> None:
    package = ModelPackage.open(backbone_package(tmp_path / "blobs", backbone))
    export = export_onnx(package, tmp_path / "Modèle.onnx")
    print(f"{backbone}: {export.difference:.2g}")
    assert export.difference < 1e-4
    session = session_of(export.path)
    (network,) = Predictor.from_package(package, "cpu").networks
    for shape in ((1, 1, 16, 16, 16), (3, 1, 8, 24, 32)):
        image = torch.randn(shape, generator=torch.Generator().manual_seed(5))
        with torch.no_grad():
            expected = network(image).numpy()
        (found,) = session.run(["logits"], {"image": image.numpy()})
        assert np.ptp(expected) > 0.01
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_folds_are_averaged_inside_the_graph(tmp_path: Path) -> None:
    package = ModelPackage.open(small_package(tmp_path / "blobs", folds=3))
    export_onnx(package, tmp_path / "mean.onnx")
    networks = Predictor.from_package(package, "cpu").networks
    image = torch.randn((1, 1, 16, 16, 16), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        each = [network(image).numpy() for network in networks]
    (found,) = session_of(tmp_path / "mean.onnx").run(None, {"image": image.numpy()})
    np.testing.assert_allclose(found, np.mean(each, axis=0), atol=1e-4)
    assert np.abs(each[0] - found).max() > 0.01


def test_the_file_tells_how_to_run_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    package = small_package(tmp_path / "blobs")
    assert main(["export", "onnx", str(package), "--output", str(tmp_path / "blobs.onnx")]) == 0
    assert "Largest difference of the logits from PyTorch's" in capsys.readouterr().out
    session = session_of(tmp_path / "blobs.onnx")
    (image,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (image.name, image.shape) == ("image", ["batch", 1, "x", "y", "z"])
    assert (logits.name, logits.shape) == ("logits", ["batch", 3, "x", "y", "z"])
    properties = session.get_modelmeta().custom_metadata_map
    told = json.loads(properties["recokd"])
    opened = ModelPackage.open(package)
    assert told["package_checksum"] == properties["package_checksum"] == opened.checksum
    assert told["intended_use"] == properties["intended_use"] == "Research use only. Not a medical device."
    assert (told["orientation"], told["spacing"], told["patch_size"]) == ("RAS", [1.0] * 3, [16] * 3)
    assert told["size_must_be_multiple_of"] == [2, 2, 2]
    assert [channel["scheme"] for channel in told["normalization"]] == ["ZScoreNormalization"]
    assert [label["name"] for label in told["labels"]] == ["anterior", "posterior"]
    assert Plan.from_nnunet(told["plan"]) == opened.plan


def test_a_file_that_computes_something_else_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_export, "LARGEST_DIFFERENCE", 0.0)
    with pytest.raises(OutputError, match="gave other logits than PyTorch .* so it was not kept"):
        export_onnx(small_package(tmp_path / "blobs"), tmp_path / "out" / "blobs.onnx")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_network_without_onnx_form_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("Exporting the operator 'x' is not supported\nmore")

    monkeypatch.setattr(torch.onnx, "export", fails)
    with pytest.raises(PackageError, match="blobs-x4 has no ONNX form .*operator 'x' is not supported"):
        export_onnx(small_package(tmp_path / "blobs"), tmp_path / "blobs.onnx")
    assert not (tmp_path / "blobs.onnx").exists()


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    package = small_package(tmp_path / "blobs")
    (tmp_path / "blobs.onnx").write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        export_onnx(package, tmp_path / "blobs.onnx")
    assert (tmp_path / "blobs.onnx").read_text() == "mine"
    with pytest.raises(OutputError, match=r"does not end in \.onnx"):
        export_onnx(package, tmp_path / "blobs.zip")
    export_onnx(package, tmp_path / "blobs.onnx", overwrite=True)
    assert session_of(tmp_path / "blobs.onnx").get_inputs()[0].name == "image"


def test_without_the_runtime_the_way_to_install_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "recokd\[onnx\]"'):
        export_onnx(small_package(tmp_path / "blobs"), tmp_path / "blobs.onnx")
