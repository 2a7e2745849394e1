"""The seam between sources of cases and training: a dataset is cases with one set of classes and channels."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from ReCoKDLib.labels import LabelSet
from ReCoKDLib.segment_matching import Synonyms

from ..class_matching import Relabelling, relabelling
from .case import Case


class Task(Protocol):
    """What is to be segmented in what."""

    @property
    def name(self) -> str:
        """Short name."""

    @property
    def channel_names(self) -> tuple[str, ...]:
        """What each channel is: CT, MRI, ... (decides the normalisation)."""

    @property
    def label_set(self) -> LabelSet:
        """What the label values mean."""


class Dataset:
    """Cases with one set of classes and channels. Each source is a subclass that finds its cases.

    Attributes:
        name: Short name.
        channel_names: What each channel is: CT, MRI, ... (decides the normalisation).
        label_set: The classes that are learned, with their values in the label maps that training sees.
        cases: All cases in a fixed order.
        description: What else is known of it, such as ``licence`` and ``reference``.
        left_out: Identifiers of cases that it had and that are not used.
        synonyms: Other names of its classes, as models may call them.
    """

    def __init__(
        self,
        name: str,
        channel_names: Sequence[str],
        label_set: LabelSet,
        cases: Sequence[Case],
        description: Mapping[str, Any] | None = None,
        left_out: Collection[str] = (),
        synonyms: Synonyms | None = None,
    ) -> None:
        self.name = name
        self.channel_names = tuple(channel_names)
        self.label_set = label_set
        self.cases = tuple(cases)
        self.description: Mapping[str, Any] = description or {}
        self.left_out = frozenset(left_out)
        self.synonyms: Synonyms = synonyms or {}

    def with_labels(self, label_set: LabelSet) -> Dataset:
        """The same cases with other classes, found by name or code among those of each case; the rest is background.

        Where a case was not annotated for one of them, its background becomes the label set's ignore label, if it
        has one: what looks like background may be that class.
        """
        known: dict[tuple[int, tuple[str, ...]], Relabelling] = {}
        cases = []
        for case in self.cases:
            key = (id(case.label_set), case.missing)
            if key not in known:
                known[key] = relabelling(case.label_set, label_set, case.missing, self.synonyms)
            cases.append(replace(case, relabelling=known[key]))
        return self._with(label_set, cases, self.left_out)

    def without(self, identifiers: Sequence[str]) -> Dataset:
        """The same without some cases."""
        left_out = self.left_out | set(identifiers)
        kept = [case for case in self.cases if case.identifier not in left_out]
        return self._with(self.label_set, kept, left_out)

    def _with(self, label_set: LabelSet, cases: Sequence[Case], left_out: Collection[str]) -> Dataset:
        return Dataset(self.name, self.channel_names, label_set, cases, self.description, left_out, self.synonyms)
