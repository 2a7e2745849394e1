"""The module in the Qt test host: what Slicer sees of it, and what a script does with its logic."""

from __future__ import annotations

import hashlib
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from geometries import TURNED_LEFT_HANDED
from panel_user import segmentations
from processes import run_on_host
from ReCoKDLib.errors import InputError
from ReCoKDLib.labels import LabelSet
from ReCoKDLib.mrml.segmentations import labels_from_node
from ReCoKDLib.mrml.volumes import volume_to_node, vtk_matrix
from ReCoKDLib.volume import Volume

Matrix = npt.NDArray[np.float64]
TwoBlobs = Callable[..., tuple[Volume, Volume]]


# The module


def test_description(host: Any, recokd: Any) -> None:
    assert host.module.parent.title == "ReCoKD"
    assert host.module.parent.categories == ["Segmentation"]
    assert "not a medical device" in host.module.parent.helpText


def test_sample_data_are_offered_after_startup(host: Any, recokd: Any, repository: Path) -> None:
    assert host.samples == []
    host.app.complete_startup()
    cases = sorted((repository / "ReCoKD" / "Resources" / "Students" / "SampleCases").glob("*_0000.nii.gz"))
    assert cases
    assert [sample["fileNames"] for sample in host.samples[: len(cases)]] == [case.name for case in cases]
    for sample in host.samples:
        with urllib.request.urlopen(sample["uris"]) as stream:  # as Slicer fetches it
            content = stream.read()
        assert sample["checksums"] == f"SHA256:{hashlib.sha256(content).hexdigest()}"
        assert Path(sample["thumbnailFileName"]).is_file()


def test_nothing_heavy_is_loaded_before_apply(repository: Path, tmp_path: Path) -> None:
    """Opening the panel takes no torch; nobody wants to wait for it while looking around."""
    pytest.importorskip("slicer")
    pytest.importorskip("PySide6")
    code = f"""
import sys
from pathlib import Path
from slicer_host import Host
host = Host()
host.open(host.load(Path({str(repository / "ReCoKD" / "ReCoKD.py")!r})))
host.app.complete_startup()
heavy = {{"torch", "SimpleITK", "monai", "safetensors", "scipy", "skimage", "matplotlib"}} & set(sys.modules)
print("loaded:", sorted(heavy))
"""
    run = run_on_host(code, repository)
    assert run.returncode == 0, run.stderr
    assert "loaded: []" in run.stdout


# The logic


def test_logic_segments_at_once(
    recokd: Any, slicer: Any, two_blobs: TwoBlobs, blob_labels: LabelSet, blob_student: str
) -> None:
    image, labels = two_blobs(TURNED_LEFT_HANDED)
    done: list[float] = []
    made = recokd.ReCoKDLogic().segment(volume_to_node(image), blob_student, progress=done.append)
    assert np.array_equal(labels_from_node(made, blob_labels, image).array, labels.array)
    assert done[-1] == 1.0
    only = recokd.ReCoKDLogic().segment(volume_to_node(image), blob_student, labels=["anterior"])
    assert only.GetSegmentation().GetNumberOfSegments() == 1
    assert only.GetSegmentation().GetNthSegment(0).GetName() == "Anterior"


def test_logic_follows_transforms(
    recokd: Any, slicer: Any, two_blobs: TwoBlobs, blob_labels: LabelSet, blob_student: str
) -> None:
    """A volume turned by a transform is segmented as it lies in the world, and the segments turn with it."""
    image, labels = two_blobs()
    node = volume_to_node(image)
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "t")
    transform.SetMatrixTransformToParent(vtk_matrix(TURNED_LEFT_HANDED))
    node.SetAndObserveTransformNodeID(transform.GetID())
    made = recokd.ReCoKDLogic().segment(node, blob_student)
    in_world = Volume(image.array, TURNED_LEFT_HANDED @ image.ijk_to_ras)
    assert np.array_equal(labels_from_node(made, blob_labels, in_world).array, labels.array)
    assert made.GetParentTransformNode() is transform


def test_logic_takes_one_node_for_each_channel(
    recokd: Any, slicer: Any, two_blobs: TwoBlobs, blob_student: str
) -> None:
    nodes = [volume_to_node(two_blobs()[0]), volume_to_node(two_blobs()[0])]
    with pytest.raises(InputError, match="needs 1 input channel"):
        recokd.ReCoKDLogic().segment(nodes, blob_student)
    assert segmentations(slicer) == []


def test_the_self_test_passes(recokd: Any) -> None:
    """What Slicer runs for ctest and behind its button Reload and Test."""
    recokd.ReCoKDTest().runTest()


def test_the_readmes_console_example_runs(
    host: Any, recokd: Any, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a new user pastes it, with the shipped student and its sample case."""
    text = (repository / "README.md").read_text(encoding="utf-8")
    code = text.split("**Slicer's Python console.**")[1].split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"slicer": host.slicer}
    exec(code, names)  # our own text
    assert names["slices"]
    assert names["tableNode"].GetNumberOfRows() == 2
    assert len(list((tmp_path / "corrected" / "labelsTr").iterdir())) == 1
