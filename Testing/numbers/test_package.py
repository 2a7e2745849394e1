"""Writing model packages and opening them again."""

from __future__ import annotations

import errno
import json
import math
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from packages import TWO_WIDE, changed_json, contents_of, rewritten, small_card, small_package, small_weights
from plans import TWO_LABELS, small_plan
from ReCoKDLib.card import Card
from ReCoKDLib.card_text import card_markdown
from ReCoKDLib.errors import OutputError, PackageError, PlanError
from ReCoKDLib.networks import build_network, load_weights, plain_state
from ReCoKDLib.package import ModelPackage, write_package

FORMS = pytest.mark.parametrize("name", ["blobs x4 größer", "blobs x4 größer.recokd.zip"], ids=["folder", "file"])


@FORMS
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_what_is_written_is_read(tmp_path: Path, name: str, dtype: str) -> None:
    plan = small_plan(features=TWO_WIDE)
    weights = small_weights(plan)
    card = small_card()
    path = write_package(tmp_path / name, card, plan, TWO_LABELS, [weights], dtype=dtype)
    package = ModelPackage.open(path)
    package.verify()

    assert (package.card.name, package.card.role, package.card.orientation) == ("blobs-x4", "student", "RAS")
    assert package.card.channels == card.channels
    assert package.card.spacing == card.spacing
    assert package.card.training == card.training
    assert package.card.licences == card.licences
    assert package.card.metrics == {"dice": {"anterior": 0.9, "posterior": None}}  # JSON has no NaN
    assert package.card.dtype == dtype
    assert package.plan.to_nnunet() == plan.to_nnunet()
    assert package.label_set.to_dataset_json() == TWO_LABELS.to_dataset_json()
    assert [s.color for s in package.label_set.segments] == [s.color for s in TWO_LABELS.segments]

    network = build_network(plan.architecture, 1, 3)
    load_weights(network, package.weights())
    plain = plain_state(network)
    assert package.card.parameters == sum(p.numel() for p in network.parameters())
    for key, tensor in package.weights().items():
        assert tensor.dtype == torch.float32
        stored = weights[key].to(getattr(torch, dtype)).float()
        assert torch.equal(tensor, stored)
        assert torch.equal(plain[key], stored)


def test_each_tensor_is_stored_once(tmp_path: Path) -> None:
    """nnU-Net's state dictionaries have each up to four times."""
    package = ModelPackage.open(small_package(tmp_path / "blobs.recokd.zip"))
    plan = package.plan
    assert len(package.weights()) < len(small_weights(plan))
    network = build_network(plan.architecture, 1, 3)
    assert sum(t.numel() for t in package.weights().values()) == sum(p.numel() for p in network.parameters())
    assert not any("all_modules" in key or key.startswith("decoder.encoder") for key in package.weights())


def test_folds_are_kept_apart(tmp_path: Path) -> None:
    package = ModelPackage.open(small_package(tmp_path / "blobs.recokd.zip", folds=3))
    package.verify()
    assert package.card.folds == 3
    key = "encoder.stages.0.0.convs.0.conv.weight"
    values = [package.weights(fold)[key] for fold in range(3)]
    assert not torch.equal(values[0], values[1])
    assert not torch.equal(values[1], values[2])
    with pytest.raises(PackageError, match=r"3 fold\(s\), numbered from 0; there is no 3"):
        package.weights(3)


def test_the_same_contents_give_the_same_bytes(tmp_path: Path) -> None:
    first = small_package(tmp_path / "a" / "blobs.recokd.zip")
    second = small_package(tmp_path / "b" / "other.recokd.zip")
    folder = small_package(tmp_path / "folder")
    assert first.read_bytes() == second.read_bytes()
    assert contents_of(first) == contents_of(folder)
    checksums = {ModelPackage.open(path).checksum for path in (first, second, folder)}
    assert len(checksums) == 1
    different = small_package(tmp_path / "c.recokd.zip", description="Something else")
    assert ModelPackage.open(different).checksum not in checksums


def test_segments_get_their_codes(tmp_path: Path) -> None:
    plan = small_plan(features=TWO_WIDE)
    labels = type(TWO_LABELS).from_dataset_json({"labels": {"background": 0, "Left Hippocampus": 1, "blob": 2}})
    path = write_package(tmp_path / "p", small_card(), plan, labels, [small_weights(plan)])
    coded, unknown = ModelPackage.open(path).label_set.segments
    assert "SCT^5366008^Hippocampus~SCT^7771000^Left" in coded.terminology
    assert unknown.terminology == ""


