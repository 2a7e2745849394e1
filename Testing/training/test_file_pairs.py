"""Which segmentation belongs to which image where only names tell."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from raw_dataset import make_raw_dataset
from ReCoKDLib.errors import DatasetError
from ReCoKDLib.image_io import write_label_map, write_volume
from ReCoKDLib.volume import Volume
from ReCoKDTrainingLib.case_check import check_cases
from ReCoKDTrainingLib.datasets import NnunetRawDataset, SourceOptions, Split, open_dataset
from ReCoKDTrainingLib.datasets.file_pairs import SegmentationReader

SMALL = Volume(np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4), np.eye(4))
LABELS = SMALL.with_array((SMALL.array > 12).astype(np.uint8))


def make(folder: Path, *names: str) -> Path:
    """Files; those with a word for labels in their path hold labels."""
    for name in names:
        if any(word in name.lower() for word in ("seg", "label", "mask")):
            write_label_map(LABELS, folder / name)
        else:
            write_volume(SMALL, folder / name)
    return folder


def pairs(folder: Path) -> dict[str, tuple[list[str], str | None]]:
    found = {}
    for case in open_dataset(folder).cases:
        images, label = case.reader.place.images, case.reader.place.segmentation
        shown = None if label is None else label.relative_to(folder).as_posix()
        found[case.identifier] = ([path.relative_to(folder).as_posix() for path in images], shown)
    return found


def test_the_only_label_beside_the_only_image(tmp_path: Path) -> None:
    make(tmp_path, "p1/ct.nii.gz", "p1/seg.nii.gz", "p2/ct.nii.gz", "p2/Segmentation.nii.gz")
    assert pairs(tmp_path) == {
        "ct": (["p1/ct.nii.gz"], "p1/seg.nii.gz"),
        "p2_ct": (["p2/ct.nii.gz"], "p2/Segmentation.nii.gz"),
    }


def test_a_folder_of_segmentations(tmp_path: Path) -> None:
    make(tmp_path, "images/a.nii.gz", "segmentations/a.nii.gz")
    assert pairs(tmp_path) == {"a": (["images/a.nii.gz"], "segmentations/a.nii.gz")}


def test_a_label_without_image_spoils(tmp_path: Path) -> None:
    dataset = open_dataset(make(tmp_path, "images/a.nii.gz", "labels/a.nii.gz", "labels/b.nii.gz"))
    check = check_cases(dataset, Split(dataset.cases, ()))
    assert check.bad == ("b",)
    assert "b.nii.gz has no image" in check.cases[1].findings[0].message


def test_a_label_without_image_in_nnunets_layout_spoils(tmp_path: Path) -> None:
    folder = make_raw_dataset(tmp_path / "raw", cases=2)
    (folder / "imagesTr" / "blobs_001_0000.nii.gz").unlink()
    dataset = NnunetRawDataset(folder)
    assert check_cases(dataset, Split(dataset.cases, ())).bad == ("blobs_001",)


def test_numbers_are_channels_only_where_they_count_from_0_and_have_no_label(tmp_path: Path) -> None:
    cases = make(tmp_path / "cases", "case_0001.nii.gz", "case_0002.nii.gz", "case_0001_seg.nii.gz")
    assert pairs(cases) == {
        "case_0001": (["case_0001.nii.gz"], "case_0001_seg.nii.gz"),
        "case_0002": (["case_0002.nii.gz"], None),
    }
    labelled = make(tmp_path / "labelled", "c_0000.nii.gz", "c_0001.nii.gz", "c_0001_seg.nii.gz")
    assert list(pairs(labelled)) == ["c_0000", "c_0001"]
    channels = make(tmp_path / "channels", "c_0000.nii.gz", "c_0001.nii.gz", "c_seg.nii.gz")
    assert pairs(channels) == {"c": (["c_0000.nii.gz", "c_0001.nii.gz"], "c_seg.nii.gz")}


def test_label_maps_beside_segmentations_need_names(tmp_path: Path) -> None:
    make(tmp_path, "a.nii.gz", "a_seg.nii.gz", "b.nii.gz")
    (tmp_path / "b.seg.nrrd").write_bytes(b"")
    case, _ = open_dataset(tmp_path).cases
    with pytest.raises(DatasetError, match="nothing says what its numbers mean"):
        case.volume()


def test_the_case_with_other_channels_than_most_is_the_odd_one(tmp_path: Path) -> None:
    make(tmp_path, "a.nii.gz", "a_seg.nii.gz", "b.nii.gz", "b_seg.nii.gz", "c_0000.nii.gz", "c_0001.nii.gz")
    dataset = open_dataset(tmp_path)
    check = check_cases(dataset, Split(dataset.cases, ()), has_teacher=True)
    assert [(case.identifier, finding.kind) for case in check.cases for finding in case.findings if finding.spoils] == [
        ("c", "channels")
    ]


def test_so_many_channels_as_there_are(tmp_path: Path) -> None:
    make(tmp_path, "a.nii.gz", "a_seg.nii.gz")
    with pytest.raises(DatasetError, match=r"2 channels were named \(CT, PET\), the cases have 1"):
        open_dataset(tmp_path, SourceOptions(("CT", "PET")))


def test_segments_that_become_other_classes_are_another_content(tmp_path: Path) -> None:
    """A corrected table of synonyms changes no file."""
    image, segmentation = tmp_path / "a.nii.gz", tmp_path / "a.seg.nrrd"
    for path in (image, segmentation):
        path.write_bytes(b"any")
    readers = [SegmentationReader((image,), segmentation, ((segment, 2),)) for segment in ("edema", "core")]
    assert len({reader.content() for reader in readers}) == 2
