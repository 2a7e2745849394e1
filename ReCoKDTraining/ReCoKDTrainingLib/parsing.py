"""What a run's command line writes in one word or as JSON."""

from __future__ import annotations

import json
from typing import Any

from ReCoKDLib.errors import ReCoKDError


def parse_losses(text: str) -> dict[str, float]:
    """``reco=1,logits=0.5`` to names and weights; a name alone has the weight 1.

    Raises:
        ReCoKDError: A weight is not a number.
    """
    losses = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, eta = part.partition("=")
        try:
            losses[name.strip()] = float(eta) if eta else 1.0
        except ValueError as error:
            raise ReCoKDError(f"{part!r} is not NAME=WEIGHT. Write the losses as reco=1,logits=0.5.") from error
    return losses


def parse_labels(text: str) -> tuple[str, ...]:
    """``anterior,posterior`` to names."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def parse_mirror_axes(text: str) -> tuple[int, ...]:
    """``0,2`` to axes; ``none`` or nothing to no axis.

    Raises:
        ReCoKDError: It names anything but 0, 1 and 2.
    """
    names = [] if text.strip().lower() in ("", "none") else [part.strip() for part in text.split(",")]
    if not set(names) <= {"0", "1", "2"}:
        raise ReCoKDError(f"The mirror axes {text!r} are not among 0, 1 and 2. Write them as 0,1,2 or none.")
    return tuple(sorted({int(name) for name in names}))


def parse_loss_options(text: str) -> dict[str, dict[str, Any]]:
    """A JSON object of objects, or nothing.

    Raises:
        ReCoKDError: It is not that.
    """
    if not text.strip():
        return {}
    try:
        options = json.loads(text)
        return {str(name): dict(values) for name, values in options.items()}
    except (json.JSONDecodeError, AttributeError, TypeError, ValueError) as error:
        raise ReCoKDError(
            f"The loss options are not a JSON object of objects ({error}). "
            'Write them as {"reco": {"masks": "area"}}.'
        ) from error
