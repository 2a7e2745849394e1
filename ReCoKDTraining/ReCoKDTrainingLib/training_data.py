"""Which cases a run uses, and with which classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ReCoKDLib.labels import LabelSet

from .checked_case import Check
from .class_matching import select_classes
from .datasets import Case, Dataset, SourceOptions, Split, Task, open_datasets
from .datasets.loading import Finding


@dataclass(frozen=True)
class DataSettings:
    """Which cases a run uses.

    Attributes:
        datasets: Sources of cases; see :mod:`.datasets`.
        sources: How to read sources that describe themselves too little.
        labels: The only classes to learn; empty for all.
        split: File with the split; None makes one.
        fold: Which split of a list.
        skip_bad: Go on without the cases that would spoil the training.
        unlabelled_weight: How often a case that nobody annotated is drawn, beside an annotated one; 0 leaves it out.
    """

    datasets: tuple[Path, ...]
    sources: SourceOptions = field(default_factory=SourceOptions)
    labels: tuple[str, ...] = ()
    split: Path | None = None
    fold: int = 0
    skip_bad: bool = False
    unlabelled_weight: float = 1.0


def unlabelled(cases: Sequence[Case]) -> list[Case]:
    """Those that nobody annotated."""
    return [case for case in cases if not case.labelled]


def open_cases(settings: DataSettings, model: Task | None) -> Dataset:
    """All cases with the classes that are learned.

    Args:
        settings: Which.
        model: What the teacher segments in what; None without one.

    Raises:
        DatasetError: A source cannot be used, or sources do not fit each other.
    """
    dataset = open_datasets(settings.datasets, settings.sources, model=model, unlabelled=settings.unlabelled_weight > 0)
    if settings.labels:
        names = [dataset.synonyms.get(name.strip().casefold(), name) for name in settings.labels]
        dataset = dataset.with_labels(select_classes(dataset.label_set, names))
    if settings.unlabelled_weight == 0:
        return dataset.without([case.identifier for case in unlabelled(dataset.cases)])
    return dataset


def without(check: Check) -> Split:
    """The split without the cases that would spoil the training."""
    bad = set(check.bad)
    return Split(
        tuple(case for case in check.split.training if case.identifier not in bad),
        tuple(case for case in check.split.validation if case.identifier not in bad),
    )


def line(name: str, finding: Finding) -> str:
    """A finding in one line."""
    return f"{name or 'dataset'}: {finding.kind}: {finding.message}"


@dataclass(frozen=True)
class ModelTask:
    """What a model segments in what, as a dataset says it."""

    name: str
    channel_names: tuple[str, ...]
    label_set: LabelSet
