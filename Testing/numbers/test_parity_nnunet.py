"""The same numbers as nnU-Net v2's own code: tiles, resampling, preprocessing, and label maps with a real teacher."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from geometries import axis_aligned, matrix
from plans import plans_json
from ReCoKDLib.exchange.nnunet_import import import_nnunet
from ReCoKDLib.image_io import read_volume
from ReCoKDLib.package import ModelPackage
from ReCoKDLib.plan import DEFAULT_RESAMPLING, Plan
from ReCoKDLib.prediction import Predictor
from ReCoKDLib.preprocessing import preprocess
from ReCoKDLib.resampling import resample, resampled_shape
from ReCoKDLib.sliding_window import gaussian_weights, tile_starts
from ReCoKDLib.volume import Array, Volume

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")

REQUIRED = 0.9999
RESULTS = Path("teacher_hippocampus") / "nnUNetTrainer__nnUNetPlans__3d_fullres"


@pytest.fixture(scope="module", autouse=True)
def nnunet_without_its_variables() -> Iterator[None]:
    """nnU-Net prints about its environment variables when they are missing."""
    pytest.importorskip("nnunetv2")
    names = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
    missing = [name for name in names if name not in os.environ]
    os.environ.update(dict.fromkeys(missing, "not-used"))
    yield
    for name in missing:
        del os.environ[name]


def test_tiles_lie_where_nnunet_puts_them() -> None:
    from nnunetv2.inference.sliding_window_prediction import compute_steps_for_sliding_window

    random = np.random.default_rng(0)
    for _ in range(300):
        patch = random.integers(8, 129, 3).tolist()
        shape = [int(n + random.integers(0, 150)) for n in patch]
        step = float(random.choice([0.25, 0.5, 0.7, 1.0]))
        assert tile_starts(shape, patch, step) == compute_steps_for_sliding_window(shape, patch, step)


@pytest.mark.parametrize("patch", [(40, 56, 40), (16, 160, 128), (7, 9, 11)])
def test_tiles_are_weighted_as_by_nnunet(patch: tuple[int, int, int]) -> None:
    from nnunetv2.inference.sliding_window_prediction import compute_gaussian

    theirs = compute_gaussian(patch, value_scaling_factor=10, dtype=torch.float32, device=torch.device("cpu"))
    torch.testing.assert_close(gaussian_weights(patch), theirs, rtol=1e-6, atol=0)


SPACINGS = (
    ((1.0, 1.0, 1.0), (1.5, 0.8, 1.2)),
    ((5.0, 0.7, 0.7), (5.0, 1.0, 1.0)),  # anisotropic, coarse axis kept
    ((5.0, 0.7, 0.7), (2.0, 1.0, 0.9)),  # anisotropic, coarse axis too
    ((0.7, 0.9, 4.0), (1.0, 1.0, 1.0)),
    ((1.0, 1.0, 1.2), (0.8, 3.5, 0.9)),  # only the target is anisotropic
    ((4.0, 1.0, 4.0), (1.0, 1.0, 1.0)),  # two axes equally coarse
)


@pytest.mark.parametrize(("spacing", "new_spacing"), SPACINGS)
@pytest.mark.parametrize("what", ["data", "seg", "probabilities"])
def test_resampling_is_nnunets(what: str, spacing: tuple[float, ...], new_spacing: tuple[float, ...]) -> None:
    from nnunetv2.preprocessing.resampling.default_resampling import (
        compute_new_shape,
        resample_data_or_seg_to_shape,
    )

    random = np.random.default_rng(1)
    for _ in range(3):
        shape = tuple(random.integers(9, 24, 3).tolist())
        array: Array = random.normal(size=(2, *shape)).astype(np.float32)
        if what == "seg":
            array = np.kron(random.integers(-1, 4, (1, 6, 6, 6)), np.ones((1, 4, 4, 4)))
            array = array[:, : shape[0], : shape[1], : shape[2]].astype(np.int16)
        new_shape = resampled_shape(array.shape[1:], spacing, new_spacing)
        assert new_shape == tuple(compute_new_shape(array.shape[1:], spacing, new_spacing))
        options = DEFAULT_RESAMPLING[what]
        theirs = resample_data_or_seg_to_shape(array, new_shape, spacing, new_spacing, **options)
        ours = resample(array, new_shape, spacing, new_spacing, options)
        assert ours.shape == theirs.shape
        if what == "seg":
            np.testing.assert_array_equal(ours, theirs)
        else:
            np.testing.assert_allclose(ours, theirs, atol=2e-6)


def by_nnunet(
    volume: Volume, plans: dict[str, Any], labels: Volume | None = None
) -> tuple[Array, Array, dict[str, Any]]:
    """nnU-Net's preprocessed image and labels."""
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    manager = PlansManager(plans)
    properties: dict[str, Any] = {"spacing": list(volume.spacing)}
    dataset = {"labels": {"background": 0, "a": 1, "b": 2}, "channel_names": {"0": "x"}, "file_ending": ".nii.gz"}
    data, seg, properties = DefaultPreprocessor(verbose=False).run_case_npy(
        volume.array.astype(np.float32),
        None if labels is None else labels.array.astype(np.int16),
        properties,
        manager,
        manager.get_configuration("3d_fullres"),
        dataset,
    )
    return data, seg, properties


def assert_preprocessed_alike(volume: Volume, plans: dict[str, Any], labels: Volume | None) -> None:
    theirs, their_labels, properties = by_nnunet(volume, plans, labels)
    ours = preprocess(volume, Plan.from_nnunet(plans), labels)
    assert ours.data.shape == theirs.shape
    difference = float(np.abs(ours.data - theirs).max() / max(1.0, np.abs(theirs).max()))
    print(f"Largest difference from nnU-Net's preprocessed image: {difference:.1e} of its largest value")
    assert difference < 1e-5
    assert [[s.start, s.stop] for s in ours.bounding_box] == [list(b) for b in properties["bbox_used_for_cropping"]]
    if labels is not None:
        assert ours.labels is not None
        np.testing.assert_array_equal(ours.labels, their_labels)


