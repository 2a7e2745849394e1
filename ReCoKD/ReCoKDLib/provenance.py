"""Who made the labels of a dataset's cases: ``provenance.json``, written by the hand-over and read by training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from . import __version__
from .errors import DatasetError, InputError
from .files import read_json

PROVENANCE = "provenance.json"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class ClickRecord:
    """One click of a correction.

    Attributes:
        segment: Name of the structure.
        inside: Whether it said that the structure is there, or is not.
        position: RAS, mm.
    """

    segment: str
    inside: bool
    position: tuple[float, float, float]


@dataclass(frozen=True)
class Provenance:
    """How the labels of one case came about. No names but the one that the annotator chose to give.

    Attributes:
        student: Name of the model that made the first result; empty where there was none.
        student_checksum: Of its package.
        clicks: The corrections in their order.
        annotator: As the user gave it; empty when nobody did.
        date: ISO 8601, UTC.
        recokd: Version of ReCoKD.
    """

    student: str = ""
    student_checksum: str = ""
    clicks: tuple[ClickRecord, ...] = ()
    annotator: str = ""
    date: str = ""
    recokd: str = __version__

    @classmethod
    def now(
        cls,
        student: str = "",
        student_checksum: str = "",
        clicks: tuple[ClickRecord, ...] = (),
        annotator: str = "",
    ) -> Provenance:
        """A record with the present time."""
        date = datetime.now(timezone.utc).isoformat(timespec="seconds")
        return cls(student, student_checksum, clicks, annotator, date)


def provenance_json(cases: Mapping[str, Provenance]) -> dict[str, Any]:
    """The contents of ``provenance.json``."""
    records = {}
    for identifier, record in cases.items():
        values = asdict(record)
        records[identifier] = {"number_of_clicks": len(record.clicks), **values}
    return {"format_version": FORMAT_VERSION, "cases": records}


def read_provenance(folder: Path) -> dict[str, Provenance]:
    """The records of a dataset folder by case identifier; none where it has no ``provenance.json``.

    A record may be of a case that is not, or no longer, in the dataset.

    Raises:
        DatasetError: The file cannot be read, or is of an unknown version.
    """
    path = folder / PROVENANCE
    if not path.exists():
        return {}
    advice = "Restore it, or remove it to do without the record of who made the labels."
    try:
        content = read_json(path)
    except InputError as error:
        raise DatasetError(f"{error} {advice}") from error
    version = content.get("format_version") if isinstance(content, dict) else None
    if version != FORMAT_VERSION:
        raise DatasetError(f"{path} has the format version {version!r}; this ReCoKD reads {FORMAT_VERSION}. {advice}")
    try:
        return {str(identifier): _record(values) for identifier, values in content["cases"].items()}
    except (TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
        raise DatasetError(f"{path} holds a record that cannot be read ({error!r}). {advice}") from error


def _record(values: Mapping[str, Any]) -> Provenance:
    clicks = []
    for click in values["clicks"]:
        r, a, s = (float(mm) for mm in click["position"])
        if not isinstance(click["inside"], bool):
            raise ValueError(f"inside is {click['inside']!r}")
        clicks.append(ClickRecord(str(click["segment"]), click["inside"], (r, a, s)))
    if values.get("number_of_clicks", len(clicks)) != len(clicks):
        raise ValueError(f"{values['number_of_clicks']} clicks are stated, {len(clicks)} listed")
    texts = ("student", "student_checksum", "annotator", "date", "recokd")
    return Provenance(clicks=tuple(clicks), **{name: str(values.get(name, "")) for name in texts})
