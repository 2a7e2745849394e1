"""A region of a volume gets what it gets in the whole, and what was computed before is not computed again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from geometries import Matrix
from packages import small_card, small_package, small_weights
from plans import TWO_LABELS, ByIntensity, small_plan
from ReCoKDLib import kept as kept_module
from ReCoKDLib.errors import InputError
from ReCoKDLib.kept import Kept
from ReCoKDLib.package import ModelPackage, write_package
from ReCoKDLib.part import Block, slices_of
from ReCoKDLib.plan import WHOLE_IMAGE, Plan
from ReCoKDLib.prediction import Predictor
from ReCoKDLib.resampling import FROM_FIRST_VOXEL
from ReCoKDLib.segment import LoadedStudent, segment
from ReCoKDLib.volume import Volume

TwoBlobs = Callable[..., tuple[Volume, Volume]]

FIXED = {"mean": 100.0, "std": 60.0, "percentile_00_5": -1e4, "percentile_99_5": 1e4}
BLOCKS: list[Block] = [((3, 9), (8, 16), (10, 24)), ((0, 5), (0, 30), (30, 31)), ((20, 26), (0, 4), (0, 31))]


class Counting:
    """An engine that counts its tiles, and whose logits the next call overwrites."""

    name, precision = "torch", "f32"

    def __init__(self, seed: int = 0, heads: int = 3) -> None:
        torch.manual_seed(seed)
        self.network = torch.nn.Conv3d(1, heads, 3, padding=1)
        self.tiles: list[bytes] = []
        self._logits = torch.empty(0)

    def __call__(self, tiles: torch.Tensor) -> torch.Tensor:
        self.tiles.append(tiles.numpy().tobytes())
        self._logits.fill_(float("nan"))
        with torch.inference_mode():
            self._logits = self.network(tiles)
        return self._logits

    def taken(self) -> int:
        """How many tiles since the last call of this; none of them twice."""
        count = len(self.tiles)
        assert len(set(self.tiles)) == count
        self.tiles.clear()
        return count


def fixed_plan(**changes: Any) -> Plan:
    return small_plan(schemes=("CTNormalization",), properties=FIXED, **changes)


def noise(matrix: Matrix | None = None, shape: tuple[int, int, int] = (26, 30, 31)) -> Volume:
    """With an empty border at two sides."""
    array = np.random.default_rng(5).normal(100, 50, (1, *shape)).astype(np.float32)
    array[:, :3] = array[:, :, -4:] = 0
    return Volume(array, np.eye(4) if matrix is None else matrix)


def by_place(volume: Volume) -> dict[tuple[int, ...], Any]:
    """RAS of every voxel, to a hundredth of a millimetre, with its value."""
    k, j, i = np.indices(volume.shape).reshape(3, -1)
    places = (volume.ijk_to_ras @ np.stack([i, j, k, np.ones_like(i)]))[:3].T
    return dict(zip(map(tuple, np.round(places, 2).tolist()), volume.array[0].reshape(-1).tolist(), strict=True))


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("orientation", [None, "RAS"])
def test_a_region_gets_what_it_gets_in_the_whole(any_geometry: Matrix, block: Block, orientation: str | None) -> None:
    """Label for label, at the same places of the world; from fewer tiles."""
    plan = fixed_plan(spacing=(1.3, 0.9, 1.1), transpose=(2, 0, 1))
    engines = [Counting(0), Counting(1)]
    predictor = Predictor(plan, TWO_LABELS, [e.network for e in engines], engines=engines, orientation=orientation)
    volume = noise(any_geometry)
    whole = predictor.predict(volume, probabilities=True)
    count = engines[0].taken()
    part = predictor.predict(volume, probabilities=True, region=block)
    assert engines[0].taken() < count
    assert part.probabilities is not None
    assert whole.probabilities is not None
    expected = whole.labels.cropped(slices_of(block))
    assert len(np.unique(expected.array)) > 1
    np.testing.assert_array_equal(part.labels.array, expected.array)
    # A softmax rounds its last digit by where a voxel lies in memory.
    soft = whole.probabilities.cropped(slices_of(block)).array
    np.testing.assert_allclose(part.probabilities.array, soft, rtol=0, atol=1e-7)
    everywhere = by_place(whole.labels)
    here = by_place(part.labels)
    assert here.items() <= everywhere.items()
    assert len(here) == part.labels.array.size


@pytest.mark.parametrize(
    ("spacing", "options", "preprocessor"),
    [
        ((1.0, 1.0, 1.0), {}, None),
        ((4.0, 0.8, 0.9), {}, None),
        ((4.0, 0.8, 0.9), {"order_z": 1}, None),
        ((1.4, 0.8, 0.9), {"order": 3}, None),
        ((1.4, 0.8, 0.9), {"function": "resample_torch_fornnunet"}, None),
        ((1.4, 0.8, 0.9), {"function": FROM_FIRST_VOXEL, "order": 1}, WHOLE_IMAGE),
    ],
    ids=["none", "separate-z", "separate-z-linear", "cubic", "torch", "monai"],
)
def test_whatever_the_interpolation(
    spacing: tuple[float, float, float], options: dict[str, Any], preprocessor: str | None
) -> None:
    plan = fixed_plan()
    resampling = {**plan.resampling, "probabilities": {**plan.resampling["probabilities"], **options}}
    plan = replace(plan, resampling=resampling, preprocessor=preprocessor or plan.preprocessor)
    engine = Counting()
    predictor = Predictor(plan, TWO_LABELS, [engine.network], engines=[engine])
    volume = noise(np.diag([*reversed(spacing), 1.0]))
    whole = predictor.predict(volume).labels
    for block in BLOCKS:
        part = predictor.predict(volume, region=block).labels
        np.testing.assert_array_equal(part.array, whole.cropped(slices_of(block)).array)


@pytest.mark.parametrize("block", [((0, 27), (0, 3), (0, 3)), ((-1, 2), (0, 3), (0, 3)), ((4, 4), (0, 3), (0, 3))])
def test_a_region_beyond_the_volume_is_refused(block: Block) -> None:
    with pytest.raises(InputError, match="region.*does not lie in the volume"):
        Predictor(fixed_plan(), TWO_LABELS, [ByIntensity()]).predict(noise(), region=block)


def test_the_result_is_of_the_region_and_the_check_of_what_is_seen(tmp_path: Path) -> None:
    """A voxel that is no number would spoil the tiles around it, in the region or not."""
    plan = fixed_plan()
    path = write_package(
        tmp_path / "ct.recokd.zip", small_card("ct", orientation=None), plan, TWO_LABELS, [small_weights(plan)]
    )
    volume, block = noise(), BLOCKS[0]
    found = segment(volume, path, device="cpu", engine="torch", region=block)
    assert found.volume.same_grid(found.labels)
    np.testing.assert_array_equal(found.volume.array, volume.cropped(slices_of(block)).array)
    volume.array[0, -1, -1, -1] = np.nan
    with pytest.raises(InputError, match="not numbers"):
        segment(volume, path, device="cpu", engine="torch", region=block)


def test_an_empty_region_asks_nobody() -> None:
    engine = Counting()
    predictor = Predictor(fixed_plan(), TWO_LABELS, [engine.network], engines=[engine])
    found = predictor.predict(noise(), region=((0, 3), (0, 30), (0, 31)), probabilities=True)
    assert not found.labels.array.any()
    assert found.probabilities is not None
    assert (found.probabilities.array[0] == 1).all()
    assert engine.taken() == 0


def test_intensities_normalised_by_their_own_mean_see_the_region_alone() -> None:
    block = BLOCKS[0]
    predictor = Predictor(small_plan(), TWO_LABELS, [ByIntensity()])
    volume = noise()
    found = predictor.predict(volume, region=block).labels
    alone = predictor.predict(volume.cropped(slices_of(block))).labels
    assert found.same_grid(alone)
    np.testing.assert_array_equal(found.array, alone.array)


def counted() -> tuple[Counting, Predictor, Volume, Volume, int]:
    """An engine, its predictor, a volume, that one's labels, and how many tiles these took."""
    engine = Counting()
    predictor = Predictor(fixed_plan(), TWO_LABELS, [engine.network], engines=[engine])
    volume = noise(shape=(40, 40, 40))
    whole = predictor.predict(volume).labels
    return engine, predictor, volume, whole, engine.taken()


