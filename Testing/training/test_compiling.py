"""The teacher compiled: the same outputs and names of weights; where it can't be, that is said."""

from __future__ import annotations

import os
import shutil
from functools import partial
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from joined_trainers import make_distiller
from ReCoKDLib.labels import LabelSet
from ReCoKDTrainingLib.compiling import CompiledRecorder, compile_teacher
from ReCoKDTrainingLib.distiller import Distiller
from ReCoKDTrainingLib.losses.base import NetworkOutputs
from ReCoKDTrainingLib.recorders import EncoderDecoderRecorder, HookRecorder

LABELS = LabelSet.from_dataset_json({"labels": {"background": 0, "one": 1, "two": 2}})
IMAGES = torch.zeros(1, 1, 16, 16, 16)


@pytest.fixture
def distiller() -> Distiller:
    return make_distiller(LABELS, 1.0)


class Counted:
    """In place of a compiled module: counts its calls, and may fail as a compiler does."""

    made: ClassVar[list[Counted]] = []

    def __init__(self, module: nn.Module, problem: str = "") -> None:
        self.module, self.problem, self.calls = module, problem, 0
        Counted.made.append(self)

    def __call__(self, *arguments: Any) -> Any:
        self.calls += 1
        if self.problem:
            raise RuntimeError(self.problem)
        return self.module(*arguments)


@pytest.fixture(autouse=True)
def _forgotten() -> None:
    Counted.made.clear()


def same_outputs(one: NetworkOutputs, other: NetworkOutputs) -> bool:
    pairs = zip((*one.features, *one.logits), (*other.features, *other.logits), strict=True)
    return all(torch.allclose(a, b, atol=1e-4) for a, b in pairs)


def test_the_teacher_alone_is_compiled_and_its_weights_keep_their_names(
    distiller: Distiller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", Counted)
    names, told = list(distiller.state_dict()), list[str]()
    plain = distiller.teacher_outputs(IMAGES, True)
    compile_teacher(distiller, IMAGES, told.append)
    assert told == ["The teacher is compiled."]
    assert [made.calls for made in Counted.made] == [1, 1], "encoder and decoder"
    assert same_outputs(plain, distiller.teacher_outputs(IMAGES, True))
    assert list(distiller.state_dict()) == names
    report = distiller.training_loss(IMAGES, torch.ones_like(IMAGES, dtype=torch.long), 1.0)
    report.total.backward()  # type: ignore[no-untyped-call]
    assert [made.calls for made in Counted.made] == [3, 3], "not the student"


def test_only_what_is_used_is_compiled(distiller: Distiller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", Counted)
    distiller.etas["logits"] = 0.0
    compile_teacher(distiller, IMAGES, print)
    assert [made.calls for made in Counted.made] == [1, 0]


def test_where_it_is_not_possible_it_goes_on_without(distiller: Distiller, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = "backend='inductor' raised:\nNo compiler was found.\n\nSet some variable for more."
    monkeypatch.setattr(torch, "compile", partial(Counted, problem=problem))
    told: list[str] = []
    plain = distiller.teacher_recorder
    compile_teacher(distiller, IMAGES, told.append)
    assert distiller.teacher_recorder is plain
    reason = "backend='inductor' raised: No compiler was found"
    assert told == [f"The teacher cannot be compiled here ({reason}). Training goes on without."]
    distiller.teacher_outputs(IMAGES, True)


@pytest.mark.slow
@pytest.mark.skipif(
    not any(shutil.which(name) for name in (os.environ.get("CXX", ""), "c++", "g++", "clang++", "cl")),
    reason="no C++ compiler, which torch.compile needs",
)
def test_torch_compiles_it(distiller: Distiller) -> None:
    told: list[str] = []
    images = torch.rand(1, 1, 16, 16, 16)
    plain = distiller.teacher_outputs(images, True)
    compile_teacher(distiller, IMAGES, told.append)
    assert told == ["The teacher is compiled."]
    assert isinstance(distiller.teacher_recorder, CompiledRecorder)
    assert same_outputs(plain, distiller.teacher_outputs(images, True))


def test_other_networks_are_left_as_they_are(distiller: Distiller) -> None:
    told: list[str] = []
    distiller.teacher_recorder = HookRecorder(["encoder"], [8], [(1, 1, 1)])
    compile_teacher(distiller, IMAGES, told.append)
    assert "nnU-Net's own networks only" in told[0]
    distiller.teacher_recorder = EncoderDecoderRecorder(decoder=True)
    compile_teacher(distiller, IMAGES, told.append)
    assert "read stages inside its decoder" in told[1]
    distiller.teacher = None
    compile_teacher(distiller, IMAGES, told.append)
    assert len(told) == 2
