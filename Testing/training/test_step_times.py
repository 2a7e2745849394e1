"""What the parts of a step take: measured without double counting, told once, and without any effect."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
import torch

from ReCoKDTrainingLib.history import Row
from ReCoKDTrainingLib.stopwatch import (
    PARTS,
    SECONDS,
    Stopwatch,
    describe_split,
    is_measured,
    logged_split,
    split_of_step,
)

CPU = torch.device("cpu")


def test_time_is_counted_once() -> None:
    watch = Stopwatch(CPU, on=True)
    begun = time.perf_counter()
    with watch("losses"):
        time.sleep(0.01)
        for name, seconds in (("teacher", 0.03), ("student", 0.02)):
            with watch(name):
                time.sleep(seconds)
    whole = time.perf_counter() - begun
    assert {name: len(entries) for name, entries in watch.clock.items()} == dict.fromkeys(watch.clock, 1)
    assert watch.clock["teacher"][0] >= 0.03
    assert watch.clock["student"][0] >= 0.02
    assert 0.01 <= watch.clock["losses"][0] <= whole - 0.05
    assert sum(entries[0] for entries in watch.clock.values()) == pytest.approx(whole, abs=2e-3)
    assert sum(entries[0] for entries in watch.processor.values()) < 0.03, "sleeping is no work"


def test_it_is_off_until_it_is_turned_on_and_outlives_errors() -> None:
    watch = Stopwatch(CPU)
    with watch("losses"):
        pass
    assert not watch.clock
    watch.on = True
    with pytest.raises(RuntimeError), watch("losses"), watch("teacher"):
        raise RuntimeError
    assert not any(watch.clock.values())
    with watch("backward"):
        pass
    assert len(watch.clock["backward"]) == 1


def test_a_few_steps_all_over_the_epoch_are_measured() -> None:
    measured = [step for step in range(250) if is_measured(step, 250)]
    assert len(measured) == 8
    assert measured[0] > 0, "the first step of an epoch is no usual one"
    assert max(b - a for a, b in pairwise(measured)) <= 32
    assert [is_measured(step, 3) for step in range(3)] == [True, True, True]


def test_the_split_has_what_was_measured_and_the_rest() -> None:
    watch = Stopwatch(CPU)
    assert split_of_step(watch, 1.0, 0.1) == {}
    watch.clock |= {"data": [0.0, 0.0], "student": [0.2, 0.4], "losses": [0.1, 0.1, 0.1, 0.1]}  # in two parts each
    split = split_of_step(watch, 1.0, 0.1)
    assert split == pytest.approx({"data": 0.1, "student": 0.3, "losses": 0.2, "rest": 0.4})
    assert describe_split(split) == "A step takes 1 s: data 10 %, student 30 %, losses 20 %, rest 40 %."
    row: Row = {"epoch": 1, **{SECONDS + part: value for part, value in split.items()}}
    assert logged_split(row) == split
    assert set(split) <= set(PARTS)
