"""What is known of each case: a small file a case, gathered into one CSV and one JSON."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import atomic_file, read_json, sha256, write_json

FOLDER = ".recokd-batch"
JSON_FILE = "batch.json"
CSV_FILE = "batch.csv"

BEGUN, DONE, FAILED = "begun", "done", "failed"


@dataclass(frozen=True)
class Record:
    """One case of a batch, as it stands in its file.

    Attributes:
        name: Of the case, see :class:`~ReCoKDLib.batch.cases.BatchCase`.
        status: begun, done or failed.
        job: What was asked and of which input: if it differs, the case is to be done again.
        output: The segmentation, relative to the output folder; with the picture all that the case may overwrite.
        picture: QC picture, relative; empty for none.
        checksums: SHA-256 of each.
        seconds: Of the segmentation.
        volumes_ml: Of each segment.
        doubt: 0 (sure) to 1, see ``work.doubt_of``; None when unknown.
        warnings: In words.
        error: Why it failed.
        finished: ISO 8601, UTC.
        worker: Number of the process.
    """

    name: str
    status: str
    job: Mapping[str, Any] = field(default_factory=dict)
    output: str = ""
    picture: str = ""
    checksums: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    volumes_ml: Mapping[str, float] = field(default_factory=dict)
    doubt: float | None = None
    warnings: Sequence[str] = ()
    error: str = ""
    finished: str = ""
    worker: int = 0


def record_path(output: Path, name: str) -> Path:
    """Where the record of a case lies. Names may be longer than a file's may be."""
    return output / FOLDER / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.json"


def write_record(output: Path, record: Record) -> None:
    """Write the record of one case, whole or not at all."""
    write_json(record_path(output, record.name), asdict(record), overwrite=True)


def read_record(output: Path, name: str) -> Record | None:
    """The record of a case; None where there is none, or where it cannot be read."""
    try:
        values = read_json(record_path(output, name))
        known = {entry.name for entry in fields(Record)}
        record = Record(**{key: value for key, value in values.items() if key in known})
        return record if record.name == name else None
    except (InputError, TypeError, AttributeError):
        return None


def done_and_whole(output: Path, record: Record | None, job: Mapping[str, Any]) -> bool:
    """Whether a case was done, of the same input with the same options, and its files are what was written."""
    if record is None or record.status != DONE or dict(record.job) != dict(job):
        return False
    files = [name for name in (record.output, record.picture) if name]
    try:
        return all(sha256(output / name) == record.checksums.get(name) for name in files)
    except OSError:
        return False


def write_summary(output: Path, records: Iterable[Record], student: Mapping[str, str]) -> None:
    """Write ``batch.json`` and ``batch.csv``.

    Raises:
        OutputError: They cannot be written.
    """
    listed = list(records)
    counts = {status: sum(record.status == status for record in listed) for status in (DONE, FAILED)}
    content = {"student": dict(student), "cases": len(listed), **counts, "records": [asdict(r) for r in listed]}
    write_json(output / JSON_FILE, content, overwrite=True)
    segments = list(dict.fromkeys(name for record in listed for name in record.volumes_ml))
    with (
        atomic_file(output / CSV_FILE, overwrite=True) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as stream,
    ):
        writer = csv.writer(stream, lineterminator="\n")
        columns = [f"{name}_ml" for name in segments]
        writer.writerow(["case", "status", "seconds", "doubt", *columns, "warnings", "error", "output"])
        for record in listed:
            volumes = [_number(record.volumes_ml.get(name), 6) for name in segments]
            texts = [" | ".join(record.warnings), record.error, record.output if record.status == DONE else ""]
            doubt = _number(record.doubt, 4)
            writer.writerow([record.name, record.status, _number(record.seconds, 2), doubt, *volumes, *texts])


def _number(value: float | None, decimals: int) -> str:
    return "" if value is None else f"{value:.{decimals}f}"
