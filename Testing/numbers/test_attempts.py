"""Several tiles at a time on a device, and what is tried where its memory does not suffice. No GPU is needed."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from plans import TWO_LABELS, small_plan
from ReCoKDLib.attempts import Attempt, buffer_bytes, first_attempt, next_attempt
from ReCoKDLib.engines import base
from ReCoKDLib.engines.base import TorchEngine
from ReCoKDLib.kept import Kept
from ReCoKDLib.memory import smaller_tile, tile_bytes
from ReCoKDLib.prediction import Predictor
from ReCoKDLib.volume import Volume

CPU = torch.device("cpu")
PLAN = small_plan(schemes=("CTNormalization",), properties={
    "mean": 100.0, "std": 60.0, "percentile_00_5": -1e4, "percentile_99_5": 1e4})  # fmt: skip
PATCH = int(np.prod(PLAN.patch_size))
VOLUME = Volume(np.random.default_rng(5).normal(100, 50, (1, 40, 36, 33)).astype(np.float32), np.eye(4))


class OneByOne(torch.nn.Conv3d):
    """A convolution that rounds as if each tile came alone, and notes the tiles of each call."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(1, 3, 3, padding=1)
        self.calls: list[int] = []
        self.tiles: list[bytes] = []

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        self.calls.append(len(tiles))
        self.tiles += [tile.contiguous().numpy().tobytes() for tile in tiles]
        return torch.cat([super(OneByOne, self).forward(one) for one in tiles[:, None]])


class Device(TorchEngine):
    """The CPU, which says that it has as much memory as a GPU, and fails where a call has more voxels than it takes."""

    def __init__(self, network: torch.nn.Module, free: int = 1 << 40, takes: int = 1 << 40) -> None:
        super().__init__(network, CPU)
        self.free, self.takes = free, takes
        self.device = torch.device("cuda")  # so that the CPU is another one
        self.asked: list[tuple[int, ...]] = []

    def free_bytes(self) -> int | None:
        return self.free

    def __call__(self, tiles: torch.Tensor) -> torch.Tensor:
        self.asked.append((len(tiles), int(np.prod(tiles.shape[2:]))))
        if tiles.numel() > self.takes:
            raise torch.OutOfMemoryError("CUDA out of memory")
        with torch.inference_mode():
            logits: torch.Tensor = self.network(tiles)
        return logits


def predictor_of(engine: TorchEngine) -> Predictor:
    return Predictor(PLAN, TWO_LABELS, [engine.network], engines=[engine])


@pytest.fixture
def expected() -> np.ndarray:
    labels = predictor_of(TorchEngine(OneByOne(), CPU)).predict(VOLUME).labels.array
    assert len(np.unique(labels)) == 3
    return labels


def test_as_many_tiles_as_half_of_the_free_memory_holds() -> None:
    network, tile = OneByOne(), tile_bytes(PLAN.patch_size, PLAN, 3)

    def batch(engine: TorchEngine, **options: Any) -> int:
        return first_attempt([engine], PLAN.patch_size, PLAN, 3, **options).batch

    assert batch(TorchEngine(network, CPU)) == 1
    assert batch(Device(network)) == 8
    assert batch(Device(network, free=7 * tile)) == 3
    assert batch(Device(network, free=0)) == 1
    # This computer's memory, too, is asked: for what goes there and comes back.
    assert batch(Device(network), room=5 * buffer_bytes(PLAN.patch_size, PLAN, 3)) == 5
    assert batch(Device(network), room=-1) == 1
    large = replace(PLAN, patch_size=(160, 160, 160))
    assert first_attempt([Device(network)] * 2, large.patch_size, large, 3).batch == 1


@pytest.mark.parametrize("mirror_axes", [(), (0, 1)])
def test_the_labels_are_those_of_one_tile_a_call(mirror_axes: tuple[int, ...]) -> None:
    results = []
    for engine in (TorchEngine(OneByOne(), CPU), Device(OneByOne(), free=7 * tile_bytes(PLAN.patch_size, PLAN, 3))):
        predictor = predictor_of(engine)
        predictor.mirror_axes = mirror_axes
        results.append(predictor.predict(VOLUME, probabilities=True))
    one, several = (result.probabilities for result in results)
    assert one is not None
    assert several is not None
    np.testing.assert_array_equal(several.array, one.array)
    assert isinstance(engine, Device)
    assert engine.asked[0] == (3, PATCH)


