"""The distillation losses by name, so that trainer and distiller know none of them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

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
    """An options dataclass from a mapping, as it comes from JSON.

    Raises:
        ReCoKDError: an option that ``kind`` doesn't know, or a value that isn't of its type (a number that is none
            isn't one); its own checks may raise for other values.
    """
    known = [f.name for f in dataclasses.fields(kind)]  # type: ignore[arg-type]
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ReCoKDError(
            f"The loss '{name}' has no option {', '.join(map(repr, unknown))}. It has: {', '.join(known)}."
        )
    hints = get_type_hints(kind)
    for option, value in given.items():
        if not _fits(value, hints[option]):
            raise ReCoKDError(
                f"The option '{option}' of the loss '{name}' must be {_called(hints[option])}, not {value!r}."
            )
    return kind(**given)


_CALLED = {bool: "true or false", int: "a whole number", float: "a finite number", str: "a word", type(None): "null"}


def _fits(value: Any, hint: Any) -> bool:
    if get_origin(hint) is Sequence:
        return isinstance(value, (list, tuple)) and all(_fits(entry, get_args(hint)[0]) for entry in value)
    if get_args(hint):
        return any(_fits(value, part) for part in get_args(hint))
    if isinstance(value, bool):
        return hint is bool
    if hint is float:
        return isinstance(value, Real) and _finite(value)
    return isinstance(value, Integral if hint is int else hint)


def _finite(value: Real) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number of hundreds of digits
        return False


def _called(hint: Any) -> str:
    if get_origin(hint) is Sequence:
        return f"a list, each entry {_called(get_args(hint)[0])}"
    return " or ".join(_called(part) for part in get_args(hint)) or _CALLED[hint]
