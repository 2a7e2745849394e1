"""A model's card as text: the README and the licence of its package, and what ``recokd inspect`` prints."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .card import Card, ChannelInfo
from .labels import LabelSet
from .plan import Plan


def card_markdown(card: Card, plan: Plan, label_set: LabelSet) -> str:
    """The whole card in Markdown that also reads well as plain text."""
    sections = [
        f"# {card.name}",
        f"**{card.intended_use}**",
        card.description,
        _list(
            {
                "Role": card.role,
                "Version": card.version,
                "Network": f"{plan.architecture.network_class_name.rpartition('.')[2]}, features per stage "
                f"{'-'.join(map(str, plan.architecture.features_per_stage))}",
                "Parameters": f"{card.parameters:,}" + (f" in each of {card.folds} folds" if card.folds > 1 else ""),
                "Weights": card.dtype,
                "Voxel size": f"{_sizes(plan.spacing)} mm (the network's)",
                "Patch": " x ".join(map(str, plan.patch_size)),
                "Guidance channels": card.guidance_channels or None,
            }
        ),
        "## Segments",
        "\n".join(
            f"- {segment.value}: {segment.name}" + (f" ({codes})" if (codes := _codes(segment.terminology)) else "")
            for segment in label_set.segments
        ),
        "## Input",
        "\n".join(_channel(index, channel) for index, channel in enumerate(card.channels)),
        _list(
            {
                "Spacing of the training cases (k, j, i)": None
                if card.spacing is None
                else f"median {_sizes(card.spacing.median)} mm, from {_sizes(card.spacing.smallest)} "
                f"to {_sizes(card.spacing.largest)} mm",
                "Orientation": f"brought to {card.orientation}" if card.orientation else "taken as it is",
            }
        ),
        "## Training",
        _list(
            {
                "Data": card.training.dataset,
                "Fingerprint of the data": card.training.fingerprint,
                "Cases": card.training.cases,
                "Split": card.training.split,
                "Teacher": card.training.teacher,
                "Checksum of the teacher": card.training.teacher_checksum,
                "Losses": card.training.losses,
                "Width t": card.training.width,
                "Steps": card.training.steps,
                "Batch size": card.training.batch_size,
                "Seed": card.training.seed,
                "Versions": card.training.versions,
                "Date": card.training.date,
                "Options": card.training.options,
            }
        )
        or "Not recorded.",
        "## Measured",
        _measured(card.metrics) or "Nothing was measured.",
        "## Licences",
        _list(
            {
                "Code": card.licences.code,
                "Weights": card.licences.weights or "not stated",
                "Attribution": card.licences.attribution,
            }
        ),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def accuracy_text(metrics: Mapping[str, Any]) -> str:
    """What an evaluation found, in one line; empty if nothing was measured."""
    mean = metrics.get("mean")
    dice = mean.get("dice") if isinstance(mean, Mapping) else None
    if isinstance(dice, Mapping):
        dice = dice.get("mean")
    if not isinstance(dice, (int, float)):
        return ""
    where = metrics.get("measured on")
    return f"Dice {dice:.3f}" + (f" ({where})" if isinstance(where, str) else "")


def size_text(card: Card, path: Path) -> str:
    """How large a model is: its parameters, and its file or folder."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    megabytes = sum(file.stat().st_size for file in files) / 1e6
    folds = f" in each of {card.folds} folds" if card.folds > 1 else ""
    return f"{card.parameters:,} parameters{folds}, {megabytes:.1f} MB"


def licence_text(card: Card) -> str:
    """What the package's LICENSE says of code and weights."""
    return (
        f"The model {card.name}\n\n"
        f"Weights (models/*.safetensors): {card.licences.weights or 'licence not stated'}\n"
        f"Code (ReCoKD, which runs them): {card.licences.code}\n"
        + (f"\n{card.licences.attribution}\n" if card.licences.attribution else "")
        + f"\n{card.intended_use}\n"
    )


def _list(values: Mapping[str, Any]) -> str:
    """One bullet for each value that is known."""
    return "\n".join(f"- {key}: {_text(value)}" for key, value in values.items() if value not in (None, "", {}, [], ()))


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(
            f"{key} ({_text(part)})" if isinstance(part, Mapping) else f"{key} {_text(part)}"
            for key, part in value.items()
        )
    if isinstance(value, (list, tuple)):
        return ", ".join(_text(part) for part in value) or "none"
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value)


_METRICS = {"dice": "Dice", "hd95": "HD95, mm", "surface_dice": "Surface Dice"}


def _measured(metrics: Mapping[str, Any]) -> str:
    """What an evaluation found: a table of segments and metrics, and the rest as a list."""
    segments = metrics.get("segments")
    if not isinstance(segments, Mapping) or not all(isinstance(row, Mapping) and row for row in segments.values()):
        return _list(metrics)
    names = list(next(iter(segments.values()), {}))
    rows = [("Segment", *(_METRICS.get(name, name) for name in names)), ("---", *("---:" for _ in names))]
    rows += [(segment, *(_spread(found.get(name)) for name in names)) for segment, found in segments.items()]
    if isinstance(metrics.get("mean"), Mapping):
        rows.append(("**mean**", *(_spread(metrics["mean"].get(name)) for name in names)))
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    rest = _list({key: value for key, value in metrics.items() if key not in ("segments", "mean")})
    return f"{table}\n\n{rest}".rstrip()


def _spread(value: Any) -> str:
    """``0.886 ± 0.032`` of a mean and its spread, or of a number."""
    if isinstance(value, Mapping):
        mean, sd = _spread(value.get("mean")), value.get("sd")
        return mean if sd is None else f"{mean} ± {_spread(sd)}"
    return f"{value:.3f}" if isinstance(value, (int, float)) else "–"


def _sizes(values: Sequence[float]) -> str:
    return " x ".join(f"{value:.4g}" for value in values)


def _channel(index: int, channel: ChannelInfo) -> str:
    text = f"- Channel {index}: {channel.name}" + (f" ({channel.modality})" if channel.modality else "")
    if channel.intensity is None:
        return text
    unit = f" {channel.unit}" if channel.unit else ""
    low, middle, high = (
        channel.intensity.percentile_00_5,
        channel.intensity.median,
        channel.intensity.percentile_99_5,
    )
    return (
        f"{text}; raw intensities of the training cases{unit and ' in'}{unit}: "
        f"0.5th percentile {low[0]:.4g} to {low[1]:.4g}, median {middle[0]:.4g} to {middle[1]:.4g}, "
        f"99.5th percentile {high[0]:.4g} to {high[1]:.4g}"
    )


def _codes(terminology: str) -> str:
    """``SCT 5366008 Hippocampus, SCT 255549009 Anterior`` of Slicer's terminology entry."""
    codes = (part.split("^") for part in terminology.split("~")[2:4])
    return ", ".join(" ".join(code) for code in codes if len(code) == 3 and code[1])