def test_a_full_device_is_given_fewer_tiles_then_smaller_ones_and_then_the_cpu_computes(expected: np.ndarray) -> None:
    told: list[str] = []
    engine = Device(OneByOne(), takes=3 * PATCH)
    np.testing.assert_array_equal(predictor_of(engine).predict(VOLUME, warn=told.append).labels.array, expected)
    assert [count for count, _ in engine.asked[:3]] == [8, 4, 2]
    assert set(engine.asked[2:]) == {(2, PATCH)}
    assert told == []  # it is the same result
    engine = Device(OneByOne(), takes=PATCH // 2)
    predictor_of(engine).predict(VOLUME, warn=told.append)
    assert engine.asked[:5] == [(8, PATCH), (4, PATCH), (2, PATCH), (1, PATCH), (1, PATCH // 2)]
    assert len(told) == 1
    assert "The memory of cpu does not suffice, so tiles of" in told[0]
    engine = Device(OneByOne(), takes=0)
    np.testing.assert_array_equal(predictor_of(engine).predict(VOLUME, warn=told.append).labels.array, expected)
    assert "so the CPU is used" in told[-1]


def test_on_the_cpu_the_first_tiles_are_taken_again_in_the_order_that_is_fast_there() -> None:
    network = OneByOne()
    network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    smallest: tuple[int, ...] = PLAN.patch_size
    while (smaller := smaller_tile(smallest, PLAN)) is not None:
        smallest = smaller
    told: list[str] = []
    full = Attempt([Device(network)], smallest)
    # Not the plan's: a bound on this computer's memory may have made them smaller.
    last = next_attempt(full, PLAN, [network], torch.device("cuda"), (20, 18, 16), told.append)
    assert last is not None
    assert told == ["The memory of cuda does not suffice even for small tiles, so the CPU is used."]
    assert last.tile == (20, 18, 16)
    (engine,) = last.engines
    assert isinstance(engine, TorchEngine)
    assert engine.device == CPU
    assert engine.network is not network
    assert all(parameter.is_contiguous() for parameter in engine.network.parameters())
    assert next_attempt(Attempt(last.engines, smallest), PLAN, [network], CPU, smallest, told.append) is None


def test_tiles_that_are_run_first_and_those_that_are_kept(
    expected: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slices that are shown, and a region of before: each tile is run once."""
    monkeypatch.setattr("ReCoKDLib.previewing.SECONDS", 0.0)
    plain = OneByOne()
    predictor_of(TorchEngine(plain, CPU)).predict(VOLUME)
    network, kept, previews = OneByOne(), Kept(), list[Any]()
    predictor = predictor_of(Device(network, free=7 * tile_bytes(PLAN.patch_size, PLAN, 3)))
    predictor.predict(VOLUME, region=((0, 12), (0, 12), (0, 12)), kept=kept)
    found = predictor.predict(VOLUME, kept=kept, preview=previews.append).labels.array
    np.testing.assert_array_equal(found, expected)
    assert sorted(network.tiles) == sorted(plain.tiles)
    shown = previews[-1].on(VOLUME).array[0]
    assert shown.any()
    np.testing.assert_array_equal(shown[20], expected[0, 20])


@pytest.mark.parametrize("locks", [True, False])
def test_copies_wait_for_what_they_need_and_the_program_only_for_the_result(
    locks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With streams that note what is asked of them, in place of a GPU's; also where no memory can be locked."""
    network = OneByOne()
    engine = TorchEngine(network, CPU)
    said: list[str] = []

    class Stream:
        def __init__(self, name: str) -> None:
            self.name = name

        def wait_stream(self, other: Stream) -> None:
            said.append(f"{self.name} waits for {other.name}")

        def record_event(self) -> Any:
            said.append(f"event in {self.name}")
            return self

        def synchronize(self) -> None:
            said.append("program waits")

    @contextmanager
    def stream(given: Stream) -> Any:
        said.append(f"in {given.name}")
        yield
        said.append("in compute")

    def pinned(tensor: torch.Tensor) -> torch.Tensor:
        said.append("pinned")
        if not locks:
            raise RuntimeError("CUDA error: out of memory")
        return tensor

    def made(*shape: Any, pin_memory: bool = False, **options: Any) -> torch.Tensor:
        if pin_memory and not locks:
            raise RuntimeError("CUDA error: out of memory")
        return empty(*shape, **options)

    names = iter(["copy in", "copy out"])
    compute, empty = Stream("compute"), torch.empty
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream(next(names)))
    monkeypatch.setattr(torch.cuda, "stream", stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: compute)
    monkeypatch.setattr(torch.Tensor, "pin_memory", pinned)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda self, given: said.append(f"held for {given.name}"))
    monkeypatch.setattr(torch, "empty", made)
    engine._lanes = base._Lanes(CPU)
    tiles = torch.randn(3, 1, 8, 8, 8)
    wait = engine.start(tiles, (1,))
    assert network.calls == [3, 3]
    assert said == [
        *("pinned", "in copy in", "in compute", "compute waits for copy in", "held for compute"),
        *("copy out waits for compute", "in copy out", "event in copy out", "in compute", "held for copy out"),
    ]
    found = wait()
    assert said[-1] == "program waits"
    with torch.inference_mode():
        expected = (network(tiles) + network(tiles.flip(3)).flip(3)) / 2
    assert torch.equal(found, expected)
