"""What a run would refuse for the sake of its data and models, found before it is started."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import torch

from ReCoKDLib.errors import ReCoKDError
from ReCoKDLib.package import ModelPackage

from .building import distiller_for, initial_weights, plan_for, require_held_out
from .datasets import Dataset, Split
from .datasets.loading import Finding
from .fingerprint import Fingerprint
from .model_fit import match_model
from .run_settings import RunSettings

Result = TypeVar("Result")


def refusals(
    settings: RunSettings,
    dataset: Dataset,
    split: Split,
    teacher: ModelPackage | None,
    fingerprint: Callable[[], Fingerprint] | None,
) -> list[Finding]:
    """Set a run up as far as it needs data and models, and collect what it refuses.

    Args:
        settings: What is asked.
        dataset: The cases.
        split: Those that would be used.
        teacher: Whom to learn from.
        fingerprint: Makes that of the training cases; None where these are too bad for one.
    """
    found: list[Finding] = []

    def tried(kind: str, work: Callable[[], Result]) -> Result | None:
        try:
            return work()
        except ReCoKDError as error:
            found.append(Finding(kind, str(error)))
            return None

    tried("split", lambda: require_held_out(settings, split))
    classes = None
    if teacher is not None:
        classes = tried("teacher", lambda: match_model(teacher, dataset, dataset.synonyms))
    initial = tried("initial weights", lambda: initial_weights(settings, dataset))
    known = None if fingerprint is None else tried("labels", fingerprint)
    plan = None
    if teacher is not None or known is not None:
        plan = tried("plan", lambda: plan_for(settings, dataset, known, teacher))
    if plan is not None and (teacher is None) == (classes is None):
        made, device = plan, torch.device("cpu")
        tried("losses", lambda: distiller_for(settings, made, dataset, split, teacher, classes, None, device, None))
        if initial is not None:
            alone = replace(settings, losses={}, loss_options={})
            tried(
                "initial weights",
                lambda: distiller_for(alone, made, dataset, split, None, None, initial, device, None),
            )
    return found
