"""Corrected segmentations as training cases, from nodes to a folder that training reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ReCoKDLib.errors import DatasetError
from ReCoKDLib.files import read_json
from ReCoKDLib.image_io import read_volume
from ReCoKDLib.mrml.volumes import volume_from_node, volume_to_node
from ReCoKDLib.provenance import read_provenance
from ReCoKDLib.volume import Volume

TwoBlobs = Callable[..., tuple[Volume, Volume]]


@pytest.fixture
def logic(recokd: Any) -> Any:
    return recokd.ReCoKDLogic()


def test_a_corrected_case_is_handed_over(
    slicer: Any,
    logic: Any,
    two_blobs: TwoBlobs,
    blob_student: str,
    tmp_path: Path,
    oblique_left_handed_matrix: npt.NDArray[np.float64],
) -> None:
    image, _ = two_blobs(oblique_left_handed_matrix)
    volume_node = volume_to_node(image)
    node = logic.segment(volume_node, blob_student)
    where = (image.ijk_to_ras @ (20, 3, 15, 1.0))[:3]
    logic.click(node, "Anterior", where)
    node.GetSegmentation().GetSegment("Anterior").SetName("head")  # the dataset keeps the student's names
    node.GetSegmentation().AddEmptySegment("mine", "cyst")
    logic.click(node, "cyst", (image.ijk_to_ras @ (3, 18, 3, 1.0))[:3])
    case = logic.exportForTraining(node, tmp_path / "set", annotator="me")

    described = read_json(tmp_path / "set" / "dataset.json")
    assert described["labels"] == {"background": 0, "Anterior": 1, "Größe hinten": 2, "cyst": 3}
    assert described["channel_names"] == {"0": "T1"}
    found = read_volume(tmp_path / "set" / "labelsTr" / f"{case}.nii.gz")
    assert found.same_grid(volume_from_node(volume_node))
    for value, segment_id in enumerate(("Anterior", "Größe hinten", "mine"), start=1):
        mask = slicer.util.arrayFromSegmentBinaryLabelmap(node, segment_id, volume_node) > 0
        assert mask.any()
        assert np.array_equal(found.array[0] == value, mask)
    assert np.allclose(read_volume(tmp_path / "set" / "imagesTr" / f"{case}_0000.nii.gz").array, image.array)
    record = read_provenance(tmp_path / "set")[case]
    assert (record.student, record.annotator) == (blob_student, "me")
    assert [(click.segment, click.inside) for click in record.clicks] == [("head", True), ("cyst", True)]
    assert np.allclose(record.clicks[0].position, where)


def test_a_part_of_the_students_labels_still_fits_its_dataset(
    logic: Any, two_blobs: TwoBlobs, blob_student: str, tmp_path: Path
) -> None:
    first, second = (volume_to_node(two_blobs(seed=seed)[0]) for seed in (1, 2))
    logic.exportForTraining(logic.segment(first, blob_student), tmp_path / "set")
    only = logic.segment(second, blob_student, labels=["größe hinten"])
    case = logic.exportForTraining(only, tmp_path / "set")
    assert set(np.unique(read_volume(tmp_path / "set" / "labelsTr" / f"{case}.nii.gz").array)) == {0, 2}
    only.GetSegmentation().AddEmptySegment("mine", "cyst")
    with pytest.raises(DatasetError):
        logic.exportForTraining(only, tmp_path / "set")