def test_monai_finds_what_its_schema_requires(tmp_path: Path) -> None:
    """The fields and types that MONAI's schema of 2024-07-25 requires."""
    contents = contents_of(small_package(tmp_path / "blobs"))
    metadata = json.loads(contents["configs/metadata.json"])
    for key in ("schema", "version", "monai_version", "pytorch_version", "numpy_version", "task", "description"):
        assert isinstance(metadata[key], str), key
        assert metadata[key], key
    assert isinstance(metadata["authors"], str)
    assert isinstance(metadata["copyright"], str)
    assert isinstance(metadata["required_packages_version"], dict)
    assert metadata["pytorch_version"] == "2.9.0"  # the one it was trained with, not this one
    formats = metadata["network_data_format"]
    for tensor in (formats["inputs"]["image"], formats["outputs"]["pred"]):
        assert isinstance(tensor["type"], str)
        assert isinstance(tensor["format"], str)
        assert isinstance(tensor["dtype"], str)
        assert tensor["spatial_shape"] == [16, 16, 16]
        assert all(isinstance(value, float) for value in tensor["value_range"])
    assert formats["inputs"]["image"]["num_channels"] == 1
    assert formats["outputs"]["pred"]["channel_def"] == {"0": "background", "1": "anterior", "2": "posterior"}


def test_the_readme_says_what_a_user_must_know(tmp_path: Path) -> None:
    contents = contents_of(small_package(tmp_path / "blobs"))
    readme = contents["docs/README.md"].decode()
    for needed in (
        "Research use only. Not a medical device.",
        "anterior",
        "T1 (MR)",
        "1 x 1 x 1 mm",
        "Dataset901_Blobs",
        "CC-BY-SA-4.0",
        "reco",
        "Seed: 3",
    ):
        assert needed in readme
    assert "CC-BY-SA-4.0" in contents["LICENSE"].decode()
    assert "Somebody" in contents["LICENSE"].decode()


