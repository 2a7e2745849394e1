"""OpenVINO and ONNX Runtime give PyTorch's labels; the choice between them; bad input; nothing is sent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from packages import backbone_package, small_package
from ReCoKDLib.backbones import BACKBONES
from ReCoKDLib.cli import main
from ReCoKDLib.engines import base, choosing
from ReCoKDLib.engines.agreement import bf16_against_f32
from ReCoKDLib.engines.compiled import OnnxRuntimeEngine, OpenVinoEngine
from ReCoKDLib.errors import InputError, MissingDependencyError
from ReCoKDLib.image_io import read_volume
from ReCoKDLib.package import ModelPackage
from ReCoKDLib.prediction import Predictor
from ReCoKDLib.segment import LoadedStudent, segment
from ReCoKDLib.students import find_student, shipped_folder
from ReCoKDLib.volume import Volume

TwoBlobs = Callable[..., tuple[Volume, Volume]]
OTHERS = ("openvino", "onnxruntime")
SAMPLE = sorted((shipped_folder() / "SampleCases").glob("*_0000.nii.gz"))[0]


@pytest.fixture(autouse=True)
def _engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are installed; the cache is the test's own, and ``auto`` is what it is for users."""
    for name in OTHERS:
        pytest.importorskip(name) if name != "openvino" else base.require_engine(name)
    for variable in ("XDG_CACHE_HOME", "LOCALAPPDATA", "HOME"):
        monkeypatch.setenv(variable, str(tmp_path / "cache"))
    monkeypatch.delenv("RECOKD_ENGINE")


@pytest.fixture
def package(tmp_path: Path) -> ModelPackage:
    return ModelPackage.open(small_package(tmp_path / "blobs.recokd.zip"))


