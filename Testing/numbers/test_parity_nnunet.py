"""With the same weights, the label maps of nnU-Net v2's own predictor, run for real.

``pytest Testing/numbers/test_parity_nnunet.py -n 0 -s`` prints the table of all cases.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from geometries import Matrix, axis_aligned, oblique_left_handed, scanner_lps
from nnunet_oracle import nnunet_files, nnunet_labels, random_results, single_precision
from plans import changed, network_changed, of_2022, plans_json
from ReCoKDLib.exchange.nnunet_import import import_nnunet
from ReCoKDLib.image_io import read_volume
from ReCoKDLib.package import ModelPackage
from ReCoKDLib.prediction import Predictor
from ReCoKDLib.segment import segment_files
from ReCoKDLib.volume import Array, Volume

pytestmark = [
    pytest.mark.usefixtures("nnunet"),
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"),
]

REQUIRED = 0.9999
TEACHER = Path("teacher_hippocampus") / "nnUNetTrainer__nnUNetPlans__3d_fullres"
CT = {"mean": 90.0, "std": 170.0, "percentile_00_5": -900.0, "percentile_99_5": 700.0}
LABELS = {"background": 0, "organ": 1, "lesion": 2}
REGIONS = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}
TORCH = {"is_seg": False, "force_separate_z": None, "memefficient_seg_resampling": False}

Row = Callable[..., None]


@pytest.fixture(scope="module")
def row() -> Iterator[Row]:
    """Compares two label maps, and their probabilities where given, and keeps a row of the table."""
    rows: list[str] = []

    def compare(what: str, ours: Array, theirs: Array, soft: tuple[Array, Array] | None = None, heads: int = 3) -> None:
        assert ours.shape == theirs.shape
        assert len(np.unique(theirs)) >= min(heads, 3)  # an empty result would agree with anything empty
        agreement = float((ours == theirs).mean())
        difference = f"{np.abs(soft[0] - soft[1]).max():.1e}" if soft else "-"
        rows.append(f"| {what} | {ours.size:,} | {100 * agreement:.4f} | {difference} |")
        print(rows[-1])
        assert agreement >= REQUIRED

    yield compare
    print("\n\n| case | voxels | same label, % | largest difference in probability |\n|---|---|---|---|")
    print("\n".join(rows))


def dataset_json(labels: Mapping[str, Any], channels: Sequence[str], **more: Any) -> dict[str, Any]:
    names = {str(index): name for index, name in enumerate(channels)}
    return {"channel_names": names, "labels": dict(labels), "numTraining": 2, "file_ending": ".nii.gz", **more}


# --- trained weights, nnU-Net unmodified ---


@pytest.fixture(scope="module")
def teacher(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    """The shared teacher, imported."""
    folder = tmp_path_factory.mktemp("imported")
    return ModelPackage.open(import_nnunet(shared_data / TEACHER.parent, folder / "teacher.recokd.zip"))


def compare_trained(
    row: Row, what: str, shared_data: Path, teacher: ModelPackage, volumes: Sequence[Volume], mirroring: bool
) -> None:
    results = []
    for volume in volumes:
        ours = Predictor.from_package(teacher, "cpu", mirroring).predict(volume, probabilities=True)
        assert ours.probabilities is not None
        theirs = nnunet_labels(shared_data / TEACHER, ["0"], volume, mirroring)
        results.append((ours.labels.array[0].ravel(), theirs[0].ravel(), ours.probabilities.array, theirs[1]))
    ours_all, theirs_all = (np.concatenate([result[part] for result in results]) for part in (0, 1))
    soft = [np.concatenate([result[part].ravel() for result in results]) for part in (2, 3)]
    row(what + (", mirrored" if mirroring else ""), ours_all, theirs_all, (soft[0], soft[1]))


@pytest.mark.parametrize("mirroring", [False, True])
def test_hippocampi_are_labelled_as_by_nnunet(
    shared_data: Path, teacher: ModelPackage, row: Row, mirroring: bool
) -> None:
    split = json.loads((shared_data / "split_hippocampus.json").read_text(encoding="utf-8"))
    images = shared_data / "Dataset004_Hippocampus" / "imagesTr"
    cases = split["val"][:: 20 if mirroring else 8]
    volumes = [read_volume(images / f"{case}_0000.nii.gz") for case in cases]
    compare_trained(row, f"trained, {len(cases)} hippocampus cases", shared_data, teacher, volumes, mirroring)


@pytest.mark.parametrize("every", [2, 4])
def test_thick_slices_are_labelled_as_by_nnunet(shared_data: Path, teacher: ModelPackage, row: Row, every: int) -> None:
    """There and back again through both kinds of resampling."""
    image = read_volume(shared_data / "dicom" / "hippocampus_crop")
    thick = Volume(image.array[:, ::every], axis_aligned() @ np.diag([1.0, 1.0, every, 1.0]))
    compare_trained(row, f"trained, slices of {every} mm", shared_data, teacher, [thick], mirroring=False)


# --- random weights, nnU-Net's predictor in single precision ---


@dataclass(frozen=True)
class Case:
    """What is compared: a plan, what the labels are, on which images."""

    what: str
    plans: Mapping[str, Any]
    image: str = "ct_crop"
    labels: Mapping[str, Any] = field(default_factory=lambda: LABELS)
    channels: Sequence[str] = ("CT",)
    order: Sequence[int] | None = None
    configuration: str = "3d_fullres"
    folds: Sequence[str] = ("0",)
    mirrored: bool = False  # besides without

    @property
    def dataset(self) -> dict[str, Any]:
        return dataset_json(
            self.labels, self.channels, **({"regions_class_order": list(self.order)} if self.order else {})
        )


def ct_plans(spacing: Sequence[float] = (4.0, 4.0, 4.0), patch: Sequence[int] = (32, 32, 32), **more: Any) -> Any:
    return plans_json(
        features=(4, 8, 8),
        spacing=spacing,
        patch_size=patch,
        **{"schemes": ("CTNormalization",), "properties": CT, **more},
    )


def with_resampling(plans: Mapping[str, Any], function: str, **options: Any) -> dict[str, Any]:
    entries: dict[str, Any] = {}
    for what in ("data", "seg", "probabilities"):
        entries[f"resampling_fn_{what}"] = function
        entries[f"resampling_fn_{what}_kwargs"] = {**options, "is_seg": what == "seg"} if options else {}
    return changed(plans, **entries)


THICK = network_changed(
    ct_plans((5.0, 2.0, 2.0), (8, 32, 32)),
    kernel_sizes=[[1, 3, 3], [3, 3, 3], [3, 3, 3]],
    strides=[[1, 1, 1], [1, 2, 2], [2, 2, 2]],
)
CASES = (
    Case("CT, 3 mm", ct_plans((5.0, 5.0, 5.0), (40, 40, 40)), "ct"),
    Case("CT, 3 mm, a part", ct_plans(), mirrored=True),
    Case("CT of 1 x 1 x 5 mm", THICK, "thick", mirrored=True),
    Case("CT of 1 x 1 x 5 mm, brought to 3 mm", ct_plans((3.0, 3.0, 3.0), (24, 32, 32)), "thick"),
    Case("oblique left-handed CT", ct_plans(), "oblique", mirrored=True),
    Case(
        "two channels, CT and masked z-score",
        ct_plans(schemes=("CTNormalization", "ZScoreNormalization"), masked=True),
        "two_channels",
        channels=("CT", "T1"),
        mirrored=True,
    ),
    Case(
        "three channels: rescaled, as they are, RGB",
        ct_plans(schemes=("RescaleTo01Normalization", "NoNormalization", "RGBTo01Normalization")),
        "three_channels",
        channels=("a", "b", "c"),
    ),
    Case("regions", ct_plans(), labels=REGIONS, order=(1, 2, 3), mirrored=True),
    Case("regions, the inner one first", ct_plans(), labels=REGIONS, order=(3, 1, 2)),
    Case("an ignore label", ct_plans(), labels={**LABELS, "ignore": 3}),
    Case("two folds", ct_plans(), folds=("0", "1"), mirrored=True),
    Case("the fold of all cases", ct_plans(), folds=("all",)),
    Case("ResidualEncoderUNet", ct_plans(residual=True), mirrored=True),
    Case("plan of 2022", of_2022(ct_plans())),
    Case("plan of 2022, ResidualEncoderUNet", of_2022(ct_plans(residual=True))),
    Case("3d_lowres", changed(ct_plans(), "3d_lowres", spacing=[6.0, 6.0, 6.0]), configuration="3d_lowres"),
    Case("transposed axes", ct_plans((5.0, 3.0, 4.0), (16, 32, 24), transpose=(2, 0, 1)), mirrored=True),
    Case("transposed axes, 1 x 1 x 5 mm", ct_plans((2.0, 5.0, 2.0), (32, 8, 32), transpose=(1, 0, 2)), "thick"),
    Case("resample_torch_fornnunet", with_resampling(ct_plans(), "resample_torch_fornnunet", **TORCH)),
    Case(
        "resample_torch_fornnunet, 1 x 1 x 5 mm",
        with_resampling(ct_plans((3.0, 3.0, 3.0), (24, 32, 32)), "resample_torch_fornnunet", **TORCH),
        "thick",
    ),
    Case("no_resampling_hack", with_resampling(ct_plans(), "no_resampling_hack")),
)


def resampled(image: sitk.Image, ijk_to_ras: Matrix, size: Sequence[int]) -> sitk.Image:
    """A CT on another grid, which is moved so that both have the same centre."""
    lps = np.diag([-1.0, -1.0, 1.0]) @ ijk_to_ras[:3, :3]
    spacing = np.linalg.norm(lps, axis=0)
    middle = image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()])
    origin = np.array(middle) - lps @ ((np.array(size) - 1) / 2)
    directions = (lps / spacing).ravel().tolist()
    grid = (list(size), sitk.Transform(), sitk.sitkLinear, origin.tolist(), spacing.tolist(), directions)
    return sitk.Resample(image, *grid, -1024.0)


@pytest.fixture(scope="module")
def images(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The CT on several grids, as files."""
    ct = sitk.ReadImage(str(shared_data / "ct" / "example_ct.nii.gz"))
    turned, lps = oblique_left_handed(), scanner_lps()
    # Brought to 4 mm, each axis falls between two lengths (60 x 2.5 / 4 = 37.5), so that the last digit counts.
    turned[:3, :3] = turned[:3, :3] / np.linalg.norm(turned[:3, :3], axis=0) * (2.5, 3.5, 4.5)
    made = {
        "ct": ct,
        "ct_crop": ct[30:85, 25:80, 30:75],
        "thick": resampled(ct, np.diag([1.0, 1.0, 5.0, 1.0]), (120, 100, 24)),
        "oblique": resampled(ct, turned, (60, 52, 44)),
        "oblique_uneven": resampled(ct, turned, (61, 55, 49)),
        "lps": resampled(ct, lps @ np.diag([3.0, 3.0, 3.0, 1.0]), (50, 45, 41)),
    }
    folder = tmp_path_factory.mktemp("images")
    for name, image in made.items():
        sitk.WriteImage(image, str(folder / f"{name}_0000.nii.gz"))
    return {name: folder / f"{name}_0000.nii.gz" for name in made}