def test_opening_loads_neither_torch_nor_safetensors(tmp_path: Path) -> None:
    """Slicer's panel lists packages before PyTorch is installed."""
    path = small_package(tmp_path / "blobs.recokd.zip")
    code = (
        "import sys; from ReCoKDLib.package import ModelPackage\n"
        f"print(ModelPackage.open({str(path)!r}).card.name)\n"
        "print([name for name in ('torch', 'safetensors', 'monai', 'SimpleITK') if name in sys.modules])"
    )
    library = str(Path(__file__).resolve().parents[2] / "ReCoKD")
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {library!r})\n{code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split("\n")[:2] == ["blobs-x4", "[]"]


@FORMS
def test_a_configuration_is_never_evaluated(tmp_path: Path, name: str) -> None:
    path = small_package(tmp_path / name)
    trace = tmp_path / "trace"
    attack = {"imports": [f"$open({str(trace)!r}, 'w')"], "run": f"$open({str(trace)!r}, 'w')"}
    metadata = changed_json(path, "configs/metadata.json", "description", value=f"$open({str(trace)!r}, 'w')")
    rewritten(path, {"configs/inference.json": json.dumps(attack).encode(), **metadata})
    package = ModelPackage.open(path)
    package.verify()
    assert not trace.exists()


def test_a_file_that_exists_is_kept_unless_asked(tmp_path: Path) -> None:
    path = small_package(tmp_path / "blobs.recokd.zip")
    before = path.read_bytes()
    with pytest.raises(OutputError, match="exists already"):
        small_package(path, description="new")
    assert path.read_bytes() == before


@FORMS
def test_overwriting_replaces_the_whole(tmp_path: Path, name: str) -> None:
    path = small_package(tmp_path / name, folds=2)
    plan = small_plan(features=TWO_WIDE)
    write_package(path, small_card("new"), plan, TWO_LABELS, [small_weights(plan)], overwrite=True)
    package = ModelPackage.open(path)
    assert (package.card.name, package.card.folds) == ("new", 1)
    assert list(tmp_path.iterdir()) == [path]


def test_overwriting_replaces_packages_only(tmp_path: Path) -> None:
    documents = tmp_path / "documents"
    documents.mkdir()
    (documents / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="other things than a model package"):
        small_package(documents, overwrite=True)
    assert (documents / "thesis.txt").read_text() == "years of work"
    scan = tmp_path / "scan.nii.gz"
    scan.write_bytes(b"an image")
    with pytest.raises(OutputError, match="a file, which this model would replace"):
        small_package(scan, overwrite=True)
    assert scan.read_bytes() == b"an image"
    folder = small_package(tmp_path / "blobs").rename(tmp_path / "blobs.recokd.zip")
    with pytest.raises(OutputError, match="a folder, which this model would replace"):
        small_package(folder, overwrite=True)
    assert ModelPackage.open(folder).card.folds == 1


@FORMS
@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_full_disk_or_a_break_leaves_nothing_half_written(
    tmp_path: Path, name: str, failure: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = small_package(tmp_path / name)
    before = contents_of(path)

    def fail(*_: Any, **__: Any) -> None:
        raise failure

    monkeypatch.setattr(zipfile.ZipFile, "writestr", fail)
    monkeypatch.setattr(Path, "write_bytes", fail)
    plan = small_plan(features=TWO_WIDE)
    with pytest.raises(OutputError if isinstance(failure, OSError) else KeyboardInterrupt):
        write_package(path, small_card("new"), plan, TWO_LABELS, [small_weights(plan)], overwrite=True)
    monkeypatch.undo()
    assert contents_of(path) == before
    assert list(tmp_path.iterdir()) == [path]


def test_weights_that_float16_cannot_hold_are_refused(tmp_path: Path) -> None:
    plan = small_plan(features=TWO_WIDE)
    weights = small_weights(plan)
    key = "encoder.stages.0.0.convs.0.conv.weight"
    weights[key][0] = 1e6
    with pytest.raises(PackageError, match=r"conv\.weight hold values that are not finite as float16"):
        write_package(tmp_path / "p", small_card(), plan, TWO_LABELS, [weights], dtype="float16")
    weights[key][0] = math.nan
    with pytest.raises(PackageError, match="not finite as float32"):
        write_package(tmp_path / "p", small_card(), plan, TWO_LABELS, [weights])
    assert list(tmp_path.iterdir()) == []


def test_a_package_holds_the_network_and_nothing_else(tmp_path: Path) -> None:
    plan = small_plan(features=TWO_WIDE)
    weights = small_weights(plan)
    with pytest.raises(PlanError, match=r"connectors\.0\.weight is not in its network"):
        write_package(
            tmp_path / "p", small_card(), plan, TWO_LABELS, [{**weights, "connectors.0.weight": torch.zeros(1)}]
        )
    missing = {key: tensor for key, tensor in weights.items() if "seg_layers.0.bias" not in key}
    with pytest.raises(PlanError, match=r"seg_layers\.0\.bias is missing"):
        write_package(tmp_path / "p", small_card(), plan, TWO_LABELS, [missing])
    with pytest.raises(PlanError, match="has shape"):
        write_package(tmp_path / "p", small_card(), small_plan(features=(8, 8)), TWO_LABELS, [weights])
    with pytest.raises(PackageError, match="at least one fold"):
        write_package(tmp_path / "p", small_card(), plan, TWO_LABELS, [])
    two_channels = small_card(channels=small_card().channels * 2)
    with pytest.raises(PackageError, match=r"names 2 input channel\(s\), the plan 1"):
        write_package(tmp_path / "p", two_channels, plan, TWO_LABELS, [weights])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "../evil"}, "cannot be called"),
        ({"role": "pupil"}, "teacher or student; it is 'pupil'"),
        ({"dtype": "int8"}, "float32 or float16"),
        ({"channels": ()}, "names no input channel"),
        ({"orientation": "RAR"}, "such as 'RAS'; it is 'RAR'"),
        ({"mirror_axes": (3,)}, "mirror axes among 0, 1, 2"),
        ({"folds": 0}, "at least one fold"),
    ],
)
def test_a_card_that_makes_no_sense_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PackageError, match=message):
        small_card(**changes)


@pytest.mark.parametrize("field", ["name", "role", "channels"])
def test_a_card_without_a_needed_field_is_refused(field: str) -> None:
    values = small_card().to_dict()
    del values[field]
    with pytest.raises(PackageError, match="card cannot be read"):
        Card.from_dict(values)


def test_a_card_passes_over_fields_of_later_versions() -> None:
    values = small_card().to_dict()
    values["invented_later"] = 1
    values["training"]["invented_later"] = 1
    assert Card.from_dict(values).name == "blobs-x4"


def test_what_was_measured_is_a_table() -> None:
    metrics = {
        "measured on": "2 cases",
        "mean": {"dice": 0.87, "hd95": None},
        "segments": {
            "anterior": {"dice": {"mean": 0.9, "sd": 0.03}, "hd95": {"mean": 1.5, "sd": None}},
            "posterior": {"dice": {"mean": 0.84, "sd": 0.02}, "hd95": {"mean": None}},
        },
    }
    text = card_markdown(small_card(metrics=metrics), small_plan(), TWO_LABELS)
    assert "| Segment | Dice | HD95, mm |" in text
    assert "| anterior | 0.900 ± 0.030 | 1.500 |" in text
    assert "| posterior | 0.840 ± 0.020 | – |" in text
    assert "| **mean** | 0.870 | – |" in text
    assert "- measured on: 2 cases" in text
    assert "- Losses: reco (eta 1.0)" in text
