"""What a check found, case by case and in all of them together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ReCoKDLib.labels import LabelSet
from ReCoKDLib.volume import Volume

from .datasets import Split
from .datasets.case import Place
from .datasets.loading import Finding

TRAINING, VALIDATION, LEFT_OUT = "training", "validation", "left out"


@dataclass(frozen=True)
class Thumbnail:
    """An axial slice of a case.

    Attributes:
        image: One channel, one slice, in RAS order.
        labels: On the same grid.
    """

    image: Volume
    labels: Volume


@dataclass(frozen=True)
class CheckedCase:
    """One case and what was found in it.

    Attributes:
        identifier: Its name.
        part: ``training``, ``validation`` or ``left out``.
        annotated: ``whole``, ``in part`` or ``not``.
        shape: Voxels along (k, j, i); None where it could not be read.
        spacing: mm along (k, j, i).
        intensities: For each channel the 0.5th, 50th and 99.5th percentile.
        voxels: By class; empty where nobody annotated it.
        patient: A hash; empty where it is not known.
        checksum: Of its voxels as they lie in the patient, whatever the file format.
        findings: What is wrong.
        thumbnail: To be drawn.
        place: Where a person finds it again.
    """

    identifier: str
    part: str
    annotated: str
    shape: tuple[int, int, int] | None = None
    spacing: tuple[float, float, float] | None = None
    intensities: tuple[tuple[float, float, float], ...] = ()
    voxels: Mapping[str, int] = field(default_factory=dict)
    patient: str = ""
    checksum: str = ""
    findings: tuple[Finding, ...] = ()
    thumbnail: Thumbnail | None = None
    place: Place = field(default_factory=Place)

    @property
    def bad(self) -> bool:
        """Whether it would spoil the training."""
        return any(finding.spoils for finding in self.findings)


@dataclass(frozen=True)
class Check:
    """What was found.

    Attributes:
        cases: All of them.
        findings: Of the dataset as a whole.
        label_set: The classes.
        split: Where the cases were to go.
    """

    cases: tuple[CheckedCase, ...]
    findings: tuple[Finding, ...]
    label_set: LabelSet
    split: Split = field(default_factory=lambda: Split((), ()))

    @property
    def bad(self) -> tuple[str, ...]:
        """Identifiers of cases that would spoil the training."""
        return tuple(case.identifier for case in self.cases if case.bad)

    def all_findings(self) -> Iterable[tuple[str, Finding]]:
        """With the case's identifier, empty for the dataset's own."""
        yield from (("", finding) for finding in self.findings)
        yield from ((case.identifier, finding) for case in self.cases for finding in case.findings)

    def spoiling(self, skip_bad: bool) -> list[tuple[str, Finding]]:
        """The findings that would spoil a training, of cases only where these are not skipped."""
        return [(name, found) for name, found in self.all_findings() if found.spoils and not (skip_bad and name)]

    @property
    def spoiled(self) -> bool:
        """Whether anything would spoil the training."""
        return bool(self.spoiling(skip_bad=False))