@pytest.mark.parametrize("transpose", [(0, 1, 2), (2, 0, 1)])
@pytest.mark.parametrize("target", [(5.0, 1.5, 1.5), (2.0, 2.0, 2.0)])
def test_a_ct_is_prepared_as_by_nnunet(
    shared_data: Path, target: tuple[float, float, float], transpose: tuple[int, int, int]
) -> None:
    scan = read_volume(shared_data / "ct" / "example_ct_sm.nii.gz")
    labels = read_volume(shared_data / "ct" / "example_seg.nii.gz")
    few = labels.with_array((labels.array % 3).astype(np.uint8))
    thick = Volume(scan.array[:, ::2], matrix(np.eye(3), (3.0, 3.0, 12.0), (0, 0, 0)))
    plans = plans_json(
        spacing=[target[axis] for axis in transpose],
        schemes=("CTNormalization",),
        transpose=transpose,
        properties={"mean": 90.0, "std": 170.0, "percentile_00_5": -900.0, "percentile_99_5": 700.0},
    )
    assert_preprocessed_alike(thick, plans, Volume(few.array[:, ::2], thick.ijk_to_ras))


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("scheme", ["ZScoreNormalization", "RescaleTo01Normalization", "NoNormalization"])
def test_a_skull_stripped_mr_is_prepared_as_by_nnunet(shared_data: Path, scheme: str, masked: bool) -> None:
    """A real case, zero outside an ellipsoid as a brain after skull stripping, with a hole in it."""
    data = shared_data / "Dataset004_Hippocampus"
    scan = read_volume(data / "imagesTr" / "hippocampus_003_0000.nii.gz")
    labels = read_volume(data / "labelsTr" / "hippocampus_003.nii.gz")
    place = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in scan.shape), indexing="ij"))
    inside = (place**2).sum(axis=0) < 0.9
    inside[16:18, 25:27, 16:18] = False
    turned = Volume(scan.array * inside, matrix(np.eye(3), (0.9, 1.0, 1.3), (0, 0, 0)))
    kept = Volume(labels.array * inside, turned.ijk_to_ras)
    assert_preprocessed_alike(turned, plans_json(schemes=(scheme,), masked=masked), kept)


@pytest.fixture(scope="module")
def package(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    """The shared teacher, imported."""
    folder = tmp_path_factory.mktemp("imported")
    return ModelPackage.open(import_nnunet(shared_data / RESULTS.parent, folder / "teacher.recokd.zip"))


def their_labels(shared_data: Path, volume: Volume, mirroring: bool) -> Array:
    """The label map of nnU-Net's own predictor on the CPU."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(
        tile_step_size=0.5,
        use_gaussian=True,
        use_mirroring=mirroring,
        perform_everything_on_device=False,
        device=torch.device("cpu"),
        verbose=False,
        verbose_preprocessing=False,
        allow_tqdm=False,
    )
    predictor.initialize_from_trained_model_folder(str(shared_data / RESULTS), (0,), "checkpoint_final.pth")
    labels: Array = predictor.predict_single_npy_array(
        volume.array.astype(np.float32), {"spacing": list(volume.spacing)}
    )
    return labels


def agreement(shared_data: Path, package: ModelPackage, volume: Volume, mirroring: bool = False) -> tuple[int, int]:
    """Voxels on which both agree, and all voxels."""
    ours = Predictor.from_package(package, "cpu", mirroring).predict(volume).labels.array[0]
    theirs = their_labels(shared_data, volume, mirroring)
    assert ours.shape == theirs.shape
    assert set(np.unique(ours)) == {0, 1, 2}  # an empty result would agree with anything empty
    return int((ours == theirs).sum()), ours.size


def test_label_maps_are_nnunets(shared_data: Path, package: ModelPackage) -> None:
    split = json.loads((shared_data / "split_hippocampus.json").read_text(encoding="utf-8"))
    cases = split["val"][::8]
    images = shared_data / "Dataset004_Hippocampus" / "imagesTr"
    results = [agreement(shared_data, package, read_volume(images / f"{case}_0000.nii.gz")) for case in cases]
    same, voxels = np.sum(results, axis=0)
    print(f"Agreement with nnU-Net on {len(cases)} cases: {100 * same / voxels:.5f} % of {voxels} voxels")
    assert same / voxels >= REQUIRED


def test_label_maps_with_mirroring_are_nnunets(shared_data: Path, package: ModelPackage) -> None:
    image = read_volume(shared_data / "Dataset004_Hippocampus" / "imagesTr" / "hippocampus_003_0000.nii.gz")
    same, voxels = agreement(shared_data, package, image, mirroring=True)
    print(f"Agreement with nnU-Net with mirroring: {100 * same / voxels:.5f} % of {voxels} voxels")
    assert same / voxels >= REQUIRED


@pytest.mark.parametrize("every", [2, 4])
def test_label_maps_of_thick_slices_are_nnunets(shared_data: Path, package: ModelPackage, every: int) -> None:
    """There and back again through both kinds of resampling."""
    image = read_volume(shared_data / "dicom" / "hippocampus_crop")
    thick = Volume(image.array[:, ::every], axis_aligned() @ np.diag([1.0, 1.0, every, 1.0]))
    same, voxels = agreement(shared_data, package, thick)
    print(f"Agreement with nnU-Net on slices of {every} mm: {100 * same / voxels:.5f} % of {voxels} voxels")
    assert same / voxels >= REQUIRED
