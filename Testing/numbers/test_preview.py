"""What is told of the slices that somebody looks at, before the volume is done."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from geometries import Matrix
from plans import TWO_LABELS, small_plan
from ReCoKDLib import previewing
from ReCoKDLib.errors import Cancelled
from ReCoKDLib.kept import Kept
from ReCoKDLib.labels import LabelSet
from ReCoKDLib.memory import needed_bytes
from ReCoKDLib.part import slices_of
from ReCoKDLib.plan import Plan
from ReCoKDLib.prediction import Predictor
from ReCoKDLib.preview import Plane, Preview
from ReCoKDLib.volume import Volume

TwoBlobs = Callable[..., tuple[Volume, Volume]]

FIXED = {"mean": 100.0, "std": 60.0, "percentile_00_5": -1e4, "percentile_99_5": 1e4}
SHAPE = (48, 44, 40)


class Noted:
    """An engine that labels by intensity and its neighbours, and notes the places of its tiles by their contents."""

    name, precision = "torch", "f32"

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.network = torch.nn.Conv3d(1, 3, 3, padding=1)
        self.tiles: list[bytes] = []

    def __call__(self, tiles: torch.Tensor) -> torch.Tensor:
        self.tiles.append(tiles.numpy().tobytes())
        with torch.inference_mode():
            logits: torch.Tensor = self.network(tiles)
        return logits


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """After each tile."""
    monkeypatch.setattr(previewing, "SECONDS", 0.0)


def noise(matrix: Matrix | None = None) -> Volume:
    array = np.random.default_rng(5).normal(100, 50, (1, *SHAPE)).astype(np.float32)
    array[:, :3] = array[:, :, -4:] = 0
    return Volume(array, np.eye(4) if matrix is None else matrix)


def at_voxel(volume: Volume, kji: tuple[int, int, int], normals: Any = None) -> list[Plane]:
    """The planes of equal index through a voxel, or others through it."""
    point = (volume.ijk_to_ras @ (*reversed(kji), 1.0))[:3].tolist()
    rows = np.linalg.inv(volume.ijk_to_ras[:3, :3]) if normals is None else normals
    return [(point, list(row)) for row in rows]


def predictor_of(engine: Noted, orientation: str | None = None, **changes: Any) -> Predictor:
    plan = small_plan(schemes=("CTNormalization",), properties=FIXED, **changes)
    return Predictor(plan, TWO_LABELS, [engine.network], engines=[engine], orientation=orientation)


@pytest.mark.parametrize("orientation", [None, "RAS"])
@pytest.mark.parametrize("block", [None, ((2, 40), (5, 44), (3, 33))])
def test_the_result_is_the_same_and_each_tile_is_run_once(
    any_geometry: Matrix, orientation: str | None, block: Any
) -> None:
    volume = noise(any_geometry)
    spacing = volume.reoriented(orientation or volume.axis_codes).spacing
    plain, shown = Noted(), Noted()
    expected = predictor_of(plain, orientation, spacing=spacing).predict(volume, region=block, probabilities=True)
    previews: list[Preview] = []
    found = predictor_of(shown, orientation, spacing=spacing).predict(
        volume,
        region=block,
        probabilities=True,
        preview=previews.append,
        look_at=at_voxel(volume, (20, 22, 19)),
    )
    np.testing.assert_array_equal(found.labels.array, expected.labels.array)
    assert found.probabilities is not None
    assert expected.probabilities is not None
    np.testing.assert_array_equal(found.probabilities.array, expected.probabilities.array)
    assert sorted(plain.tiles) == sorted(shown.tiles)
    assert plain.tiles != shown.tiles
    # The last preview is the result, on the slices that are shown and nowhere else.
    part = (slice(None),) * 3 if block is None else slices_of(block)
    on_planes = np.zeros(SHAPE, bool)
    on_planes[20] = on_planes[:, 22] = on_planes[:, :, 19] = True
    last = previews[-1].on(volume)
    assert last.same_grid(volume)
    np.testing.assert_array_equal(last.array[0][part], np.where(on_planes[part], found.labels.array[0], 0))
    outside = np.ones(SHAPE, bool)
    outside[part] = False
    assert not last.array[0][outside].any()
    assert last.array.any()
    # It grows, from the first tile on.
    assert 0 < len(previews[0].values) < len(previews[-1].values)


def test_slices_that_are_turned_against_the_volume(any_geometry: Matrix) -> None:
    """Every voxel that a slice passes through, and no other."""
    volume = noise(any_geometry)
    point = (volume.ijk_to_ras @ (19.3, 21.8, 22.4, 1.0))[:3]
    normal = np.array([0.3, -0.5, 0.81])
    previews: list[Preview] = []
    engine = Noted()
    predictor = predictor_of(engine, spacing=volume.spacing)
    found = predictor.predict(
        volume, preview=previews.append, look_at=[(point.tolist(), (3 * normal).tolist())]
    ).labels.array[0]
    k, j, i = np.indices(SHAPE).reshape(3, -1)
    places = (volume.ijk_to_ras @ np.stack([i, j, k, np.ones_like(i)]))[:3].T
    unit = normal / np.linalg.norm(normal)
    reach = 0.5 * np.abs(unit @ volume.ijk_to_ras[:3, :3]).sum()
    crossed = (np.abs((places - point) @ unit) <= reach - 1e-5).reshape(SHAPE)
    assert crossed.sum() > 1000
    np.testing.assert_array_equal(previews[-1].on(volume).array[0], np.where(crossed, found, 0))


def test_the_tile_at_the_crossing_is_the_first_and_far_ones_follow() -> None:
    volume = noise()
    engine = Noted()
    predictor = predictor_of(engine)
    previews: list[Preview] = []
    kept = Kept()
    predictor.predict(volume, preview=previews.append, look_at=at_voxel(volume, (24, 22, 20)), kept=kept)
    middle = np.abs(previews[0].voxels - np.array((24, 22, 20))).max(axis=0)
    assert (middle <= 16).all()
    # A few tiles show all of the slices; those between follow in their order.
    reached = [(preview.voxels.min(axis=0).tolist(), preview.voxels.max(axis=0).tolist()) for preview in previews]
    assert reached[0] != reached[-1]
    assert reached.index(reached[-1]) < len(engine.tiles) / 3


def test_as_many_tiles_are_run_first_as_there_is_room_to_keep() -> None:
    volume = noise()
    plain, engine = Noted(), Noted()
    predictor_of(plain).predict(volume)
    predictor = predictor_of(engine)
    tile = 3 * 4 * int(np.prod(predictor.plan.patch_size))
    expected = predictor.predict(volume).labels.array
    engine.tiles.clear()
    kept = Kept(room=3 * tile)
    found = predictor.predict(volume, preview=lambda _: None, kept=kept).labels.array
    np.testing.assert_array_equal(found, expected)
    assert sorted(engine.tiles) == sorted(plain.tiles)
    ahead = engine.tiles[:3]
    assert engine.tiles[3:] == [tile for tile in plain.tiles if tile not in ahead]
    assert kept.bytes == 3 * tile


def test_each_fold_keeps_its_first_tiles() -> None:
    volume = noise()
    plain, shown = [Noted(), Noted()], [Noted(), Noted()]
    results, fractions = [], list[float]()
    for engines in (plain, shown):
        predictor = predictor_of(engines[0])
        tile = 3 * 4 * int(np.prod(predictor.plan.patch_size))
        folds = Predictor(predictor.plan, TWO_LABELS, [engine.network for engine in engines], engines=engines)
        options: Any = {"preview": lambda _: None, "kept": Kept(room=5 * tile), "progress": fractions.append}
        results.append(folds.predict(volume, **(options if engines is shown else {})).labels.array)
    np.testing.assert_array_equal(results[0], results[1])
    for one, other in zip(plain, shown, strict=True):
        assert sorted(one.tiles) == sorted(other.tiles)
    assert fractions == sorted(fractions)
    assert fractions[-1] == pytest.approx(1)


def test_what_is_known_already_is_in_the_first_preview() -> None:
    volume = noise()
    engine = Noted()
    predictor = predictor_of(engine)
    kept = Kept()
    predictor.predict(volume, region=((0, 48), (0, 20), (0, 20)), kept=kept)
    engine.tiles.clear()
    previews: list[Preview] = []
    predictor.predict(volume, kept=kept, preview=previews.append, look_at=at_voxel(volume, (30, 30, 30)))
    assert previews[0].on(volume).array[0][30, :20, :20].any()


def test_many_classes_are_copied_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them of all shown voxels are held once, which the bound counts, and never copied as a whole."""
    heads = 20
    names = {"background": 0, **{f"part {value}": value for value in range(1, heads)}}
    label_set = LabelSet.from_dataset_json({"labels": names})
    copied: list[int] = []
    right = LabelSet.label_map

    def noted(self: LabelSet, logits: torch.Tensor, wanted: Any = None) -> torch.Tensor:
        if logits.ndim == 2:
            copied.append(logits.nbytes)
        return right(self, logits, wanted)

    monkeypatch.setattr(LabelSet, "label_map", noted)
    engine = Noted()
    engine.network = torch.nn.Conv3d(1, heads, 3, padding=1)
    plan = small_plan(schemes=("CTNormalization",), properties=FIXED)
    predictor = Predictor(plan, label_set, [engine.network], engines=[engine])
    bounds: list[int] = []
    plain = needed_bytes

    def bounded(plan: Plan, heads: int, shape: Any, result_bytes: int, tile: Any) -> int:
        bounds.append(result_bytes)
        return plain(plan, heads, shape, result_bytes, tile)

    monkeypatch.setattr("ReCoKDLib.prediction.needed_bytes", bounded)
    results, shown = [], []
    for chunk in (1 << 30, 1 << 14):
        monkeypatch.setattr(previewing, "_CHUNK", chunk)
        copied.clear()
        previews: list[Preview] = []
        found = predictor.predict(noise(), memory=1e3, preview=previews.append, look_at=at_voxel(noise(), (20, 22, 19)))
        results.append(found.labels.array)
        shown.append(previews[-1])
        assert max(copied) <= chunk
        assert max(copied) > 1 << 15 or chunk == 1 << 14  # so that it makes a difference
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(shown[0].on(noise()).array, shown[1].on(noise()).array)
    predictor.predict(noise(), memory=1e3)
    voxels = 48 * 44 + 48 * 40 + 44 * 40 - 48 - 44 - 40 + 1
    assert bounds[0] == bounds[1]
    # What is cut off around the volume is not shown.
    assert 0.7 * 4 * heads * voxels < bounds[0] - bounds[2] <= 4 * heads * voxels


def test_no_preview_of_what_is_soon_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(previewing, "SECONDS", 60.0)
    previews: list[Preview] = []
    predictor_of(Noted()).predict(noise(), preview=previews.append)
    assert previews == []


@pytest.mark.parametrize("planes", [[((500.0, 0, 0), (1, 0, 0))], [((5.0, 5, 5), (0, 0, 0))]], ids=["beside", "none"])
def test_slices_that_do_not_meet_the_volume(planes: list[Plane]) -> None:
    engine, plain = Noted(), Noted()
    previews: list[Preview] = []
    found = predictor_of(engine).predict(noise(), preview=previews.append, look_at=planes)
    np.testing.assert_array_equal(found.labels.array, predictor_of(plain).predict(noise()).labels.array)
    assert engine.tiles == plain.tiles
    assert previews == []


def test_cancelling_among_the_first_tiles() -> None:
    previews: list[Preview] = []
    with pytest.raises(Cancelled):
        predictor_of(Noted()).predict(noise(), preview=previews.append, cancelled=lambda: bool(previews))
    assert len(previews) == 1