@pytest.fixture(scope="module")
def volumes(images: dict[str, Path]) -> dict[str, Volume]:
    """The same in memory, and some channels made of them."""
    read = {name: read_volume(path) for name, path in images.items()}
    crop = read["ct_crop"]
    body = np.where(crop.array > -300, crop.array, 0).astype(np.float32)
    shades = np.clip((crop.array + 1000) / 8, 0, 255)
    several = {
        "two_channels": crop.with_array(np.concatenate([crop.array, np.sqrt(np.abs(body))])),
        "three_channels": crop.with_array(np.concatenate([crop.array, crop.array / 500, shades])),
    }
    return {**read, **several}


RUNS = [(case, False) for case in CASES] + [(case, True) for case in CASES if case.mirrored]


@pytest.mark.parametrize(
    ("case", "mirroring"), RUNS, ids=[case.what + (", mirrored" if mirroring else "") for case, mirroring in RUNS]
)
def test_label_maps_are_nnunets(
    case: Case, mirroring: bool, volumes: dict[str, Volume], tmp_path: Path, row: Row
) -> None:
    name = f"nnUNetTrainer__nnUNetPlans__{case.configuration}"
    results = random_results(
        tmp_path / name, case.plans, case.dataset, configuration=case.configuration, folds=case.folds
    )
    folds = None if case.folds != ("all",) else ["all"]
    package = ModelPackage.open(import_nnunet(results, tmp_path / "model.recokd.zip", folds=folds))
    volume = volumes[case.image]
    ours = Predictor.from_package(package, "cpu", mirroring).predict(volume, probabilities=True)
    assert ours.probabilities is not None
    with single_precision():
        labels, probabilities = nnunet_labels(results, case.folds, volume, mirroring)
    row(
        f"random, {case.what}" + (", mirrored" if mirroring else ""),
        ours.labels.array[0],
        labels,
        (ours.probabilities.array, probabilities),
        package.label_set.number_of_heads,
    )


