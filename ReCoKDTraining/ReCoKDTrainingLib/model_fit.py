"""Whether a model and a dataset fit together: channels, classes, heads."""

from __future__ import annotations

from typing import Protocol

import torch

from ReCoKDLib.card import Card
from ReCoKDLib.errors import PackageError
from ReCoKDLib.labels import LabelSet
from ReCoKDLib.package import ModelPackage
from ReCoKDLib.plan import Plan
from ReCoKDLib.segment_matching import Synonyms

from .class_matching import ClassMap, common_classes, match_classes
from .datasets import Dataset, Task
from .training_data import ModelTask


class TeacherModel(Protocol):
    """What is needed of a teacher; a :class:`ModelPackage` has it."""

    @property
    def plan(self) -> Plan:
        """Its network and the preprocessing that it was trained with."""

    @property
    def label_set(self) -> LabelSet:
        """What its outputs mean."""

    @property
    def card(self) -> Card:
        """What it is."""

    def weights(self, fold: int = 0) -> dict[str, torch.Tensor]:
        """Its state dictionary."""


def as_task(model: TeacherModel) -> ModelTask:
    """What a model segments in what."""
    return ModelTask(model.card.name, tuple(channel.name for channel in model.card.channels), model.label_set)


def match_model(model: TeacherModel, dataset: Task, synonyms: Synonyms | None = None) -> ClassMap:
    """Find the dataset's classes, which may have synonyms, among a model's.

    Raises:
        PackageError: The model has another number of channels, or does not know one of the classes.
    """
    _require_channels(model, dataset)
    return match_classes(dataset.label_set, model.label_set, dataset.name, model.card.name, synonyms)


def for_evaluation(model: ModelPackage, dataset: Dataset) -> Dataset:
    """The dataset with those of its classes that a model knows, in the model's numbering.

    Raises:
        PackageError: The model has another number of channels, or no class in common with the dataset.
        DatasetError: Regions overlap in another way than the model's.
    """
    _require_channels(model, dataset)
    name, synonyms = model.card.name, dataset.synonyms
    return dataset.with_labels(common_classes(model.label_set, dataset.label_set, name, dataset.name, synonyms))


def _require_channels(model: TeacherModel, dataset: Task) -> None:
    if model.plan.channels != len(dataset.channel_names):
        raise PackageError(
            f"The model {model.card.name} needs {model.plan.channels} channel(s), the dataset {dataset.name} has "
            f"{len(dataset.channel_names)}. Use a model that was made for such images."
        )


def require_same_heads(model: ModelPackage, dataset: Dataset) -> None:
    """Check that weights to start from mean the same, head by head.

    Raises:
        PackageError: They do not.
    """
    classes = match_model(model, dataset, dataset.synonyms)
    if classes.heads != tuple((head,) for head in range(model.label_set.number_of_heads)):
        ours, theirs = ([s.name for s in labels.segments] for labels in (dataset.label_set, model.label_set))
        raise PackageError(
            f"The model {model.card.name} has the labels {theirs}, the dataset {dataset.name} {ours}. Training can "
            "only start from weights for the same labels in the same order."
        )
