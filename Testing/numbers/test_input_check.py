"""Which volumes are refused, and for which the user is warned."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geometries import anisotropic, axis_aligned, matrix, scanner_lps
from packages import small_card
from plans import small_plan
from ReCoKDLib.card import Card, ChannelInfo, Intensity, SpacingInfo
from ReCoKDLib.errors import InputError
from ReCoKDLib.image_io import read_volume
from ReCoKDLib.input_check import check_input
from ReCoKDLib.plan import Plan
from ReCoKDLib.volume import Array, Volume

CT = Intensity((-1024.0, -990.0), (-800.0, -50.0), (250.0, 1500.0))


def image(
    low: float = 80, high: float = 220, shape: tuple[int, ...] = (1, 12, 14, 16), dtype: Any = np.float32
) -> Array:
    values: Array = np.linspace(low, high, int(np.prod(shape))).reshape(shape).astype(dtype)
    return values


def volume(array: Array | None = None, ijk_to_ras: Any = None) -> Volume:
    return Volume(image() if array is None else array, axis_aligned() if ijk_to_ras is None else ijk_to_ras, "v")


def ct_card(intensity: Intensity | None = CT) -> Card:
    return small_card(channels=(ChannelInfo.named("CT", intensity),))


def test_a_volume_like_the_training_cases_is_taken_silently() -> None:
    assert check_input(volume(), small_card(), small_plan()) == ()


@pytest.mark.parametrize("count", [2, 3])
def test_a_wrong_number_of_channels_is_refused(count: int) -> None:
    with pytest.raises(InputError, match=rf"blobs-x4 needs 1 input channel\(s\) \(T1\); {count} given"):
        check_input(volume(image(shape=(count, 8, 8, 8))), small_card(), small_plan())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_not_numbers_are_refused(value: float) -> None:
    array = image()
    array[0, 3, 4, 5:7] = value
    with pytest.raises(InputError, match=r"channel 0 \(T1\) has 2 voxel\(s\) that are not numbers .* Replace them"):
        check_input(volume(array), small_card(), small_plan())


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
def test_a_constant_image_is_refused(dtype: Any) -> None:
    array = np.full((1, 6, 6, 6), 7, dtype=dtype)
    with pytest.raises(InputError, match=r"channel 0 \(T1\) is constant \(every voxel is 7\).*Choose another volume"):
        check_input(volume(array), small_card(), small_plan())


def test_the_channel_at_fault_is_named() -> None:
    card = small_card(channels=(ChannelInfo("T1"), ChannelInfo("T2")))
    array = image(shape=(2, 8, 8, 8))
    array[1] = 0
    with pytest.raises(InputError, match=r"channel 1 \(T2\) is constant"):
        check_input(volume(array), card, small_plan(schemes=("ZScoreNormalization",) * 2))


@pytest.mark.parametrize(("size", "warned"), [(0.5, True), (0.7, False), (1.0, False), (1.4, False), (3.0, True)])
def test_a_far_voxel_size_is_named_with_the_expected_one(size: float, warned: bool) -> None:
    ijk_to_ras = matrix(np.eye(3), (size, 1.0, 1.0), (0, 0, 0))
    warnings = check_input(volume(ijk_to_ras=ijk_to_ras), small_card(), small_plan())
    assert len(warnings) == warned
    if warned:
        assert f"The voxel size 1 x 1 x {size:.3g} mm (k, j, i) is far from that of blobs-x4" in warnings[0]
        assert "training cases, 1 x 1 x 1 mm. The result may be wrong" in warnings[0]


def test_voxel_sizes_are_compared_after_reorientation() -> None:
    """Sagittal slices 5 mm apart: the model was trained on such volumes brought to RAS."""
    turned = volume(ijk_to_ras=anisotropic())
    expected = turned.reoriented("RAS").spacing
    assert expected != turned.spacing
    spacing = SpacingInfo(expected, expected, expected)
    assert check_input(turned, small_card(spacing=spacing), small_plan()) == ()
    assert len(check_input(turned, small_card(spacing=spacing, orientation=None), small_plan())) == 1


def test_the_plans_spacing_stands_in_for_an_unknown_one() -> None:
    card = small_card(spacing=None, orientation=None)
    plan = replace(
        small_plan(transpose=(2, 0, 1)), original_median_spacing=(0.9, 5.0, 0.8)
    )  # i, k, j: so k is 5.0, j is 0.8, i is 0.9
    fitting = matrix(np.eye(3), (0.9, 0.8, 5.0), (0, 0, 0))
    assert check_input(volume(ijk_to_ras=fitting), card, plan) == ()
    (warning,) = check_input(volume(ijk_to_ras=scanner_lps()), card, plan)
    assert "training cases, 5 x 0.8 x 0.9 mm." in warning


@pytest.mark.parametrize("factor", [0.2, 1, 5])
def test_the_scale_of_an_mr_image_is_free(factor: float) -> None:
    assert check_input(volume(image(80 * factor, 220 * factor)), small_card(), small_plan()) == ()


@pytest.mark.parametrize(("low", "high"), [(0, 1), (8e4, 2.2e5), (-1024, 1500)])
def test_intensities_of_another_world_are_named_with_the_expected_ones(low: float, high: float) -> None:
    (warning,) = check_input(volume(image(low, high)), small_card(), small_plan())
    found = np.percentile(image(low, high), (0.5, 99.5))
    assert f"channel 0 (T1) are from {found[0]:.4g} to {found[1]:.4g}" in warning
    assert "from 70 to 260, median 95 to 110" in warning
    assert "check that this is the right volume" in warning


@pytest.mark.parametrize(
    ("low", "high", "warned"),
    [(-1024, 1000, False), (-1024, 2000, False), (0, 255, True), (0, 4095, True), (80, 700, True), (-1.0, 1.0, True)],
)
def test_a_ct_must_have_its_unit(low: float, high: float, warned: bool) -> None:
    """Air and tissue lie at known values; 8-bit pictures, unsigned values and MRI do not have them."""
    assert len(check_input(volume(image(low, high)), ct_card(), small_plan())) == warned


@pytest.mark.parametrize(("low", "high", "warned"), [(-1024, 1000, False), (400, 4000, True), (-1024, -900, True)])
def test_a_ct_is_checked_by_the_plan_where_the_card_knows_nothing(low: float, high: float, warned: bool) -> None:
    plan = small_plan(schemes=("CTNormalization",))  # structures from -50 to 300
    assert len(check_input(volume(image(low, high)), ct_card(None), plan)) == warned


def test_an_mr_is_checked_by_the_plan_where_the_card_knows_nothing() -> None:
    card = small_card(channels=(ChannelInfo("T1", "MR"),))
    known = {"mean": 100.0, "std": 50.0, "min": 0.0, "percentile_00_5": 10.0, "percentile_99_5": 300.0}
    plan = small_plan(properties=known)
    assert check_input(volume(image(0, 1)), card, plan) == ()
    assert check_input(volume(image(-3, 900)), card, plan) == ()  # an interpolated image dips below zero
    (warning,) = check_input(volume(image(-1024, 900)), card, plan)
    assert "10 to 300 in the structures" in warning


def test_percentiles_are_the_cases_own() -> None:
    """Eight-bit images beside ones a thousand times as bright, as in the hippocampus data."""
    measured = Intensity.of_cases([np.arange(0, 201), np.arange(0, 200_001, 1000)])
    assert measured == Intensity((1.0, 1000.0), (100.0, 100_000.0), (199.0, 199_000.0))
    spacing = SpacingInfo.of_cases([(1, 2, 3), (2, 2, 1), (4, 2, 2)])
    assert spacing == SpacingInfo((2, 2, 2), (1, 2, 1), (4, 2, 3))


def test_modalities_are_told_by_names() -> None:
    names = ("CT", "MRI", "T1w", "T1-Gd", "FLAIR", "PET_SUV", "noNorm", "detect")
    found = {name: ChannelInfo.named(name).modality for name in names}
    assert found == {
        "CT": "CT", "MRI": "MR", "T1w": "MR", "T1-Gd": "MR", "FLAIR": "MR", "PET_SUV": "PT", "noNorm": "", "detect": "",
    }  # fmt: skip
    assert ChannelInfo.named("CT").unit == "HU"


@pytest.fixture(scope="module")
def hippocampus(shared_data: Path) -> tuple[Card, Plan, dict[str, Volume]]:
    """The real data and a card made from all of its training cases."""
    data = shared_data / "Dataset004_Hippocampus"
    results = shared_data / "teacher_hippocampus" / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    plan = Plan.from_nnunet(json.loads((results / "plans.json").read_text(encoding="utf-8")))
    split = json.loads((shared_data / "split_hippocampus.json").read_text(encoding="utf-8"))
    split = split[0] if isinstance(split, list) else split
    volumes = {p.name[:-12]: read_volume(p) for p in sorted((data / "imagesTr").glob("*_0000.nii.gz"))}
    training = [volumes[case] for case in split["train"]]
    card = small_card(
        "hippocampus",
        channels=(ChannelInfo.named("MRI", Intensity.of_cases(v.array for v in training)),),
        spacing=SpacingInfo.of_cases([v.spacing for v in training]),
        orientation="RAS",
    )
    return card, plan, volumes


def imported(card: Card) -> Card:
    """What the import of nnU-Net's results knows."""
    return replace(card, channels=(ChannelInfo.named("MRI"),), spacing=None, orientation=None)


