"""The sliding window against a plain float64 loop."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import nn

from ReCoKDLib.engines.base import TorchEngine
from ReCoKDLib.errors import Cancelled
from ReCoKDLib.sliding_window import gaussian_weights, sliding_window_logits, tile_starts, tiling

PATCH = (8, 12, 10)


class Positional(nn.Module):
    """Two convolutions: what a voxel gets depends on its neighbours and so on the tile it lies in."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv3d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv3d(4, 3, 3, padding=1))

    def forward(self, patch: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.layers(patch)
        return result


def reference(network: nn.Module, data: torch.Tensor, mirror_axes: tuple[int, ...]) -> np.ndarray:
    """The definition, in float64: pad, every tile, every flip, weighted mean, crop."""
    shape = data.shape[1:]
    below = [max(p - n, 0) // 2 for p, n in zip(PATCH, shape, strict=True)]
    above = [max(p - n, 0) - b for p, n, b in zip(PATCH, shape, below, strict=True)]
    padded = np.pad(data.double().numpy(), [(0, 0), *zip(below, above, strict=True)])
    weights = gaussian_weights(PATCH).double().numpy()
    total, weight_sum = np.zeros((3, *padded.shape[1:])), np.zeros(padded.shape[1:])
    network = network.double()
    for start in itertools.product(*tile_starts(padded.shape[1:], PATCH)):
        box = tuple(slice(s, s + n) for s, n in zip(start, PATCH, strict=True))
        tile = padded[(slice(None), *box)]
        flips = [axes for n in range(len(mirror_axes) + 1) for axes in itertools.combinations(mirror_axes, n)]
        for axes in flips:
            where = tuple(a + 1 for a in axes)
            with torch.no_grad():
                out = network(torch.from_numpy(np.flip(tile, where).copy())[None])[0].numpy()
            total[(slice(None), *box)] += np.flip(out, where) * weights / len(flips)
        weight_sum[box] += weights
    return (total / weight_sum)[(slice(None), *(slice(b, b + n) for b, n in zip(below, shape, strict=True)))]


@pytest.mark.parametrize("shape", [(8, 12, 10), (5, 12, 7), (13, 31, 10), (21, 6, 25)])
@pytest.mark.parametrize("mirror_axes", [(), (0, 2)], ids=["plain", "mirrored"])
def test_equals_the_float64_loop(shape: tuple[int, int, int], mirror_axes: tuple[int, ...]) -> None:
    data = torch.from_numpy(np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32))
    result = sliding_window_logits(Positional(), data, PATCH, 3, mirror_axes=mirror_axes)
    np.testing.assert_allclose(result.numpy(), reference(Positional(), data, mirror_axes), atol=2e-5)


def test_tiles_are_evenly_spread_and_cover_everything() -> None:
    (starts,) = tile_starts((110,), (64,), 0.5)
    assert starts == [0, 23, 46]
    assert tile_starts((64,), (64,)) == [[0]]
    for length in range(64, 200):
        (starts,) = tile_starts((length,), (64,), 0.5)
        assert starts[0] == 0
        assert starts[-1] == length - 64
        assert max(np.diff(starts), default=0) <= 32


@pytest.mark.parametrize("step", [0, 1.5])
def test_a_senseless_step_is_refused(step: float) -> None:
    with pytest.raises(ValueError, match="tile_step"):
        tile_starts((64,), (64,), step)


def test_gaussian_is_largest_in_the_middle_and_nowhere_zero() -> None:
    weights = gaussian_weights((40, 56, 40))
    assert weights.max() == weights[20, 28, 20] == 10
    assert weights.min() > 0


class OneByOne(Positional):
    """What a tile gets does not hang on the others of its call, to the last bit; notes how many these are."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[int] = []

    def forward(self, patch: torch.Tensor) -> torch.Tensor:
        self.calls.append(len(patch))
        return torch.cat([self.layers(one) for one in patch[:, None]])


@pytest.mark.parametrize(("batch", "calls"), [(1, [1] * 8), (2, [2] * 4), (3, [3, 3, 2]), (20, [8])])
@pytest.mark.parametrize("mirror_axes", [(), (2,)], ids=["plain", "mirrored"])
def test_several_tiles_in_a_call_are_summed_in_the_same_order(
    batch: int, calls: list[int], mirror_axes: tuple[int, ...]
) -> None:
    data = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 12, 18, 15)).astype(np.float32))
    expected = sliding_window_logits(OneByOne(), data, PATCH, 3, mirror_axes=mirror_axes)
    network = OneByOne()
    seen: list[float] = []
    found = sliding_window_logits(network, data, PATCH, 3, mirror_axes=mirror_axes, batch=batch, progress=seen.append)
    assert torch.equal(found, expected)
    assert network.calls == [n for n in calls for _ in range(1 + len(mirror_axes))]
    assert seen == [(n + 1) / 8 for n in range(8)]
    # Convolutions of a batch round otherwise.
    engine = TorchEngine(Positional(), torch.device("cpu"))
    found = sliding_window_logits(engine, data, PATCH, 3, mirror_axes=mirror_axes, batch=batch)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_cancel_stops_at_the_next_call() -> None:
    network = OneByOne()
    with pytest.raises(Cancelled):
        sliding_window_logits(
            network, torch.zeros(2, 40, 40, 40), PATCH, 3, batch=3, cancelled=lambda: len(network.calls) == 2
        )
    assert network.calls == [3, 3]


def test_the_next_tiles_are_begun_with_before_the_last_ones_are_waited_for() -> None:
    said: list[str] = []

    class Starts:
        def __call__(self, tiles: torch.Tensor) -> torch.Tensor:
            pytest.fail("not started")

        def start(self, tiles: torch.Tensor, mirror_axes: Sequence[int] = ()) -> Callable[[], torch.Tensor]:
            number = sum(word.startswith("start") for word in said)
            said.append(f"start {number}")

            def wait() -> torch.Tensor:
                said.append(f"wait {number}")
                return torch.zeros((len(tiles), 3, *PATCH))

            return wait

    sliding_window_logits(Starts(), torch.zeros(2, 12, 18, 10), PATCH, 3, batch=3)
    assert said == ["start 0", "start 1", "wait 0", "wait 1"]


def test_progress_reaches_one_and_never_falls() -> None:
    seen: list[float] = []
    sliding_window_logits(Positional(), torch.zeros(2, 20, 20, 20), PATCH, 3, progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1


def test_cancel_stops_at_the_next_tile() -> None:
    seen: list[float] = []
    with pytest.raises(Cancelled):
        sliding_window_logits(
            Positional(), torch.zeros(2, 40, 40, 40), PATCH, 3, progress=seen.append, cancelled=lambda: len(seen) == 2
        )
    assert len(seen) == 2


@pytest.mark.parametrize("shape", [(8, 12, 10), (5, 12, 7), (23, 31, 10), (21, 6, 25)])
def test_a_region_is_that_of_the_whole_bit_for_bit(shape: tuple[int, int, int]) -> None:
    random = np.random.default_rng(0)
    data = torch.from_numpy(random.normal(size=(2, *shape)).astype(np.float32))
    whole = sliding_window_logits(Positional(), data, PATCH, 3)
    for _ in range(10):
        x, y, z = (slice(*sorted(random.choice(n + 1, 2, replace=False).tolist())) for n in shape)
        part = sliding_window_logits(Positional(), data, PATCH, 3, region=(x, y, z))
        assert torch.equal(part, whole[:, x, y, z])


def test_a_region_takes_the_tiles_that_touch_it() -> None:
    layout = tiling((40, 12, 30), PATCH, region=(slice(7, 9), slice(3, 4), slice(0, 30)))
    assert layout.rows == (0, 4, 8)
    assert layout.columns == ((0, 0), (0, 5), (0, 10), (0, 15), (0, 20))
    assert len(layout.places) == 15