def test_a_changed_region_costs_new_tiles_only() -> None:
    engine, predictor, volume, whole, all_tiles = counted()
    kept = Kept()
    small: Block = ((6, 12), (6, 12), (6, 12))
    larger: Block = ((6, 12), (6, 12), (6, 30))

    def run(block: Block | None) -> int:
        fractions: list[float] = []
        found = predictor.predict(volume, region=block, kept=kept, progress=fractions.append).labels
        expected = whole if block is None else whole.cropped(slices_of(block))
        np.testing.assert_array_equal(found.array, expected.array)
        assert fractions == sorted(fractions)
        assert fractions[-1] == 1
        return engine.taken()

    first = run(small)
    assert 0 < first < all_tiles
    assert run(small) == 0
    grown = run(larger)
    assert grown > 0
    alone = Counting()
    Predictor(fixed_plan(), TWO_LABELS, [alone.network], engines=[alone]).predict(volume, region=larger)
    assert first + grown == alone.taken()
    assert run(None) == all_tiles - first - grown
    assert run(larger) == 0
    assert run(None) == 0


def test_what_is_kept_is_bounded_and_the_result_the_same() -> None:
    engine, predictor, volume, whole, all_tiles = counted()
    tile = 3 * 4 * int(np.prod(predictor.plan.patch_size))
    kept = Kept(room=2 * tile + 5)
    counts = []
    for block in (None, None, BLOCKS[0], BLOCKS[0], None):
        found = predictor.predict(volume, region=block, kept=kept).labels
        np.testing.assert_array_equal(found.array, (whole if block is None else whole.cropped(slices_of(block))).array)
        counts.append(engine.taken())
        # A region has the room besides that the sums of the whole volume would take.
        assert kept.bytes == 2 * tile if block is None else 2 * tile < kept.bytes <= 2 * tile + 4 * 4 * 16 * 40 * 40
    assert counts[:2] == [all_tiles, all_tiles - 2]
    assert counts[3] < counts[2]
    assert counts[4] >= all_tiles - 2
    assert Predictor(fixed_plan(), TWO_LABELS, [engine.network]).predict(volume, kept=Kept(room=5)).labels.array.any()


