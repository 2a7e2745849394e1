"""Which of a teacher's classes a student learns, and which values of a label map mean the same elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ReCoKDLib.errors import DatasetError, PackageError
from ReCoKDLib.labels import LabelSet, Segment
from ReCoKDLib.segment_matching import Synonyms, canonical
from ReCoKDLib.terminology import type_and_modifier


@dataclass(frozen=True)
class ClassMap:
    """From a teacher's heads to a student's.

    Attributes:
        names: (student's name, teacher's name) of each class of the student.
        heads: for each head of the student the heads of the teacher that it stands for: one, but for the background
            of softmax labels, which stands for the teacher's background and all classes that the student lacks.
        comparable: whether both have softmax labels, or both have regions. If not, only features can be distilled.
    """

    names: tuple[tuple[str, str], ...]
    heads: tuple[tuple[int, ...], ...]
    comparable: bool

    def logits(self, teacher: Tensor) -> Tensor:
        """The teacher's logits (B, heads, ...) as logits of the student's heads.

        Logits of merged classes are combined by logsumexp, so that their softmax probabilities add up.
        """
        if self.heads == tuple((head,) for head in range(teacher.shape[1])):
            return teacher
        merged = [
            teacher[:, heads[0]] if len(heads) == 1 else teacher[:, list(heads)].logsumexp(1) for heads in self.heads
        ]
        return torch.stack(merged, dim=1)


def match_classes(
    student: LabelSet, teacher: LabelSet, dataset: str, model: str, synonyms: Synonyms | None = None
) -> ClassMap:
    """Find the student's classes among the teacher's; see :func:`find_class`.

    Args:
        student: The labels of the dataset.
        teacher: The labels of the teacher; more, and in another order or numbering, do no harm.
        dataset: Name of the dataset, for the message.
        model: Name of the teacher.
        synonyms: Other names of the dataset's classes.

    Raises:
        PackageError: The teacher does not know one of the classes, or two of them are the same to it.
    """
    pairs = [(ours, find_class(ours, teacher, synonyms)) for ours in student.segments]
    missing = [ours.name for ours, theirs in pairs if theirs is None]
    if missing:
        raise PackageError(
            f"The model {model} does not know {', '.join(missing)}. It has the labels {_names(teacher)}; the dataset "
            f"{dataset} has {_names(student)}. Rename those in dataset.json, choose among them (--labels), or use a "
            "model that knows them."
        )
    found = [(ours, theirs) for ours, theirs in pairs if theirs is not None]
    places = [teacher.segments.index(theirs) for _, theirs in found]
    if len(set(places)) < len(places):
        raise PackageError(
            f"Two labels of the dataset {dataset} ({_names(student)}) are the same one of the model {model} "
            f"({_names(teacher)}). Rename one of them in dataset.json."
        )
    names = tuple((ours.name, theirs.name) for ours, theirs in found)
    if student.has_regions != teacher.has_regions:
        return ClassMap(names, (), comparable=False)
    if student.has_regions:
        return ClassMap(names, tuple((place,) for place in places), comparable=True)
    rest = (place + 1 for place in range(len(teacher.segments)) if place not in places)
    return ClassMap(names, ((0, *rest), *((place + 1,) for place in places)), comparable=True)


def _names(label_set: LabelSet) -> str:
    return ", ".join(segment.name for segment in label_set.segments)


def find_class(wanted: Segment, among: LabelSet, synonyms: Synonyms | None = None) -> Segment | None:
    """The class of ``among`` with the same name (upper and lower case, and synonyms, count the same), else code."""
    known = synonyms or {}
    name = canonical(wanted.name, known)
    by_name = [segment for segment in among.segments if canonical(segment.name, known) == name]
    if len(by_name) == 1:
        return by_name[0]
    code = type_and_modifier(wanted.terminology)
    by_code = [s for s in among.segments if code and type_and_modifier(s.terminology) == code]
    return by_code[0] if len(by_code) == 1 else None


@dataclass(frozen=True)
class Relabelling:
    """Other numbers for the values of label maps.

    Attributes:
        source: What the label maps hold.
        values: (value in the file, value wanted), background left out: what is not named is as background is.
        background: What the file's background becomes: 0, or the ignore label where it is not known.
        background_is_unknown: Whether a class that is wanted was not annotated, so that background may be that class.
    """

    source: LabelSet
    values: tuple[tuple[int, int], ...]
    background: int = 0
    background_is_unknown: bool = False

    def apply(self, labels: npt.NDArray[Any]) -> npt.NDArray[np.int16]:
        """A label map of ``source``, of any shape and without unknown values, in the other numbers."""
        numbers = np.full(max(self.source.training_values) + 1, self.background, dtype=np.int16)
        for value, number in self.values:
            numbers[value] = number
        return numbers[labels.astype(np.intp)]


def select_classes(label_set: LabelSet, names: Sequence[str]) -> LabelSet:
    """The label set with these classes only, numbered 1 to n in their old order; all others are background.

    Regions stay regions, unless each of those left is a single value: then they are labels. The ignore label stays,
    as the highest value.

    Raises:
        DatasetError: A name is not known.
    """
    wanted = [name.strip().casefold() for name in names]
    unknown = [name for name in names if name.strip().casefold() not in {s.name.casefold() for s in label_set.segments}]
    if unknown:
        raise DatasetError(f"dataset.json has no label {unknown[0]!r}. It has: {_names(label_set)}.")
    kept = [segment for segment in label_set.segments if segment.name.casefold() in wanted]
    has_regions = any(len(segment.region) > 1 for segment in kept)
    numbers = {old: new for new, old in enumerate(sorted({v for s in kept for v in s.region}), 1)}
    segments = tuple(
        replace(s, value=i, region=tuple(numbers[v] for v in s.region) if has_regions else (i,))
        for i, s in enumerate(kept, 1)
    )
    return LabelSet(segments, has_regions, None if label_set.ignore_label is None else len(numbers) + 1)


def relabelling(
    source: LabelSet, target: LabelSet, missing: Sequence[str] = (), synonyms: Synonyms | None = None
) -> Relabelling:
    """How label maps of ``source`` become label maps of ``target``, whose classes are found among those of ``source``.

    A value goes to one that is in the same classes of ``target``. Where one of these was not annotated, background
    becomes the target's ignore label, if it has one.

    Args:
        source: What the label maps hold.
        target: What is wanted.
        missing: Names of classes of ``source`` that were not annotated.
        synonyms: Other names of the classes.

    Raises:
        DatasetError: There is none such: regions overlap in another way.
    """
    both = [(wanted, find_class(wanted, source, synonyms)) for wanted in target.segments]
    pairs = [(wanted, found) for wanted, found in both if found is not None]
    unknown = len(pairs) < len(target.segments) or any(found.name in missing for _, found in pairs)
    there = {
        frozenset(i for i, (wanted, _) in enumerate(pairs) if value in wanted.region): value
        for value in sorted({v for wanted, _ in pairs for v in wanted.region}, reverse=True)
    }
    values = {}
    for value in sorted({v for _, found in pairs for v in found.region}):
        classes = frozenset(i for i, (_, found) in enumerate(pairs) if value in found.region)
        if classes not in there:
            raise DatasetError(
                f"The value {value} is in {', '.join(pairs[i][1].name for i in sorted(classes))} at once in the "
                "dataset, which the model's regions do not allow. Use a model whose regions overlap in the same way."
            )
        values[value] = there[classes]
    if source.ignore_label is not None and target.ignore_label is not None:
        values[source.ignore_label] = target.ignore_label
    background = target.ignore_label if unknown and target.ignore_label is not None else 0
    return Relabelling(source, tuple(sorted(values.items())), background, unknown)


def common_classes(
    model: LabelSet, dataset: LabelSet, name: str, dataset_name: str, synonyms: Synonyms | None = None
) -> LabelSet:
    """The model's classes that the dataset has too, in the model's numbering; for an evaluation of these.

    Raises:
        PackageError: There is none.
    """
    segments = tuple(segment for segment in model.segments if find_class(segment, dataset, synonyms) is not None)
    if not segments:
        raise PackageError(
            f"The model {name} has the labels {_names(model)}, the dataset {dataset_name} {_names(dataset)}: none in "
            "common. Use a model with the same labels, or rename those in dataset.json."
        )
    highest = max(value for segment in model.segments for value in (segment.value, *segment.region))
    return LabelSet(segments, model.has_regions, None if dataset.ignore_label is None else highest + 1)
