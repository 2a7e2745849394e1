"""The distillation losses by name, so that trainer and distiller know none of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from ReCoKDLib.errors import ReCoKDError
from ReCoKDLib.labels import LabelSet

from .base import DistillationLoss


@dataclass(frozen=True)
class LossSetting:
    """What a loss may depend on besides its options.

    Attributes:
        teacher_channels: channels of the teacher's encoder stages that are paired with the student's, in the
            student's order: full resolution first, bottleneck last.
        student_channels: the same of the student.
        label_set: what the labels and the heads mean.
    """

    teacher_channels: tuple[int, ...]
    student_channels: tuple[int, ...]
    label_set: LabelSet


Builder = Callable[[LossSetting, Mapping[str, Any]], DistillationLoss]
_BUILDERS: dict[str, Builder] = {}


def register(name: str) -> Callable[[Builder], Builder]:
    """Decorator: enter a function (setting, options) -> loss under ``name``."""

    def enter(builder: Builder) -> Builder:
        if name in _BUILDERS:
            raise ValueError(f"a distillation loss named {name!r} is registered already")
        _BUILDERS[name] = builder
        return builder

    return enter


def available_losses() -> tuple[str, ...]:
    """The registered names, sorted."""
    return tuple(sorted(_BUILDERS))


def build_loss(
    name: str,
    *,
    teacher_channels: Sequence[int],
    student_channels: Sequence[int],
    label_set: LabelSet,
    options: Mapping[str, Any] | None = None,
) -> DistillationLoss:
    """Build the loss ``name``.

    Raises:
        ReCoKDError: unknown name, unknown or bad option, or stages that are not paired.
    """
    if name not in _BUILDERS:
        raise ReCoKDError(
            f"There is no distillation loss named '{name}'. Choose one of: {', '.join(available_losses())}."
        )
    if len(teacher_channels) != len(student_channels):
        raise ReCoKDError(
            f"A loss needs one stage of the teacher for each of the student's; it got {len(teacher_channels)} and "
            f"{len(student_channels)}. Pair them first (recorders.pair_stages)."
        )
    setting = LossSetting(tuple(teacher_channels), tuple(student_channels), label_set)
    return _BUILDERS[name](setting, options or {})


Options = TypeVar("Options")


def read_options(name: str, kind: type[Options], given: Mapping[str, Any]) -> Options:
    """An options dataclass from a mapping.

    Raises:
        ReCoKDError: an option that ``kind`` doesn't know (its own checks may raise for bad values).
    """
    known = [f.name for f in dataclasses.fields(kind)]  # type: ignore[arg-type]
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ReCoKDError(
            f"The loss '{name}' has no option {', '.join(map(repr, unknown))}. It has: {', '.join(known)}."
        )
    return kind(**given)