def test_no_real_case_is_warned_about(hippocampus: tuple[Card, Plan, dict[str, Volume]], shared_data: Path) -> None:
    card, plan, volumes = hippocampus
    assert len(volumes) == 200
    volumes = {**volumes, "DICOM": read_volume(shared_data / "dicom" / "hippocampus_crop")}
    for known in (card, imported(card)):
        warned = {name: warnings for name, v in volumes.items() if (warnings := check_input(v, known, plan))}
        assert warned == {}


@pytest.mark.parametrize("ct", ["example_ct", "example_ct_sm"])
def test_a_ct_given_to_the_mr_student_is_warned_about(
    hippocampus: tuple[Card, Plan, dict[str, Volume]], shared_data: Path, ct: str
) -> None:
    card, plan, _ = hippocampus
    scan = read_volume(shared_data / "ct" / f"{ct}.nii.gz")
    for known in (card, imported(card)):
        warnings = check_input(scan, known, plan)
        assert len(warnings) == 2
        assert "3 x 3 x 3 mm" in warnings[0]
        assert "1 x 1 x 1 mm" in warnings[0]
        assert "are from -1023 to" in warnings[1]


def test_an_mr_given_to_a_ct_student_is_warned_about(shared_data: Path) -> None:
    scans = [read_volume(shared_data / "ct" / f"{name}.nii.gz") for name in ("example_ct", "example_ct_sm")]
    card = small_card(
        channels=(ChannelInfo.named("CT", Intensity.of_cases(scan.array for scan in scans)),),
        spacing=SpacingInfo.of_cases([scan.spacing for scan in scans]),
    )
    assert [check_input(scan, card, small_plan()) for scan in scans] == [(), ()]
    (warning,) = check_input(read_volume(shared_data / "ct" / "example_mr_sm.nii.gz"), card, small_plan())
    assert "training cases in HU" in warning
