"""The QC sheet: one HTML file with the pictures beside it, failed cases first, then the doubtful ones."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import quote

from ..files import write_text
from .records import DONE, FAILED, Record

SHEET = "batch.html"

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; color: #1b1f24;
       background: #f3f4f6; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; } h2 { font-size: 1.05rem; margin: 0 0 .5rem; overflow-wrap: anywhere; }
.note { color: #5c6670; }
.cases { display: grid; grid-template-columns: repeat(auto-fill, minmax(22rem, 1fr)); gap: 1rem; }
article { background: white; border: 1px solid #d8dce2; border-radius: .5rem; padding: 1rem; }
.failed { border-left: .4rem solid #c0392b; } .warned { border-left: .4rem solid #d68910; }
img { width: 100%; height: auto; } td { padding: 0 .8rem .1rem 0; } td.number { text-align: right; }
ul { margin: .4rem 0; padding-left: 1.2rem; } .error { color: #922b21; overflow-wrap: anywhere; }
"""


def write_sheet(output: Path, records: Iterable[Record], student: Mapping[str, str]) -> None:
    """Write the sheet into the output folder.

    Raises:
        OutputError: It cannot be written.
    """
    listed = by_doubt(records)
    failed = sum(record.status == FAILED for record in listed)
    warned = sum(bool(record.warnings) and record.status == DONE for record in listed)
    title = f"{len(listed)} cases segmented by {student['name']}"
    summary = f"{failed} failed, {warned} with warnings, {len(listed) - failed - warned} without."
    order = (
        "Failed cases come first, then those with warnings, then the others; each by the student's doubt (mean of 1 - "
        "confidence in and next to the structures), the most doubtful first. Research use only, not a medical device."
    )
    text = "\n".join(
        (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width">',
            f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>",
            f"<h1>{html.escape(title)}</h1>\n<p>{summary} <span class='note'>{order}</span></p>\n<div class='cases'>",
            *(_article(record) for record in listed),
            "</div>\n</body>\n</html>\n",
        )
    )
    write_text(output / SHEET, text, overwrite=True)


def by_doubt(records: Iterable[Record]) -> list[Record]:
    """Failed cases first, then those with warnings, then the others; each by doubt, largest first.

    A case in which nothing was found has no figure of doubt and comes before those that have one.
    """

    def key(record: Record) -> tuple[int, float, str]:
        rank = 0 if record.status == FAILED else 1 if record.warnings else 2
        return rank, -2.0 if record.doubt is None else -record.doubt, record.name

    return sorted(records, key=key)


def _article(record: Record) -> str:
    kind = "failed" if record.status == FAILED else "warned" if record.warnings else "done"
    parts = [f"<article class='{kind}'>", f"<h2>{html.escape(record.name)}</h2>"]
    if record.error:
        parts.append(f"<p class='error'>{html.escape(record.error)}</p>")
    if record.warnings:
        parts.append("<ul>" + "".join(f"<li>{html.escape(warning)}</li>" for warning in record.warnings) + "</ul>")
    if record.status == DONE:
        if record.picture:
            link = html.escape(quote(record.picture))
            alt = html.escape(f"Slices and surfaces of {record.name}")
            parts.append(f"<a href='{link}'><img src='{link}' alt='{alt}' loading='lazy'></a>")
        rows = "".join(
            f"<tr><td>{html.escape(name)}</td><td class='number'>{millilitres:.3f} ml</td></tr>"
            for name, millilitres in record.volumes_ml.items()
        )
        doubt = "not known" if record.doubt is None else f"{record.doubt:.3f}"
        parts.append(f"<table>{rows}</table>")
        link = html.escape(quote(record.output))
        parts.append(
            f"<p class='note'>Doubt {doubt}. {record.seconds:.1f} s. "
            f"<a href='{link}'>{html.escape(record.output)}</a></p>"
        )
    parts.append("</article>")
    return "\n".join(parts)
