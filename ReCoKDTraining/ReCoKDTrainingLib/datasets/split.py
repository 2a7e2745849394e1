"""Which cases are trained on and which are held out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ReCoKDLib.errors import DatasetError
from ReCoKDLib.files import read_json

from .case import Case
from .dataset import Dataset


@dataclass(frozen=True)
class Split:
    """Which cases are trained on and which are held out; no case is both, and all that are held out are annotated."""

    training: tuple[Case, ...]
    validation: tuple[Case, ...]


def read_split(
    dataset: Dataset, file: Path | None, fold: int = 0, seed: int = 12345, *, unlabelled: bool = False
) -> Split:
    """A split from a JSON file, or one fully annotated case in five held out at random.

    Cases that the dataset leaves out may be named in ``train``; they are passed over.

    The file has ``{"train": [...], "val": [...]}``, or a list of such, of which ``fold`` is taken (nnU-Net's
    ``splits_final.json``). Without a file, all cases of a patient (where that is known) are on one side.

    Args:
        dataset: The cases.
        file: With the split; None makes one.
        fold: Which split of a list.
        seed: Of a split that is made.
        unlabelled: Whether cases without annotation are trained on; else they are left out.

    Raises:
        DatasetError: The file names cases that are not there, or one case on both sides; too few are annotated.
    """
    cases = {case.identifier: case for case in dataset.cases if case.labelled or unlabelled}
    if file is None:
        return _made(dataset, cases, seed)
    content = _read(file, fold)
    trained_on = [name for name in content["train"] if name in cases or name not in dataset.left_out]
    _require_known(trained_on, cases, dataset, file)
    validation = _held_out(content["val"], cases, dataset, file)
    both = sorted(set(content["train"]) & set(content["val"]))
    if both:
        raise DatasetError(f"{file} has the case {both[0]!r} in both 'train' and 'val'. Keep it in one.")
    if not trained_on:
        raise DatasetError(f"{file} has no training cases.")
    return Split(tuple(cases[name] for name in trained_on), validation)


def held_out_cases(dataset: Dataset, file: Path, fold: int = 0) -> tuple[Case, ...]:
    """The cases that a split's file holds out; whom it trains on need not be there.

    Args:
        dataset: The cases.
        file: With the split.
        fold: Which split of a list.

    Raises:
        DatasetError: The file holds out cases that are not there, or not fully annotated.
    """
    cases = {case.identifier: case for case in dataset.cases}
    return _held_out(_read(file, fold)["val"], cases, dataset, file)


def _require_known(names: Sequence[str], cases: Mapping[str, Case], dataset: Dataset, file: Path) -> None:
    for name in names:
        if name not in cases:
            raise DatasetError(
                f"{file} names the case {name!r}, which the dataset {dataset.name} does not have labelled."
            )


def _held_out(names: Sequence[str], cases: Mapping[str, Case], dataset: Dataset, file: Path) -> tuple[Case, ...]:
    _require_known(names, cases, dataset, file)
    for name in names:
        if not cases[name].labelled or cases[name].partly_labelled:
            raise DatasetError(
                f"{file} holds out the case {name!r}, which is not fully annotated. Only such cases can be measured: "
                "move it to 'train'."
            )
    return tuple(cases[name] for name in names)


def _made(dataset: Dataset, cases: dict[str, Case], seed: int) -> Split:
    labelled = [name for name, case in cases.items() if case.labelled]
    others = len(cases) - len(labelled)
    if len(labelled) < 2 and not others:
        raise DatasetError(
            f"The dataset {dataset.name} has {len(labelled)} labelled cases; at least two are needed, one to train on "
            "and one to measure on."
        )
    whole = sorted(name for name in labelled if not cases[name].partly_labelled)
    units: dict[str, list[str]] = {}
    for name in whole:
        units.setdefault(cases[name].patient or name, []).append(name)
    keys = sorted(units)
    held_out: set[str] = set()
    # One labelled case of a dataset is trained on, and nothing is measured.
    wanted = max(1, len(whole) // 5) if len(units) > 1 else 0
    for index in np.random.default_rng(seed).permutation(len(keys)):
        if len(held_out) >= wanted:
            break
        held_out |= set(units[keys[index]])
    patients = {cases[name].patient for name in held_out} - {""}
    training = [case for name, case in sorted(cases.items()) if name not in held_out and case.patient not in patients]
    return Split(tuple(training), tuple(cases[name] for name in whole if name in held_out))


def _read(file: Path, fold: int) -> dict[str, Sequence[str]]:
    content: Any = read_json(file)
    if isinstance(content, list):
        if fold >= len(content):
            raise DatasetError(f"{file} has {len(content)} folds; there is no fold {fold}.")
        content = content[fold]
    if not isinstance(content, dict) or not {"train", "val"} <= content.keys():
        raise DatasetError(f"{file} is not a split. It needs the lists 'train' and 'val'.")
    return {side: [str(name) for name in content[side]] for side in ("train", "val")}