@pytest.mark.parametrize("name", OTHERS)
def test_the_shipped_students_labels_are_pytorchs(name: str) -> None:
    image = read_volume(SAMPLE)
    expected = segment(image, "hippocampus-x4", device="cpu", engine="torch").labels.array
    found = segment(image, "hippocampus-x4", device="cpu", engine=name)
    assert found.warnings == ()
    assert len(np.unique(expected)) == 3
    assert (found.labels.array == expected).mean() >= 0.9999


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("backbone", sorted(BACKBONES))
def test_every_backbone_runs(backbone: str, name: str, tmp_path: Path) -> None:
    package = ModelPackage.open(backbone_package(tmp_path / "all.recokd.zip", backbone))
    warnings: list[str] = []
    predictor = Predictor.from_package(package, "cpu", engine=name, warn=warnings.append)
    assert warnings == []
    assert predictor.engines[0].name == name
    patch = torch.randn((1, package.plan.channels, *package.plan.patch_size))
    expected = Predictor.from_package(package, "cpu").engines[0](patch)
    torch.testing.assert_close(predictor.engines[0](patch), expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", OTHERS)
def test_folds_flips_and_tiles_of_another_size(name: str, tmp_path: Path, two_blobs: TwoBlobs) -> None:
    package = ModelPackage.open(small_package(tmp_path / "folds.recokd.zip", folds=2))
    image, _ = two_blobs()
    probabilities = []
    for engine in ("torch", name):
        predictor = Predictor.from_package(package, "cpu", mirroring=True, engine=engine)
        found = predictor.predict(image, probabilities=True).probabilities
        assert found is not None
        probabilities.append(found.array)
        patch = torch.zeros((2, package.plan.channels, *(2 * n for n in package.plan.patch_size)))
        assert predictor.engines[1](patch).shape[2:] == patch.shape[2:]
    np.testing.assert_allclose(probabilities[0], probabilities[1], atol=1e-4)


def test_auto_takes_the_fastest_and_remembers_it(package: ModelPackage, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"torch": 3.0, "openvino": 1.0, "onnxruntime": 2.0}
    monkeypatch.setattr(choosing._Maker, "_seconds", lambda self, engine, budget: seconds[engine.name])
    networks = Predictor.from_package(package, "cpu").networks
    first = choosing.make_engines(package, networks, torch.device("cpu"))
    assert (first.name, first.precision) == ("openvino", "f32")
    assert "torch 3.000 s" in first.words
    monkeypatch.setattr(choosing._Maker, "_seconds", lambda *_: pytest.fail("timed again"))
    monkeypatch.setattr(choosing._Maker, "_difference", lambda *_: pytest.fail("checked again"))
    again = choosing.make_engines(package, networks, torch.device("cpu"))
    assert again.name == "openvino"
    (blob,) = base.cache_folder().rglob("*.blob")
    blob.write_bytes(b"damaged")
    patch = torch.zeros((1, 1, *package.plan.patch_size))
    damaged = choosing.make_engines(package, networks, torch.device("cpu"))
    torch.testing.assert_close(damaged.folds[0](patch), again.folds[0](patch))
    (choice,) = base.cache_folder().rglob("choice.json")
    choice.write_text("{", encoding="utf-8")
    monkeypatch.undo()


def test_the_choice_hangs_on_student_cpu_versions_threads_and_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {
        choosing.cache_key(*given) for given in (("a", "f32", 2), ("b", "f32", 2), ("a", "bf16", 2), ("a", "f32", 1))
    }
    monkeypatch.setattr(choosing, "_cpu", lambda: ["another"])
    keys.add(choosing.cache_key("a", "f32", 2))
    monkeypatch.setattr(choosing, "version", lambda name: "0")
    keys.add(choosing.cache_key("a", "f32", 2))
    assert len(keys) == 6


def test_an_engine_that_differs_is_refused(
    package: ModelPackage, two_blobs: TwoBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = OpenVinoEngine.__call__
    monkeypatch.setattr(OpenVinoEngine, "__call__", lambda self, tiles: right(self, tiles) + 0.1)
    image, _ = two_blobs()
    found = segment(image, package, device="cpu", engine="openvino")
    assert any("openvino gave other logits than PyTorch for blobs-x4" in warning for warning in found.warnings)
    expected = segment(image, package, device="cpu", engine="torch").labels.array
    np.testing.assert_array_equal(found.labels.array, expected)
    # A batch loads it once, and each of its cases is told.
    loaded = LoadedStudent.load(package, "cpu", engine="openvino")
    assert loaded.warnings
    assert all(set(loaded.warnings) <= set(segment(image, loaded).warnings) for _ in range(2))
    monkeypatch.setattr(choosing, "installed_engines", lambda: ("torch", "openvino"))
    assert (
        choosing.make_engines(package, Predictor.from_package(package, "cpu").networks, torch.device("cpu")).name
        == "torch"
    )


def test_a_missing_engine_says_how_to_get_it(package: ModelPackage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingDependencyError, match=r'openvino is not installed.*pip install "recokd\[openvino\]"'):
        Predictor.from_package(package, "cpu", engine="openvino")
    monkeypatch.setattr(choosing, "installed_engines", lambda: ("torch",))
    networks = Predictor.from_package(package, "cpu").networks
    assert choosing.make_engines(package, networks, torch.device("cpu"), "auto").name == "torch"


def test_what_does_not_go_together_is_refused(package: ModelPackage) -> None:
    for options, words in (
        ({"engine": "tensorrt"}, "no engine called 'tensorrt'"),
        ({"precision": "f16"}, "no precision called 'f16'"),
        ({"engine": "onnxruntime", "precision": "bf16"}, "f32 here"),
    ):
        with pytest.raises(InputError, match=words):
            Predictor.from_package(package, "cpu", **options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="runs on the CPU, not on cuda"):
        choosing.make_engines(package, [], torch.device("cuda"), "openvino")


def test_a_cache_that_cannot_be_written_is_only_a_warning(
    package: ModelPackage, two_blobs: TwoBlobs, tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("a file where a folder should be", encoding="utf-8")
    found = segment(two_blobs()[0], package, device="cpu", engine="openvino")
    assert [warning for warning in found.warnings if "cannot be written" in warning]


def test_bf16_is_taken_by_auto_only_where_the_card_shows_that_it_keeps_the_labels(
    package: ModelPackage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(choosing, "has_bf16", lambda: True)
    precisions = []
    for metrics in ({}, {"bf16 against f32": {"Dice": 0.99}}, {"bf16 against f32": {"Dice": 0.9995}}):
        path = small_package(tmp_path / "measured.recokd.zip", metrics=metrics, overwrite=True)
        predictor = Predictor.from_package(ModelPackage.open(path), "cpu", engine="torch", precision="auto")
        precisions.append(predictor.engines[0].precision)
    assert precisions == ["f32", "f32", "bf16"]


def test_openvinos_precision_is_always_set(package: ModelPackage) -> None:
    for precision in ("f32", "bf16"):
        (engine,) = Predictor.from_package(package, "cpu", engine="openvino", precision=precision).engines
        if isinstance(engine, OpenVinoEngine):
            assert engine._options["INFERENCE_PRECISION_HINT"] == precision


def test_onnx_runtimes_threads_do_not_wait_busily(package: ModelPackage) -> None:
    (engine,) = Predictor.from_package(package, "cpu", engine="onnxruntime").engines
    assert isinstance(engine, OnnxRuntimeEngine)
    options = engine._session.get_session_options()
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_an_engine_that_another_thread_drops_leaves_signals_alone(package: ModelPackage) -> None:
    """Where the CPU has AMX, OpenVINO gives a thread a stack for signal handlers, and takes it back at its end."""
    code = f"""
import gc, signal, sys, threading
from pathlib import Path
import numpy as np
from ReCoKDLib.package import ModelPackage
from ReCoKDLib.prediction import Predictor
from ReCoKDLib.volume import Volume
held = [Predictor.from_package(ModelPackage.open(Path({str(package.path)!r})), "cpu", engine="openvino")]
held[0].predict(Volume(np.zeros((1, 16, 16, 16), np.float32), np.eye(4)))
def drop():
    held.clear()
    gc.collect()
dropping = threading.Thread(target=drop)
dropping.start()
dropping.join()
signal.signal(signal.SIGINT, lambda *_: print("handled"))
signal.raise_signal(signal.SIGINT)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


_WITHOUT_NETWORK = """
import socket, sys
def refused(*arguments, **options):
    raise SystemExit("tried to reach the network")
socket.socket.connect = socket.socket.connect_ex = socket.socket.sendto = refused
socket.create_connection = socket.getaddrinfo = refused
from ReCoKDLib.cli import main
code = main(sys.argv[1:])
assert "openvino" in sys.modules
assert not [name for name in sys.modules if name.startswith("openvino_telemetry")]
sys.exit(code)
"""


def test_nothing_is_sent_and_telemetry_is_not_even_imported(tmp_path: Path, repository: Path) -> None:
    command = ["segment", str(SAMPLE), "--student", "hippocampus-x4", "--device", "cpu", "--engine", "openvino"]
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_NETWORK, *command, "--output", str(tmp_path / "labels.nii.gz")],
        capture_output=True,
        text=True,
        cwd=repository / "ReCoKD",
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "labels.nii.gz").is_file()


def test_the_command_takes_engine_precision_and_memory(tmp_path: Path, capsys: Any) -> None:
    output = tmp_path / "labels.nii.gz"
    options = ["--engine", "onnxruntime", "--precision", "f32", "--memory", "8", "--device", "cpu"]
    assert main(["segment", str(SAMPLE), "--student", "hippocampus-x4", "--output", str(output), *options]) == 0
    assert "Segmented by hippocampus-x4" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["segment", str(SAMPLE), "--student", "hippocampus-x4", "--output", str(output), "--memory", "none"])


def test_the_choice_is_json_that_a_person_can_read(package: ModelPackage) -> None:
    Predictor.from_package(package, "cpu", engine="auto")
    (choice,) = base.cache_folder().rglob("choice.json")
    found = json.loads(choice.read_text(encoding="utf-8"))
    assert found["engine"] in ("torch", *OTHERS)
    assert set(found["seconds"]) == {"torch", *OTHERS}
    assert all(value < 1e-3 for value in found["differences"].values())
    assert find_student("hippocampus-x4").checksum not in str(choice)


def test_the_dice_between_bf16_and_f32_is_measured(package: ModelPackage, two_blobs: TwoBlobs) -> None:
    image, _ = two_blobs()
    found = bf16_against_f32(package, [image])[choosing.BF16_METRIC]
    assert found["cases"] == 1
    assert found["engine"] in ("torch", "openvino")
    assert 0 <= found["smallest"] <= found["Dice"] <= 1
    assert choosing.bf16_dice({choosing.BF16_METRIC: found}) == found["Dice"]
    assert bf16_against_f32(package, []) == {}
