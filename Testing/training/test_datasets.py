"""nnU-Net's raw layout, splits, and cases that contradict themselves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from raw_dataset import make_raw_dataset
from ReCoKDLib.errors import DatasetError, InputError
from ReCoKDTrainingLib.datasets import NnunetRawDataset, held_out_cases, load_case, read_split


@pytest.fixture
def copied(raw_dataset: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(raw_dataset, tmp_path / "Dataset902_Copy"))


def rewrite(folder: Path, **changes: Any) -> None:
    path = folder / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_cases_channels_and_labels(raw_dataset: Path) -> None:
    dataset = NnunetRawDataset(raw_dataset)
    assert dataset.name == "Dataset901_Blobs"
    assert dataset.channel_names == ("MRI",)
    assert [segment.name for segment in dataset.label_set.segments] == ["anterior", "posterior"]
    assert [case.identifier for case in dataset.cases] == [f"blobs_{n:03d}" for n in range(6)]
    volume, labels = load_case(dataset.cases[1], dataset.label_set, 1)
    assert labels is not None
    assert volume.same_grid(labels)
    assert set(np.unique(labels.array)) == {0, 1, 2}


def test_channels_of_a_case_are_stacked(tmp_path: Path) -> None:
    dataset = NnunetRawDataset(make_raw_dataset(tmp_path / "two", cases=1, channel_names=("T1", "T2")))
    volume, labels = load_case(dataset.cases[0], dataset.label_set, 2)
    assert volume.channels == 2
    assert labels is not None
    bright = labels.array[0] == 2
    assert volume.array[0][bright].mean() > 400 > 200 > volume.array[1][bright].mean()


def test_unlabelled_cases_are_no_error_here(copied: Path) -> None:
    (copied / "labelsTr" / "blobs_002.nii.gz").unlink()
    dataset = NnunetRawDataset(copied)
    assert not dataset.cases[2].labelled
    assert "blobs_002" not in {case.identifier for case in read_split(dataset, None).training}


def test_a_folder_that_is_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="has no dataset.json. Give the folder"):
        NnunetRawDataset(tmp_path)
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(InputError, match="not readable as JSON"):
        NnunetRawDataset(tmp_path)


def test_no_images(copied: Path) -> None:
    shutil.rmtree(copied / "imagesTr")
    with pytest.raises(DatasetError, match="holds no images"):
        NnunetRawDataset(copied)


def test_no_channels(copied: Path) -> None:
    for nonsense in ({}, ["MRI"], {"first": "MRI"}):
        rewrite(copied, channel_names=nonsense)
        with pytest.raises(DatasetError, match="names no channels"):
            NnunetRawDataset(copied)
    (copied / "dataset.json").write_text("[]", encoding="utf-8")
    with pytest.raises(DatasetError, match="not a JSON object"):
        NnunetRawDataset(copied)


def test_a_missing_channel_is_named(copied: Path) -> None:
    rewrite(copied, channel_names={"0": "T1", "1": "T2"})
    with pytest.raises(DatasetError, match="The channel blobs_000_0001.nii.gz is missing"):
        NnunetRawDataset(copied).cases[0].volume()


def test_labels_that_dataset_json_does_not_name(copied: Path) -> None:
    rewrite(copied, labels={"background": 0, "anterior": 1})
    dataset = NnunetRawDataset(copied)
    with pytest.raises(DatasetError, match=r"blobs_000 holds the values \[2\], which dataset.json does not name"):
        load_case(dataset.cases[0], dataset.label_set, 1)


def test_labels_that_are_no_whole_numbers(copied: Path) -> None:
    path = str(copied / "labelsTr" / "blobs_000.nii.gz")
    label = sitk.Cast(sitk.ReadImage(path), sitk.sitkFloat32)
    label[0, 0, 0] = 0.5
    sitk.WriteImage(label, path)
    dataset = NnunetRawDataset(copied)
    with pytest.raises(DatasetError, match=r"holds the values \[0.5\], which dataset.json does not name"):
        load_case(dataset.cases[0], dataset.label_set, 1)


def test_image_and_label_of_different_geometry(copied: Path) -> None:
    path = str(copied / "labelsTr" / "blobs_000.nii.gz")
    label = sitk.ReadImage(path)
    label.SetOrigin([x + 2 for x in label.GetOrigin()])
    sitk.WriteImage(label, path)
    dataset = NnunetRawDataset(copied)
    with pytest.raises(DatasetError, match="blobs_000 lie on different grids.*Resample the label"):
        load_case(dataset.cases[0], dataset.label_set, 1)


def test_voxels_that_are_not_numbers(tmp_path: Path) -> None:
    folder = make_raw_dataset(tmp_path / "nan", cases=1, file_ending=".nrrd")
    path = str(folder / "imagesTr" / "blobs_000_0000.nrrd")
    image = sitk.ReadImage(path)
    image[3, 3, 3] = float("nan")
    sitk.WriteImage(image, path)
    dataset = NnunetRawDataset(folder)
    with pytest.raises(DatasetError, match="blobs_000 holds voxels that are not numbers"):
        load_case(dataset.cases[0], dataset.label_set, 1)


def test_a_split_is_made_and_is_always_the_same(raw_dataset: Path) -> None:
    dataset = NnunetRawDataset(raw_dataset)
    split = read_split(dataset, None)
    assert (len(split.training), len(split.validation)) == (5, 1)
    assert not set(split.training) & set(split.validation)
    assert split == read_split(dataset, None)


def test_a_split_is_read(raw_dataset: Path, tmp_path: Path) -> None:
    dataset = NnunetRawDataset(raw_dataset)
    fold = {"train": ["blobs_004", "blobs_001"], "val": ["blobs_000"]}
    (tmp_path / "one.json").write_text(json.dumps(fold))
    (tmp_path / "many.json").write_text(json.dumps([{"train": ["blobs_005"], "val": []}, fold]))
    for split in (read_split(dataset, tmp_path / "one.json"), read_split(dataset, tmp_path / "many.json", fold=1)):
        assert [case.identifier for case in split.training] == ["blobs_004", "blobs_001"]
        assert [case.identifier for case in split.validation] == ["blobs_000"]


def test_cases_that_are_left_out_may_be_named_to_train_on(raw_dataset: Path, tmp_path: Path) -> None:
    file = tmp_path / "split.json"
    file.write_text(json.dumps({"train": ["blobs_004", "blobs_001"], "val": ["blobs_000"]}))
    dataset = NnunetRawDataset(raw_dataset)
    fewer = dataset.without(["blobs_001"]).with_labels(dataset.label_set)
    assert [case.identifier for case in read_split(fewer, file).training] == ["blobs_004"]
    with pytest.raises(DatasetError, match="'blobs_000', which the dataset"):
        read_split(dataset.without(["blobs_000"]), file)
    file.write_text(json.dumps({"train": ["of another source"], "val": ["blobs_000"]}))
    assert [case.identifier for case in held_out_cases(dataset, file)] == ["blobs_000"]
    with pytest.raises(DatasetError, match="'of another source', which the dataset"):
        read_split(dataset, file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"train": ["blobs_001"], "val": ["blobs_009"]}, "'blobs_009', which the dataset"),
        ({"train": ["blobs_001"], "val": ["blobs_001"]}, "'blobs_001' in both"),
        ({"train": [], "val": ["blobs_001"]}, "no training cases"),
        ({"training": []}, "not a split"),
        ([], "there is no fold 0"),
    ],
)
def test_splits_that_are_wrong(raw_dataset: Path, tmp_path: Path, content: Any, message: str) -> None:
    (tmp_path / "split.json").write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=message):
        read_split(NnunetRawDataset(raw_dataset), tmp_path / "split.json")


def test_one_case_cannot_be_split(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="at least two"):
        read_split(NnunetRawDataset(make_raw_dataset(tmp_path / "one", cases=1)), None)
