"""The fingerprint of datasets, against nnU-Net's extractor and by hand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from raw_dataset import make_raw_dataset
from ReCoKDLib.errors import DatasetError
from ReCoKDLib.image_io import read_volume
from ReCoKDTrainingLib.datasets import Case, NnunetRawDataset
from ReCoKDTrainingLib.datasets.case import FileReader
from ReCoKDTrainingLib.fingerprint import Fingerprint, fingerprint_cases, fingerprint_dataset
from ReCoKDTrainingLib.planner import plan_dataset


def change_image(path: Path, change: Any) -> None:
    """Rewrite an image file with its voxels changed and its geometry kept."""
    image = sitk.ReadImage(str(path))
    changed = sitk.GetImageFromArray(change(sitk.GetArrayFromImage(image)))
    changed.CopyInformation(image)
    sitk.WriteImage(changed, str(path))


@pytest.fixture
def dataset_folder(tmp_path: Path) -> Path:
    """Three cases that a test may change: two channels, oblique and anisotropic geometry."""
    return make_raw_dataset(
        tmp_path / "Dataset902_Blobs",
        cases=3,
        channel_names=("T1", "T2"),
        geometries=("oblique-left-handed", "anisotropic"),
    )


def files_of(case: Case) -> FileReader:
    assert isinstance(case.reader, FileReader)
    return case.reader


def test_equals_nnunet(dataset_folder: Path) -> None:
    extractor = pytest.importorskip("nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor")
    reader = pytest.importorskip("nnunetv2.imageio.simpleitk_reader_writer").SimpleITKIO
    # Zeros around the head, so that cropping matters; another amount in each case.
    dataset = NnunetRawDataset(dataset_folder)
    for margin, case in enumerate(dataset.cases, start=1):
        for path in files_of(case).images:
            change_image(path, lambda a, m=margin: np.pad(a[m:-m, m:, :-m], [(m, m), (m, 0), (0, m)]))
    ours = fingerprint_dataset(dataset, samples_per_case=500)

    theirs = [
        extractor.DatasetFingerprintExtractor.analyze_case(
            [str(path) for path in files_of(case).images], str(files_of(case).label), reader, 500
        )
        for case in dataset.cases
    ]
    shapes, spacings, samples, _, shares = zip(*theirs, strict=True)
    assert ours.shapes_after_crop.tolist() == [list(shape) for shape in shapes]
    np.testing.assert_allclose(ours.spacings, spacings, rtol=1e-6)
    assert ours.median_relative_size_after_cropping == pytest.approx(np.median(shares))
    assert ours.median_relative_size_after_cropping < 1
    for channel in range(2):
        values = np.concatenate([case[channel] for case in samples])
        low, median, high = np.percentile(values, (0.5, 50, 99.5))
        expected = {
            "mean": values.mean(),
            "median": median,
            "std": values.std(),
            "min": values.min(),
            "max": values.max(),
            "percentile_00_5": low,
            "percentile_99_5": high,
        }
        assert ours.foreground_intensities[channel] == pytest.approx(expected, rel=1e-6)


def test_describes_cases_for_the_card(raw_dataset: Path) -> None:
    dataset = NnunetRawDataset(raw_dataset)
    seen: list[float] = []
    fingerprint = fingerprint_dataset(dataset, progress=seen.append)
    assert [case.identifier for case in fingerprint.cases] == [f"blobs_{n:03d}" for n in range(6)]
    assert seen == pytest.approx(np.arange(1, 7) / 6)
    assert fingerprint.orientation == "RAS"
    lows, medians, highs = [], [], []
    for case in dataset.cases:
        low, median, high = np.percentile(read_volume(files_of(case).images[0]).array, (0.5, 50, 99.5))
        lows.append(low)
        medians.append(median)
        highs.append(high)
    ranges = fingerprint.intensity_ranges(0)
    assert ranges["percentile_00_5"] == pytest.approx((min(lows), max(lows)))
    assert ranges["median"] == pytest.approx((min(medians), max(medians)))
    assert ranges["percentile_99_5"] == pytest.approx((min(highs), max(highs)))
    # Label 1 is 60 brighter than the background of 300, label 2 is 120 brighter.
    assert 355 < fingerprint.foreground_intensities[0]["mean"] < 425


def test_mixed_orientations_have_none_in_common(dataset_folder: Path) -> None:
    fingerprint = fingerprint_dataset(NnunetRawDataset(dataset_folder))
    assert fingerprint.orientation is None
    assert len({case.axis_codes for case in fingerprint.cases}) == 2


def test_survives_json_and_order(raw_dataset: Path) -> None:
    dataset = NnunetRawDataset(raw_dataset)
    fingerprint = fingerprint_dataset(dataset)
    backwards = fingerprint_cases(dataset.cases[::-1], dataset.channel_names, dataset.label_set)
    assert Fingerprint.from_dict(json.loads(json.dumps(fingerprint.to_dict()))) == fingerprint == backwards


def test_checksum_names_the_contents(dataset_folder: Path, tmp_path: Path) -> None:
    original = fingerprint_dataset(NnunetRawDataset(dataset_folder)).sha256
    copy = tmp_path / "elsewhere"
    shutil.copytree(dataset_folder, copy)
    assert fingerprint_dataset(NnunetRawDataset(copy)).sha256 == original
    change_image(copy / "labelsTr" / "blobs_001.nii.gz", lambda a: np.where(a == 2, 1, a))
    assert fingerprint_dataset(NnunetRawDataset(copy)).sha256 != original


def test_ignored_voxels_are_not_foreground(tmp_path: Path) -> None:
    """The background of about 300 under the ignore label would pull the minimum down."""
    dataset = NnunetRawDataset(make_raw_dataset(tmp_path / "Dataset903_Blobs", cases=2, ignore=True))
    assert fingerprint_dataset(dataset).foreground_intensities[0]["percentile_00_5"] > 330


def test_a_plan_follows(raw_dataset: Path) -> None:
    dataset = NnunetRawDataset(raw_dataset)
    plan = plan_dataset(fingerprint_dataset(dataset), dataset.channel_names, dataset.label_set)
    assert all(patch >= 16 for patch in plan.patch_size)


def test_real_data_give_the_known_plan(shared_data: Path) -> None:
    """Twenty of the 200 cases suffice for the figures that nnU-Net finds on all."""
    dataset = NnunetRawDataset(shared_data / "Dataset004_Hippocampus")
    some = fingerprint_cases(dataset.cases[::10], dataset.channel_names, dataset.label_set)
    plan = plan_dataset(some, dataset.channel_names, dataset.label_set)
    assert some.orientation == "RAS"
    assert plan.spacing == (1.0, 1.0, 1.0)
    assert plan.patch_size == (40, 56, 40)
    assert plan.architecture.features_per_stage == (32, 64, 128, 256)


def test_missing_label_map_is_refused(dataset_folder: Path) -> None:
    (dataset_folder / "labelsTr" / "blobs_002.nii.gz").unlink()
    with pytest.raises(DatasetError, match=r"blobs_002 has no label map.*Add"):
        fingerprint_dataset(NnunetRawDataset(dataset_folder))


def test_unknown_label_is_refused(dataset_folder: Path) -> None:
    change_image(dataset_folder / "labelsTr" / "blobs_000.nii.gz", lambda a: np.where(a == 2, 7, a).astype(a.dtype))
    with pytest.raises(DatasetError, match=r"blobs_000.*\[7\]"):
        fingerprint_dataset(NnunetRawDataset(dataset_folder))


def test_nan_is_refused(tmp_path: Path) -> None:
    folder = make_raw_dataset(tmp_path / "Dataset904_Blobs", cases=2, file_ending=".nrrd")

    def spoil(array: Any) -> Any:
        array[3, 3, 3] = np.nan
        return array

    change_image(folder / "imagesTr" / "blobs_001_0000.nrrd", spoil)
    with pytest.raises(DatasetError, match=r"blobs_001.*not numbers"):
        fingerprint_dataset(NnunetRawDataset(folder))


def test_empty_label_maps_are_refused(dataset_folder: Path) -> None:
    for path in (dataset_folder / "labelsTr").iterdir():
        change_image(path, lambda a: a * 0)
    with pytest.raises(DatasetError, match="No case has a labelled voxel"):
        fingerprint_dataset(NnunetRawDataset(dataset_folder))


def test_no_cases_are_refused(raw_dataset: Path) -> None:
    dataset = NnunetRawDataset(raw_dataset)
    with pytest.raises(DatasetError, match="no cases"):
        fingerprint_cases([], dataset.channel_names, dataset.label_set)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format=9), "format 9"),
        (lambda d: d.pop("cases"), "malformed"),
        (lambda d: d["cases"][0].update(sha256="1" * 64), "was changed"),
    ],
)
def test_damaged_fingerprint_is_refused(raw_dataset: Path, change: Any, message: str) -> None:
    values = fingerprint_dataset(NnunetRawDataset(raw_dataset)).to_dict()
    change(values)
    with pytest.raises(DatasetError, match=message):
        Fingerprint.from_dict(values)


def test_spacings_are_told_in_another_orientation(raw_dataset: Path) -> None:
    dataset = NnunetRawDataset(raw_dataset)
    found = fingerprint_dataset(dataset)
    for codes in ("RAS", "SPL"):
        expected = [case.volume().reoriented(codes).spacing for case in dataset.cases]
        np.testing.assert_allclose(found.spacings_in(codes), expected)
    np.testing.assert_array_equal(found.spacings_in(None), found.spacings)
