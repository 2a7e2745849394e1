"""The cases that come with the students, to try them on."""

from __future__ import annotations

from pathlib import Path

from .card import Card
from .students import shipped_folder

_FIRST_CHANNEL = "_0000.nii.gz"


def sample_folder() -> Path:
    """Where they lie."""
    return shipped_folder() / "SampleCases"


def sample_cases() -> list[Path]:
    """The first image of each case, in nnU-Net's naming: ``hippocampus_025_0000.nii.gz``."""
    return sorted(sample_folder().glob(f"*{_FIRST_CHANNEL}"))


def case_name(path: Path) -> str:
    """``hippocampus_025`` of any of its images."""
    return path.name.removesuffix(".nii.gz").rpartition("_")[0]


def samples_for(card: Card) -> list[list[Path]]:
    """The cases that fit a model: for each case one image for each of its channels.

    A case fits when the first word of its name is part of the name of the model's training data, and it has as many
    images as the model has channels.
    """
    made_of = f"{card.training.dataset} {card.name}".casefold()
    cases = []
    for first in sample_cases():
        name = case_name(first)
        images = sorted(sample_folder().glob(f"{name}_[0-9][0-9][0-9][0-9].nii.gz"))
        if name.partition("_")[0].casefold() in made_of and len(images) == len(card.channels):
            cases.append(images)
    return cases
