"""What a model is, was made from and is meant for: the part of a model package that people read."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, cast

from .errors import PackageError

if TYPE_CHECKING:
    from .volume import Array

Range = tuple[float, float]
Float3 = tuple[float, float, float]

ROLES = ("teacher", "student")
DTYPES = ("float32", "float16")
INTENDED_USE = "Research use only. Not a medical device."
_MODALITY_WORDS = {
    "CT": {"ct", "cta", "ncct", "cect"},
    "MR": {
        *("mri", "mr", "mra", "t1", "t1w", "t1n", "t1c", "t1ce", "t1gd", "t1wi", "t2", "t2w", "t2f", "t2wi"),
        *("flair", "dwi", "adc", "swi", "pd", "pdw", "bssfp", "lge", "cine"),
    },
    "PT": {"pet", "pt", "suv", "fdg"},
    "US": {"us", "ultrasound"},
}
_JSON_KINDS = {"str": str, "str | None": str | None, "int": int, "int | None": int | None, "Mapping": Mapping}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
_AXIS_CODES = re.compile(r"(?=.*[LR])(?=.*[AP])(?=.*[IS])[LRAPIS]{3}")


@dataclass(frozen=True)
class Intensity:
    """Raw intensities of a channel: for three percentiles, the least and the greatest of all training cases.

    A range for each percentile and not one pooled histogram: MRI has no unit, and one data set may hold 8-bit
    images beside floating-point ones a thousand times as bright.
    """

    percentile_00_5: Range
    median: Range
    percentile_99_5: Range

    @classmethod
    def of_cases(cls, images: Iterable[Array]) -> Intensity:
        """Measure the raw images of one channel, one array for each case.

        Raises:
            PackageError: There is none.
        """
        import numpy as np

        cases = [np.percentile(image, (0.5, 50, 99.5)) for image in images]
        if not cases:
            raise PackageError("Intensities cannot be measured without a case.")
        least, greatest = np.min(cases, axis=0), np.max(cases, axis=0)
        low, middle, high = ((float(a), float(b)) for a, b in zip(least, greatest, strict=True))
        return cls(low, middle, high)


@dataclass(frozen=True)
class ChannelInfo:
    """One input channel.

    Attributes:
        name: As in the training data's description, such as ``"T1"``.
        modality: DICOM's modality code (``"MR"``, ``"CT"``), or empty when unknown.
        unit: Unit of the raw intensities, ``"HU"`` for CT; empty when arbitrary.
        intensity: Raw intensities of the training cases; None when unknown.
    """

    name: str
    modality: str = ""
    unit: str = ""
    intensity: Intensity | None = None

    @classmethod
    def named(cls, name: str, intensity: Intensity | None = None) -> ChannelInfo:
        """A channel whose modality is told by its name in a ``dataset.json``, as far as the name tells it."""
        words = re.split(r"[^a-z0-9]+", name.lower())
        for modality, known in _MODALITY_WORDS.items():
            if known.intersection(words):
                return cls(name, modality, "HU" if modality == "CT" else "", intensity)
        return cls(name, intensity=intensity)


@dataclass(frozen=True)
class SpacingInfo:
    """Voxel sizes (k, j, i) of the training cases in mm, after they were brought to ``Card.orientation``."""

    median: Float3
    smallest: Float3
    largest: Float3

    @classmethod
    def of_cases(cls, spacings: Sequence[Sequence[float]]) -> SpacingInfo:
        """Measure the (k, j, i) spacings of the cases.

        Raises:
            PackageError: There is none.
        """
        import numpy as np

        if not len(spacings):
            raise PackageError("Spacings cannot be measured without a case.")
        cases = np.asarray(spacings, dtype=np.float64)
        measured = (function(cases, axis=0).tolist() for function in (np.median, np.min, np.max))
        median, smallest, largest = (cast(Float3, tuple(values)) for values in measured)
        return cls(median, smallest, largest)


@dataclass(frozen=True)
class TrainingRecord:
    """How the weights came about; everything that is needed to make them again.

    Attributes:
        dataset: Name of the training data.
        fingerprint: SHA-256 of the data (or of their fingerprint), so that another set is noticed.
        cases: Number of training cases.
        split: How cases were divided, such as ``{"training": 160, "validation": 40}``.
        teacher: Name of the teacher; empty for a teacher or a plain student.
        teacher_checksum: Checksum of the teacher's package.
        losses: Each loss with its options.
        width: The student's t: channels are the teacher's / 2^t; None where it does not apply.
        steps: Optimiser steps.
        batch_size: Patches a step.
        seed: Of all randomness.
        versions: Of recokd, torch, monai, numpy, ...
        date: ISO 8601.
        options: Whatever else was set.
    """

    dataset: str = ""
    fingerprint: str = ""
    cases: int | None = None
    split: Mapping[str, Any] = field(default_factory=dict)
    teacher: str = ""
    teacher_checksum: str = ""
    losses: Mapping[str, Any] = field(default_factory=dict)
    width: int | None = None
    steps: int | None = None
    batch_size: int | None = None
    seed: int | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    date: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Licences:
    """Licences (SPDX identifiers) of code and weights, and who must be named."""

    code: str = "Apache-2.0"
    weights: str = ""
    attribution: str = ""


def require_name(name: str) -> None:
    """Check a model's name.

    Raises:
        PackageError: It is not fit for a file name.
    """
    if not _NAME.fullmatch(name):
        raise PackageError(
            f"A model cannot be called {name!r}. Use up to 80 letters, digits, dots, hyphens and underscores."
        )


@dataclass(frozen=True)
class Card:
    """A model in words and numbers.

    Attributes:
        name: Short and fit for a file name.
        role: ``"teacher"`` or ``"student"``.
        channels: The inputs in their order.
        version: Of the model.
        description: One or two sentences.
        spacing: Of the training cases; None when unknown.
        orientation: Axis codes (``"RAS"``) that all training volumes had; inputs are brought there by exact
            flips and permutations. None: volumes are taken as they are.
        mirror_axes: Axes of the plan over which predictions may be mirrored (those mirrored in training).
        training: How it came about.
        metrics: What was measured, on what, with which result; any JSON object.
        licences: Of code and weights.
        intended_use: Shown to every user.
        guidance_channels: Extra inputs for clicks, after the image's channels.
        folds: Networks whose logits are averaged.
        parameters: Of one network.
        dtype: In which the weights are stored.
    """

    name: str
    role: str
    channels: tuple[ChannelInfo, ...]
    version: str = "1.0.0"
    description: str = ""
    spacing: SpacingInfo | None = None
    orientation: str | None = None
    mirror_axes: tuple[int, ...] = ()
    training: TrainingRecord = field(default_factory=TrainingRecord)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    licences: Licences = field(default_factory=Licences)
    intended_use: str = INTENDED_USE
    guidance_channels: int = 0
    folds: int = 1
    parameters: int = 0
    dtype: str = "float32"

    def __post_init__(self) -> None:
        require_name(self.name)
        for what, value, allowed in (("role", self.role, ROLES), ("weights' type", self.dtype, DTYPES)):
            if value not in allowed:
                raise PackageError(f"The model's {what} must be {' or '.join(allowed)}; it is {value!r}.")
        if not self.channels:
            raise PackageError("The model's card names no input channel. Add at least one.")
        if self.orientation is not None and not _AXIS_CODES.fullmatch(self.orientation):
            raise PackageError(f"The model's orientation must be axis codes such as 'RAS'; it is {self.orientation!r}.")
        if self.folds < 1 or self.guidance_channels < 0 or not {0, 1, 2}.issuperset(self.mirror_axes):
            raise PackageError(
                "The model's card is wrong: it needs at least one fold, no negative number of guidance "
                "channels, and mirror axes among 0, 1, 2."
            )

    def to_dict(self) -> dict[str, Any]:
        """The card as JSON values; empty values are kept, so that a reader sees what is not known."""
        return cast(dict[str, Any], _json(asdict(self)))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Card:
        """Read what :meth:`to_dict` gave; fields of later versions are passed over.

        Raises:
            PackageError: A field is missing or of the wrong kind.
        """
        try:
            found = _known(cls, values)
            found["channels"] = tuple(_channel(channel) for channel in values["channels"])
            if values.get("spacing") is not None:
                known = _known(SpacingInfo, values["spacing"])
                found["spacing"] = SpacingInfo(**{key: _floats(value, 3) for key, value in known.items()})
            found["mirror_axes"] = tuple(int(axis) for axis in values.get("mirror_axes", ()))
            found["training"] = TrainingRecord(**_known(TrainingRecord, values.get("training", {})))
            found["licences"] = Licences(**_known(Licences, values.get("licences", {})))
            return cls(**found)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise PackageError(
                f"The model's card cannot be read ({type(error).__name__}: {error}). Get the model again."
            ) from error


def _known(cls: Any, values: Any) -> dict[str, Any]:
    """The fields of a dataclass that a JSON object names; TypeError where one is of another kind."""
    if not isinstance(values, Mapping):
        raise TypeError(f"{cls.__name__} is no JSON object")
    known = {}
    for entry in fields(cls):
        if entry.name in values:
            known[entry.name] = value = values[entry.name]
            kind = _JSON_KINDS.get(str(entry.type).partition("[")[0])
            if kind is not None and not isinstance(value, kind):
                raise TypeError(f"{entry.name} cannot be {value!r}")
    return known


def _channel(values: Mapping[str, Any]) -> ChannelInfo:
    found = _known(ChannelInfo, values)
    if values.get("intensity") is not None:
        known = _known(Intensity, values["intensity"])
        found["intensity"] = Intensity(**{key: _floats(value, 2) for key, value in known.items()})
    return ChannelInfo(**found)


def _floats(values: Sequence[Any], count: int) -> Any:
    if len(values) != count:
        raise ValueError(f"{count} numbers expected, not {values!r}")
    return tuple(float(value) for value in values)


def _json(value: Any) -> Any:
    """Tuples as lists, NumPy's numbers as Python's, and what JSON cannot write (NaN, infinity) as null."""
    if isinstance(value, Mapping):
        return {str(key): _json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
