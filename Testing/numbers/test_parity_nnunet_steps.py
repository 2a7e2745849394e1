"""The same numbers as nnU-Net v2's own code, step by step: tiles, resampling, preprocessing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from geometries import matrix
from plans import plans_json
from ReCoKDLib.errors import PlanError
from ReCoKDLib.image_io import read_volume
from ReCoKDLib.plan import DEFAULT_RESAMPLING, Plan
from ReCoKDLib.preprocessing import preprocess
from ReCoKDLib.resampling import resample, resampled_shape
from ReCoKDLib.sliding_window import gaussian_weights, tile_starts
from ReCoKDLib.volume import Array, Volume

pytestmark = [
    pytest.mark.usefixtures("nnunet"),
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"),
]


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


TORCH_OPTIONS: tuple[dict[str, Any], ...] = (
    {"is_seg": False, "force_separate_z": None},
    {"is_seg": False, "force_separate_z": False, "memefficient_seg_resampling": False},
    {"is_seg": False, "force_separate_z": True, "aniso_axis_mode": "linear", "mode": "nearest"},
    {"is_seg": True, "force_separate_z": None},
    {"is_seg": True, "force_separate_z": False, "memefficient_seg_resampling": True},
)


@pytest.mark.parametrize(("spacing", "new_spacing"), SPACINGS)
@pytest.mark.parametrize("options", TORCH_OPTIONS)
def test_resampling_with_torch_is_nnunets(
    options: dict[str, Any], spacing: tuple[float, ...], new_spacing: tuple[float, ...]
) -> None:
    from nnunetv2.preprocessing.resampling.resample_torch import resample_torch_fornnunet

    random = np.random.default_rng(2)
    shape = tuple(random.integers(9, 24, 3).tolist())
    array: Array = random.normal(size=(2, *shape)).astype(np.float32)
    if options["is_seg"]:
        array = np.kron(random.integers(-1, 4, (1, 6, 6, 6)), np.ones((1, 4, 4, 4)))
        array = array[:, : shape[0], : shape[1], : shape[2]].astype(np.int16)
    new_shape = resampled_shape(array.shape[1:], spacing, new_spacing)
    theirs = resample_torch_fornnunet(array, new_shape, spacing, new_spacing, **options)
    ours = resample(array, new_shape, spacing, new_spacing, {**options, "function": "resample_torch_fornnunet"})
    np.testing.assert_array_equal(ours, theirs)


def test_nnunet_itself_cannot_run_what_is_refused() -> None:
    """It calls with spacings, which this function has no place for."""
    from nnunetv2.preprocessing.resampling.resample_torch import resample_torch_simple

    array = np.zeros((1, 8, 8, 8), np.float32)
    with pytest.raises(TypeError):
        resample_torch_simple(array, (4, 4, 4), (1.0, 1.0, 1.0), (2.0, 2.0, 2.0), is_seg=False)
    plans = plans_json()
    plans["configurations"]["3d_fullres"]["resampling_fn_data"] = "resample_torch_simple"
    with pytest.raises(PlanError, match="'resample_torch_simple', which is not known here. Known: resample_data"):
        Plan.from_nnunet(plans)


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