@pytest.mark.parametrize(
    ("reader", "image"),
    [
        ("SimpleITKIO", "oblique"),
        ("SimpleITKIO", "lps"),
        ("SimpleITKIO", "thick"),
        ("NibabelIO", "oblique"),
        ("SimpleITKIOWithReorient", "oblique"),
        ("SimpleITKIOWithReorient", "lps"),
        # Not "oblique": its reader takes 2.4999998 mm from the matrix in single precision where the header has 2.5,
        # so that lengths halfway between two are rounded otherwise than by nnU-Net's three other readers.
        ("NibabelIOWithReorient", "oblique_uneven"),
        ("NibabelIOWithReorient", "lps"),
    ],
)
def test_files_are_labelled_as_by_nnunets_own_readers(
    reader: str, image: str, images: dict[str, Path], tmp_path: Path, row: Row
) -> None:
    """From file to file: the same labels at the same places in the patient, whichever axes the reader shows."""
    plans = {**ct_plans(), "image_reader_writer": reader}
    results = random_results(tmp_path / "nnUNetTrainer__nnUNetPlans__3d_fullres", plans, dataset_json(LABELS, ["CT"]))
    model = import_nnunet(results, tmp_path / "model.recokd.zip")
    with single_precision():
        theirs = read_volume(nnunet_files(results, ["0"], [images[image]], tmp_path / "theirs", False))
    segment_files([images[image]], model, tmp_path / "ours.nii.gz", device="cpu")
    ours = read_volume(tmp_path / "ours.nii.gz")
    assert ours.same_grid(theirs)
    row(f"random, file, {image}, {reader}", ours.array, theirs.array)


def test_without_changes_nnunet_rounds_to_half_precision(volumes: dict[str, Volume], tmp_path: Path) -> None:
    """Why random weights are compared in single precision, and that the oracle's switch does something."""
    results = random_results(tmp_path / "nnUNetTrainer__nnUNetPlans__3d_fullres", ct_plans(), CASES[0].dataset)
    half, _ = nnunet_labels(results, ["0"], volumes["ct_crop"], False)
    with single_precision():
        single, _ = nnunet_labels(results, ["0"], volumes["ct_crop"], False)
    assert 0 < (half != single).mean() < 0.02
