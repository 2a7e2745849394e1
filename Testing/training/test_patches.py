"""Cache, sampling and augmentation: what the network is shown."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from plans import small_plan
from raw_dataset import make_raw_dataset
from ReCoKDLib.errors import OutputError
from ReCoKDLib.labels import LabelSet
from ReCoKDLib.preprocessing import preprocess as original
from ReCoKDTrainingLib import sampling
from ReCoKDTrainingLib.augmentation import is_flat, source_patch_size
from ReCoKDTrainingLib.cache import CachedCase, class_locations, preprocess_cases
from ReCoKDTrainingLib.datasets import NnunetRawDataset, open_datasets
from ReCoKDTrainingLib.sampling import PatchDataset, cut, patch_start, seeded

PLAN = small_plan(patch_size=(16, 16, 16))


@pytest.fixture(scope="module")
def dataset(raw_dataset: Path) -> NnunetRawDataset:
    return NnunetRawDataset(raw_dataset)


@pytest.fixture(scope="module")
def cached(dataset: NnunetRawDataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[CachedCase, ...]:
    return preprocess_cases(dataset.cases, PLAN, dataset.label_set, tmp_path_factory.mktemp("cache"), orientation="RAS")


def test_the_cache_is_made_once(dataset: NnunetRawDataset, tmp_path: Path) -> None:
    first = preprocess_cases(dataset.cases[:2], PLAN, dataset.label_set, tmp_path)
    stamps = [case.folder.stat().st_mtime_ns for case in first]
    again = preprocess_cases(dataset.cases[:2], PLAN, dataset.label_set, tmp_path)
    assert again == first
    assert [case.folder.stat().st_mtime_ns for case in again] == stamps


def test_two_runs_may_make_the_same_cache(
    dataset: NnunetRawDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one is done with the case while ours is still at it."""
    others: list[CachedCase] = []

    def preprocess(*given: Any) -> Any:
        if not others:
            with monkeypatch.context() as patched:
                patched.setattr("ReCoKDTrainingLib.cache.preprocess", original)
                others.extend(preprocess_cases(dataset.cases[:1], PLAN, dataset.label_set, tmp_path))
        return original(*given)

    monkeypatch.setattr("ReCoKDTrainingLib.cache.preprocess", preprocess)
    ours = preprocess_cases(dataset.cases[:1], PLAN, dataset.label_set, tmp_path)
    assert list(ours) == others
    assert [path.name for path in tmp_path.iterdir()] == [others[0].folder.name]


def test_a_cache_that_cannot_be_written_is_said_so(
    dataset: NnunetRawDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OutputError, match="No space left"):
        preprocess_cases(dataset.cases[:1], PLAN, dataset.label_set, tmp_path)


def test_another_plan_gets_a_cache_of_its_own(dataset: NnunetRawDataset, tmp_path: Path) -> None:
    fine = preprocess_cases(dataset.cases[:1], PLAN, dataset.label_set, tmp_path)
    coarse = preprocess_cases(dataset.cases[:1], small_plan(spacing=(2.0, 2.0, 2.0)), dataset.label_set, tmp_path)
    assert fine[0].folder != coarse[0].folder
    assert np.prod(coarse[0].data().shape) < np.prod(fine[0].data().shape) / 4
    # width and patch size do not change the data
    narrow = preprocess_cases(
        dataset.cases[:1], small_plan(patch_size=(32, 32, 32)).with_width(1), dataset.label_set, tmp_path
    )
    assert narrow == fine


def test_locations_lie_in_their_class(dataset: NnunetRawDataset, cached: tuple[CachedCase, ...]) -> None:
    for case in cached:
        labels = case.labels()[0]
        locations = case.locations()
        assert set(locations) == {"anterior", "posterior"}
        for segment in dataset.label_set.segments:
            voxels = locations[segment.name]
            assert (labels[tuple(voxels.T)] == segment.value).all()
            assert len(voxels) == (labels == segment.value).sum()