def test_tiles_that_are_not_needed_make_way_before_those_that_are() -> None:
    """When there is less room than before, whatever came first."""
    kept, logits = Kept(), torch.zeros(3, 2, 2, 2)
    places = [(n, 0, 0) for n in range(4)]
    (tiles,) = kept.begin("key", [places])
    for place in places:
        tiles.found(place, logits)
    (tiles,) = kept.begin("key", [places[:2]], room=2 * logits.nbytes)
    assert [tiles.kept(place) is not None for place in places] == [True, True, False, False]
    (tiles,) = kept.begin("key", [places[1:2]], room=logits.nbytes)
    assert [tiles.kept(place) is not None for place in places] == [False, True, False, False]
    (tiles,) = kept.begin("key", [places[1:2]], room=0)
    assert kept.bytes == 0


@pytest.mark.parametrize("what", ["a voxel", "the place", "the type", "the student", "the flips", "the tile"])
def test_nothing_of_another_question_is_used(what: str) -> None:
    kept = Kept()
    engine = Counting()
    volume = noise()
    predictor = Predictor(fixed_plan(), TWO_LABELS, [engine.network], engines=[engine])
    predictor.predict(volume, kept=kept)
    all_tiles = engine.taken()
    options: dict[str, Any] = {}
    if what == "a voxel":
        array = volume.array.copy()
        array[0, 13, 14, 15] += 1
        volume = volume.with_array(array)
    elif what == "the place":
        volume = replace(volume, ijk_to_ras=volume.ijk_to_ras @ np.diag([1.0, 1.0, 2.0, 1.0]))
    elif what == "the type":
        volume = volume.with_array(volume.array.astype(np.float64))
    elif what == "the student":
        engine = Counting(1)
        predictor = Predictor(fixed_plan(), TWO_LABELS, [engine.network], engines=[engine])
    elif what == "the flips":
        predictor.mirror_axes = (0,)
    elif what == "the tile":
        options["memory"] = 1e3
        predictor.plan = replace(predictor.plan, patch_size=(16, 16, 32))
    found = predictor.predict(volume, kept=kept, **options).labels
    assert len(engine.tiles) >= all_tiles if what != "the tile" else engine.tiles
    fresh = Predictor(
        predictor.plan, TWO_LABELS, [engine.network], engines=[engine], mirror_axes=predictor.mirror_axes
    ).predict(volume)
    np.testing.assert_array_equal(found.array, fresh.labels.array)


def test_the_student_stays_loaded(tmp_path: Path, two_blobs: TwoBlobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless its package, or how it is to be loaded, is another one."""
    loaded: list[str] = []
    plain = LoadedStudent.load.__func__  # type: ignore[attr-defined]

    def noted(cls: type, package: ModelPackage, *arguments: Any, **options: Any) -> LoadedStudent:
        loaded.append(package.card.name)
        student: LoadedStudent = plain(cls, package, *arguments, **options)
        return student

    monkeypatch.setattr(LoadedStudent, "load", classmethod(noted))
    image, _ = two_blobs()
    first = small_package(tmp_path / "one.recokd.zip", name="one")
    other = small_package(tmp_path / "two.recokd.zip", name="two", folds=2)
    kept = Kept()
    for path in (first, first, other):
        found = segment(image, path, device="cpu", kept=kept)
        np.testing.assert_array_equal(found.labels.array, segment(image, path, device="cpu").labels.array)
    segment(image, other, device="cpu", mirroring=True, kept=kept)
    assert loaded == ["one", "one", "one", "two", "two", "two"]


def test_the_checksum_knows_voxels_that_lie_apart() -> None:
    volume = noise()
    turned = volume.with_array(np.asfortranarray(volume.array))
    assert kept_module.checksum(turned) == kept_module.checksum(volume)
