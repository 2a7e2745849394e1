"""Whether a checkpoint belongs to the run that is to go on from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ReCoKDLib.errors import ReCoKDError

_SHOWN = 5


def differences(saved: Any, present: Any, name: str = "") -> list[str]:
    """What differs between two trees of plain values, in words, one entry for each leaf."""
    if isinstance(saved, Mapping) and isinstance(present, Mapping):
        found = []
        for key in [*saved, *(key for key in present if key not in saved)]:
            where = f"{name}, {key}" if name else str(key)
            if key not in present:
                found.append(f"{where} is not there any more")
            elif key not in saved:
                found.append(f"{where} is new")
            else:
                found += differences(saved[key], present[key], where)
        return found
    if isinstance(saved, (list, tuple)) and isinstance(present, (list, tuple)):
        if list(saved) == list(present):
            return []
        if all(isinstance(entry, str) for entry in [*saved, *present]):
            gone = [f"{name}: {entry} is not there any more" for entry in saved if entry not in present]
            new = [f"{name}: {entry} is new" for entry in present if entry not in saved]
            return gone + new or [f"{name}: the order is another"]
    return [] if saved == present else [f"{name} was {saved!r} and is {present!r}"]


def require_same(
    saved: Mapping[str, Any], present: Mapping[str, Any], anyway: bool, say: Callable[[str], None]
) -> None:
    """Refuse to go on from a checkpoint of other settings or data, or say what differs where that is wanted.

    Args:
        saved: Settings of the checkpoint.
        present: Settings now.
        anyway: Go on all the same.
        say: Told each difference then.

    Raises:
        ReCoKDError: There are differences.
    """
    found = differences(saved, present)
    if not found:
        return
    shown = "; ".join(found[:_SHOWN]) + (f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else "")
    if anyway:
        say(f"Goes on with other settings than the checkpoint's: {shown}.")
        return
    raise ReCoKDError(
        f"The checkpoint was made with other settings: {shown}. Resume with the settings and data of its run, start in "
        "another folder, or go on with the changed ones (--resume-anyway)."
    )