def test_locations_with_regions_and_ignored_voxels() -> None:
    label_set = LabelSet.from_dataset_json(
        {"labels": {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}, "regions_class_order": [1, 2]}
    )
    labels = np.array([-1, 0, 1, 2, 3], np.int16).reshape(1, 1, 5)
    found = {name: sorted(v[:, 2].tolist()) for name, v in class_locations(labels, label_set).items()}
    assert found == {"whole": [2, 3], "core": [3], "annotated": [1, 2, 3]}


def test_few_cases_are_kept_in_memory(
    dataset: NnunetRawDataset, cached: tuple[CachedCase, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "KEPT_LOCATIONS", 2)
    patches = PatchDataset(cached, PLAN, dataset.label_set, 0, 100, augment=False)
    for index in range(30):
        patches[index]
    assert len(patches._locations) == 2


def test_a_sample_is_a_function_of_seed_and_number(dataset: NnunetRawDataset, cached: tuple[CachedCase, ...]) -> None:
    one, two, other = (PatchDataset(cached, PLAN, dataset.label_set, seed, 100) for seed in (3, 3, 4))
    for index in (0, 7, 99):
        image, labels = one[index]
        assert image.shape == labels.shape == (1, 16, 16, 16)
        assert image.dtype == torch.float32
        assert set(np.unique(labels).tolist()) <= {0, 1, 2}
        one[50]  # what else was asked for changes nothing
        again, labels_again = two[index]
        assert torch.equal(image, again)
        assert torch.equal(labels, labels_again)
        assert not torch.equal(image, other[index][0])
    assert not torch.equal(one[0][0], one[1][0])


def test_global_generators_are_left_alone(dataset: NnunetRawDataset, cached: tuple[CachedCase, ...]) -> None:
    patches = PatchDataset(cached, PLAN, dataset.label_set, 0, 100)
    np.random.seed(5)  # noqa: NPY002
    torch.manual_seed(5)
    expected = np.random.random(), torch.rand(1)  # noqa: NPY002
    np.random.seed(5)  # noqa: NPY002
    torch.manual_seed(5)
    patches[3]
    assert (np.random.random(), torch.rand(1)) == expected  # noqa: NPY002


def test_seeding_is_undone_after_an_error() -> None:
    state = torch.random.get_rng_state()
    with pytest.raises(RuntimeError), seeded([1, 2]):
        raise RuntimeError
    assert torch.equal(torch.random.get_rng_state(), state)


def test_every_third_patch_is_centred_on_foreground(tmp_path: Path) -> None:
    """In a large image with two small structures, patches that see none are the rule elsewhere."""
    folder = make_raw_dataset(tmp_path / "large", cases=2, shape=(60, 60, 60), geometries=("axis-aligned",))
    large = NnunetRawDataset(folder)
    small = small_plan(patch_size=(8, 8, 8))
    cases = preprocess_cases(large.cases, small, large.label_set, tmp_path / "cache")
    patches = PatchDataset(cases, small, large.label_set, 0, 300, augment=False)
    centres = [patches[n][1][0, 4, 4, 4].item() > 0 for n in range(300)]
    assert all(centres[2::3])
    assert sum(centres[0::3] + centres[1::3]) < 60


def test_patches_without_augmentation_are_the_data(dataset: NnunetRawDataset, cached: tuple[CachedCase, ...]) -> None:
    image, labels = PatchDataset(cached, PLAN, dataset.label_set, 0, 10, augment=False)[2]
    whole = {case.identifier: case.data() for case in cached}
    values = image[image != 0]
    assert any(np.isin(values.numpy(), data).all() for data in whole.values())
    assert (labels >= 0).all()


def test_cut_fills_what_lies_outside() -> None:
    array = np.arange(27, dtype=np.int16).reshape(1, 3, 3, 3)
    box = cut(array, (-1, 1, 2), (3, 2, 3), -1)
    assert box.shape == (1, 3, 2, 3)
    assert (box[0, 0] == -1).all()
    assert (box[0, :, :, 1:] == -1).all()
    np.testing.assert_array_equal(box[0, 1:, :, 0], array[0, :2, 1:, 2])
    assert (cut(array, (5, 0, 0), (2, 2, 2), -1) == -1).all()


def test_patches_reach_every_voxel_and_small_images_lie_in_the_middle() -> None:
    rng = np.random.default_rng(0)
    starts = {patch_start(rng, (20, 20, 20), (8, 8, 8), (8, 8, 8), None)[0] for _ in range(500)}
    assert starts == set(range(13))
    assert patch_start(rng, (4, 20, 20), (8, 8, 8), (8, 8, 8), (0, 10, 19)) == [-2, 6, 12]
    wide = {patch_start(rng, (20, 20, 20), (12, 12, 12), (8, 8, 8), None)[0] for _ in range(500)}
    assert (min(wide), max(wide)) == (-2, 10)


def test_source_patches_leave_room_for_rotation() -> None:
    assert not is_flat((40, 56, 40))
    assert all(s > p for s, p in zip(source_patch_size((40, 56, 40)), (40, 56, 40), strict=True))
    assert is_flat((16, 128, 128))
    flat = source_patch_size((16, 128, 128))
    assert flat[0] == 16
    assert flat[1] >= 128 * 1.1


@pytest.mark.parametrize("patch", [(16, 16, 16), (4, 32, 32)], ids=["cube", "flat"])
def test_masked_channels_stay_zero_outside(
    dataset: NnunetRawDataset, tmp_path: Path, patch: tuple[int, int, int]
) -> None:
    plan = small_plan(patch_size=patch, masked=True)
    cases = preprocess_cases(dataset.cases[:1], plan, dataset.label_set, tmp_path)
    patches = PatchDataset(cases, plan, dataset.label_set, 0, 40)
    shapes = {tuple(patches[n][0].shape) for n in range(40)}
    assert shapes == {(1, *patch)}


def test_only_the_given_axes_are_mirrored(dataset: NnunetRawDataset, cached: tuple[CachedCase, ...]) -> None:
    """Blob 1 lies before blob 2 along every axis, unless that axis was flipped."""
    for allowed in ((), (2,)):
        patches = PatchDataset(cached, PLAN, dataset.label_set, 0, 120, allowed)
        flipped = np.zeros(3, dtype=int)
        for index in range(120):
            labels = patches[index][1][0].numpy()
            if (labels == 1).sum() > 100 and (labels == 2).sum() > 100:
                flipped += np.argwhere(labels == 1).mean(0) > np.argwhere(labels == 2).mean(0)
        assert (flipped[:2] == 0).all()
        assert (flipped[2] > 10) == (2 in allowed)


def test_cases_that_nobody_annotated_are_ignored_throughout_and_weighted(tmp_path: Path) -> None:
    folder = make_raw_dataset(tmp_path / "some", cases=4)
    for number in (1, 2, 3):
        (folder / "labelsTr" / f"blobs_{number:03d}.nii.gz").unlink()
    dataset = open_datasets([folder])
    ignore = dataset.label_set.ignore_label
    assert ignore is not None
    cases = preprocess_cases(dataset.cases, PLAN, dataset.label_set, tmp_path / "cache")
    assert [case.labelled for case in cases] == [True, False, False, False]

    def share(weight: float, augment: bool) -> float:
        patches = PatchDataset(cases, PLAN, dataset.label_set, 0, 200, augment=augment, unlabelled_weight=weight)
        targets = [patches[index][1] for index in range(40 if augment else 200)]
        ignored = [bool(torch.eq(target, ignore).all()) for target in targets]
        assert all(whole or not torch.eq(target, ignore).any() for target, whole in zip(targets, ignored, strict=True))
        return float(np.mean(ignored))

    assert share(1.0, augment=False) == pytest.approx(3 / 4, abs=0.1)
    assert share(1 / 3, augment=False) == pytest.approx(1 / 2, abs=0.1)
    assert 0 < share(1.0, augment=True) < 1
