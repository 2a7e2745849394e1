"""One look at every case of a run: for the check, the fingerprint and the preprocessing, and for later starts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ReCoKDLib
from ReCoKDLib.errors import Cancelled, DatasetError, ReCoKDError
from ReCoKDLib.files import read_json, write_json
from ReCoKDLib.volume import Volume

from .cache import Loaded
from .case_check import check_cases
from .datasets import Case, Dataset, Split, load_case, read_split
from .fingerprint import CaseSample, Fingerprint, fingerprint_of, sample_case
from .progress import Progress
from .run_folder import CHECKED, FINGERPRINT
from .training_data import DataSettings, line, without

FORMAT = 1
_KEPT_BYTES = 1 << 29


class Inspection:
    """What a look at the cases leaves besides the check.

    Args:
        dataset: The cases.
        training: Those that are described.
        keep: Whether to keep them in memory, as long as they take no more than half a gigabyte, and the checksums of
            the others too.

    Attributes:
        loaded: Image and label map of those that are kept.
        contents: The checksum of each that was described, or of all.
    """

    def __init__(self, dataset: Dataset, training: Sequence[Case], keep: bool = False) -> None:
        self.loaded: dict[str, Loaded] = {}
        self.contents: dict[str, str] = {}
        self._dataset = dataset
        self._training = {case.identifier for case in training}
        self._keep = keep
        self._room = _KEPT_BYTES if keep else 0
        self._samples: dict[str, CaseSample] = {}

    def __call__(self, case: Case, volume: Volume, labels: Volume | None) -> None:
        """Look at a good case."""
        if case.identifier not in self._training:
            if self._keep:  # now, as a scene is open until another one is read
                self.contents[case.identifier] = case.content()
            return
        sample = sample_case(case, volume, labels, self._dataset.label_set)
        self._samples[case.identifier] = sample
        self.contents[case.identifier] = sample.described.sha256
        size = volume.array.nbytes + (0 if labels is None else labels.array.nbytes)
        if size <= self._room:
            self._room -= size
            self.loaded[case.identifier] = volume, labels

    def fingerprint(self, cases: Sequence[Case]) -> Fingerprint:
        """Of cases that are all good; those that were not described, as the split was made again, are read.

        Raises:
            DatasetError: There are none, or none has foreground.
        """
        for case in cases:
            if case.identifier not in self._samples:
                self._training.add(case.identifier)
                self(case, *load_case(case, self._dataset.label_set, len(self._dataset.channel_names)))
        return fingerprint_of(self._samples[case.identifier] for case in cases)


@dataclass(frozen=True)
class CheckedData:
    """The cases of a run, none of them bad.

    Attributes:
        dataset: All that are used.
        split: Which are trained on.
        fingerprint: Of these.
        said: Warnings about them.
        checksum: Over all that this was found in; empty where a bad case that is left out has none.
    """

    dataset: Dataset
    split: Split
    fingerprint: Fingerprint
    said: tuple[str, ...]
    checksum: str


def checked_data(
    dataset: Dataset, settings: DataSettings, has_teacher: bool, folder: Path | None, progress: Progress
) -> tuple[CheckedData, dict[str, Loaded]]:
    """Look at every case, split them and describe those that are trained on; warnings are told.

    Args:
        dataset: The cases.
        settings: How to split them, and whether to leave out bad ones.
        has_teacher: Whether a teacher can supervise classes that nobody annotated.
        folder: A run's, where :func:`remember` left what an earlier start found. If nothing has changed since, no case
            is read again.
        progress: Where to tell.

    Returns:
        The cases; and those of them that are in memory.

    Raises:
        DatasetError: Something would spoil the training; all of it is named.
    """
    data = None if folder is None else _remembered(dataset, settings, has_teacher, folder, progress)
    loaded: dict[str, Loaded] = {}
    if data is None:
        data, loaded = _looked_at(dataset, settings, has_teacher, progress)
    for text in data.said:
        progress.say(text)
    return data, loaded


def _looked_at(
    dataset: Dataset, settings: DataSettings, has_teacher: bool, progress: Progress
) -> tuple[CheckedData, dict[str, Loaded]]:
    split = read_split(dataset, settings.split, settings.fold, unlabelled=True)
    inspection = Inspection(dataset, split.training, keep=True)
    progress.stage("Checking the cases", len(dataset.cases), part=(0.0, 0.02))
    check = check_cases(
        dataset,
        split,
        has_teacher=has_teacher,
        skip_bad=settings.skip_bad,
        split_again=(lambda left: read_split(left, None, unlabelled=True)) if settings.split is None else None,
        seen=inspection,
        progress=progress.fraction,
    )
    spoiling = [line(name, finding) for name, finding in check.spoiling(settings.skip_bad)]
    if spoiling:
        raise DatasetError(
            f"{len(spoiling)} thing(s) would spoil the training:\n"
            + "\n".join(spoiling)
            + ("" if settings.skip_bad else "\nCorrect them, or go on without the bad cases (--skip-bad).")
        )
    said = tuple(f"{'skipped' if f.spoils else 'warning'}: {line(name, f)}" for name, f in check.all_findings())
    used = without(check)
    fingerprint = inspection.fingerprint(used.training)
    try:
        checksum = _checksum(dataset, settings, has_teacher, inspection.contents)
    except (ReCoKDError, OSError):
        checksum = ""
    return CheckedData(dataset.without(check.bad), used, fingerprint, said, checksum), inspection.loaded


def remember(data: CheckedData, folder: Path) -> None:
    """Leave in a run folder, beside the fingerprint, what was found in all cases of a dataset.

    Raises:
        OutputError: It cannot be written.
    """
    values = {
        "format": FORMAT,
        "checksum": data.checksum,
        "fingerprint": data.fingerprint.sha256,
        "cases": [case.identifier for case in data.dataset.cases],
        "train": [case.identifier for case in data.split.training],
        "val": [case.identifier for case in data.split.validation],
        "said": list(data.said),
    }
    write_json(folder / CHECKED, values, overwrite=True)


def _remembered(
    dataset: Dataset, settings: DataSettings, has_teacher: bool, folder: Path, progress: Progress
) -> CheckedData | None:
    """What :func:`remember` left; None where there is nothing, or something is not as it was."""
    if not (folder / CHECKED).is_file():
        return None
    progress.stage("Looking whether the cases have changed", len(dataset.cases), part=(0.0, 0.02))
    try:
        values = read_json(folder / CHECKED)
        checksum = _checksum(dataset, settings, has_teacher, {}, progress)
        if (values["format"], values["checksum"]) != (FORMAT, checksum):
            return None
        fingerprint = Fingerprint.from_dict(read_json(folder / FINGERPRINT))
        if fingerprint.sha256 != values["fingerprint"]:
            return None
        cases = {case.identifier: case for case in dataset.cases}
        split = Split(*(tuple(cases[name] for name in values[part]) for part in ("train", "val")))
        if {case.identifier for case in split.training} != {case.identifier for case in fingerprint.cases}:
            return None
        left_out = cases.keys() - set(values["cases"])
        return CheckedData(dataset.without(sorted(left_out)), split, fingerprint, tuple(values["said"]), checksum)
    except Cancelled:
        raise
    except (ReCoKDError, OSError, KeyError, TypeError, ValueError, AttributeError):
        return None


def _checksum(
    dataset: Dataset,
    settings: DataSettings,
    has_teacher: bool,
    contents: Mapping[str, str],
    progress: Progress | None = None,
) -> str:
    """Over all that the check, the split and the fingerprint depend on: the files' contents above all.

    Args:
        dataset: All cases.
        settings: How they are split.
        has_teacher: Whether there is a teacher.
        contents: Checksums of cases that are known already, by identifier.
        progress: Where to tell.

    Raises:
        ReCoKDError: A case cannot be read.
    """
    content: list[Any] = [
        ReCoKDLib.__version__,
        has_teacher,
        settings.skip_bad,
        settings.fold,
        None if settings.split is None else read_json(settings.split),
        dataset.channel_names,
        dataset.label_set.to_dataset_json(),
        sorted(dataset.left_out),
    ]
    for done, case in enumerate(dataset.cases, 1):
        known = contents.get(case.identifier) or case.content()
        content.append([case.identifier, case.patient, case.labelled, case.meaning(), known])
        if progress is not None:
            progress.fraction(done / len(dataset.cases))
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
