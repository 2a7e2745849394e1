"""What a dataset looks like in numbers: the fingerprint that a plan and a model card are made from.

The rules are nnU-Net's (Isensee et al., Nature Methods 18, 203-211, 2021): shapes after cropping to the
non-zero region, spacings, and the intensities of the annotated foreground. Added for the card: orientation,
raw intensities and a checksum that names the data.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from ReCoKDLib.errors import DatasetError
from ReCoKDLib.labels import LabelSet
from ReCoKDLib.plan import Float3, Int3
from ReCoKDLib.preprocessing import bounding_box, non_zero
from ReCoKDLib.volume import Volume

from .datasets import Case, Dataset, load_case

Array = npt.NDArray[Any]

FORMAT = 1
PERCENTILES = (0.5, 50.0, 99.5)
SAMPLES_PER_CASE = 10_000
_SEED = 1234
_WORLD_AXIS = {"L": 0, "R": 0, "P": 1, "A": 1, "I": 2, "S": 2}


@dataclass(frozen=True)
class CaseFingerprint:
    """One case.

    Attributes:
        identifier: The case's name in its dataset.
        shape_after_crop: Voxels along (k, j, i) of the non-zero region's bounding box.
        spacing: Voxel size along (k, j, i), mm.
        relative_size_after_cropping: The box's share of all voxels.
        axis_codes: Anatomical direction in which i, j, k increase, such as ``"RAS"``.
        intensity_percentiles: For each channel the 0.5th, 50th and 99.5th percentile of all voxels as stored.
        sha256: Checksum of the case's image and label files.
    """

    identifier: str
    shape_after_crop: Int3
    spacing: Float3
    relative_size_after_cropping: float
    axis_codes: str
    intensity_percentiles: tuple[Float3, ...]
    sha256: str


@dataclass(frozen=True)
class CaseSample:
    """What a fingerprint needs of one case.

    Attributes:
        described: The case in numbers.
        labelled: Whether somebody annotated it.
        intensities: For each channel some of its foreground's, of an unlabelled case some of all; empty without any.
    """

    described: CaseFingerprint
    labelled: bool
    intensities: tuple[Array, ...]


@dataclass(frozen=True)
class Fingerprint:
    """A dataset.

    Attributes:
        cases: Sorted by identifier.
        foreground_intensities: For each channel mean, median, std, min, max, percentile_00_5 and
            percentile_99_5 of the foreground voxels, every case counting the same.
    """

    cases: tuple[CaseFingerprint, ...]
    foreground_intensities: tuple[Mapping[str, float], ...]

    @property
    def channels(self) -> int:
        """Number of channels of each case."""
        return len(self.foreground_intensities)

    @property
    def spacings(self) -> npt.NDArray[np.float64]:
        """(case, 3): voxel sizes along (k, j, i), mm."""
        return np.array([case.spacing for case in self.cases], dtype=np.float64)

    def spacings_in(self, orientation: str | None) -> npt.NDArray[np.float64]:
        """:attr:`spacings` after every case is brought to these axis codes; as they are for None."""
        if orientation is None:
            return self.spacings
        spacings = []
        for case in self.cases:
            along = {_WORLD_AXIS[code]: mm for code, mm in zip(case.axis_codes, reversed(case.spacing), strict=True)}
            spacings.append([along[_WORLD_AXIS[code]] for code in reversed(orientation)])
        return np.array(spacings, dtype=np.float64)

    @property
    def shapes_after_crop(self) -> npt.NDArray[np.int64]:
        """(case, 3): voxels along (k, j, i) after cropping to the non-zero region."""
        return np.array([case.shape_after_crop for case in self.cases], dtype=np.int64)

    @property
    def median_relative_size_after_cropping(self) -> float:
        """Median share of voxels that cropping leaves."""
        return float(np.median([case.relative_size_after_cropping for case in self.cases]))

    @property
    def orientation(self) -> str | None:
        """The axis codes that all cases share, or None where they differ."""
        codes = {case.axis_codes for case in self.cases}
        return codes.pop() if len(codes) == 1 else None

    @property
    def sha256(self) -> str:
        """One checksum for the data: over the cases' names and the contents of their files."""
        lines = sorted(f"{case.identifier} {case.sha256}\n" for case in self.cases)
        return hashlib.sha256("".join(lines).encode("utf-8")).hexdigest()

    def intensity_ranges(self, channel: int) -> dict[str, tuple[float, float]]:
        """Smallest and largest value over the cases of each raw percentile of ``channel``."""
        values = np.array([case.intensity_percentiles[channel] for case in self.cases])
        names = ("percentile_00_5", "median", "percentile_99_5")
        return {name: (float(v.min()), float(v.max())) for name, v in zip(names, values.T, strict=True)}

    def to_dict(self) -> dict[str, Any]:
        """JSON values; :meth:`from_dict` reads them."""
        return {
            "format": FORMAT,
            "sha256": self.sha256,
            "orientation": self.orientation,
            "foreground_intensities": [dict(values) for values in self.foreground_intensities],
            "cases": [asdict(case) for case in self.cases],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Fingerprint:
        """Read what :meth:`to_dict` wrote.

        Raises:
            DatasetError: It is of another format, incomplete, or was changed (the checksum does not fit).
        """
        if values.get("format") != FORMAT:
            raise DatasetError(
                f"The fingerprint has format {values.get('format')!r}; this version reads {FORMAT}. Make it anew."
            )
        try:
            result = cls(
                tuple(_case_from_dict(case) for case in values["cases"]),
                tuple({str(k): float(v) for k, v in c.items()} for c in values["foreground_intensities"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DatasetError(f"The fingerprint is malformed ({error!r}). Make it anew.") from error
        if result.sha256 != values.get("sha256"):
            raise DatasetError("The fingerprint was changed: its checksum does not fit its cases. Make it anew.")
        return result

    def to_nnunet(self) -> dict[str, Any]:
        """The contents of nnU-Net v2's ``dataset_fingerprint.json``."""
        return {
            "spacings": self.spacings.tolist(),
            "shapes_after_crop": self.shapes_after_crop.tolist(),
            "foreground_intensity_properties_per_channel": {
                str(channel): dict(values) for channel, values in enumerate(self.foreground_intensities)
            },
            "median_relative_size_after_cropping": self.median_relative_size_after_cropping,
        }


def _case_from_dict(values: Mapping[str, Any]) -> CaseFingerprint:
    k, j, i = (int(n) for n in values["shape_after_crop"])
    return CaseFingerprint(
        identifier=str(values["identifier"]),
        shape_after_crop=(k, j, i),
        spacing=_float3(values["spacing"]),
        relative_size_after_cropping=float(values["relative_size_after_cropping"]),
        axis_codes=str(values["axis_codes"]),
        intensity_percentiles=tuple(_float3(channel) for channel in values["intensity_percentiles"]),
        sha256=str(values["sha256"]),
    )


def _float3(values: Sequence[float]) -> Float3:
    a, b, c = (float(v) for v in values)
    return a, b, c


def fingerprint_dataset(
    dataset: Dataset,
    *,
    samples_per_case: int = SAMPLES_PER_CASE,
    progress: Callable[[float], None] | None = None,
) -> Fingerprint:
    """The fingerprint of all cases of a dataset; see :func:`fingerprint_cases`."""
    return fingerprint_cases(
        dataset.cases,
        dataset.channel_names,
        dataset.label_set,
        samples_per_case=samples_per_case,
        progress=progress,
    )


def fingerprint_cases(
    cases: Sequence[Case],
    channel_names: Sequence[str],
    label_set: LabelSet,
    *,
    samples_per_case: int = SAMPLES_PER_CASE,
    unlabelled: bool = False,
    progress: Callable[[float], None] | None = None,
) -> Fingerprint:
    """Read the cases one after the other and describe them.

    The foreground's statistics are taken from ``samples_per_case`` voxels of each case and channel, drawn
    with replacement and a fixed seed, so that large and small cases count the same, as in nnU-Net. Unlike
    there, voxels with the ignore label do not count as foreground.

    Args:
        cases: Those to describe; the result does not depend on their order.
        channel_names: The dataset's, in order.
        label_set: What the label maps may hold.
        samples_per_case: Voxels drawn of each case and channel.
        unlabelled: Whether cases without a label map are allowed. They say nothing of the foreground; if nobody
            annotated any case, the statistics are those of all voxels (no plan is made from them: a teacher has one).
        progress: Called with the done share, 0..1, after each case.

    Raises:
        DatasetError: There is no case, a case has no label map, one on another grid, values that the label
            set does not name, another number of channels, or intensities that are not numbers; or no case has
            foreground.
    """
    if not cases:
        raise DatasetError("The dataset has no cases. Put images in imagesTr and label maps in labelsTr.")
    samples = []
    for done, case in enumerate(cases, start=1):
        volume, labels = load_case(case, label_set, len(channel_names))
        if labels is None and not unlabelled:
            raise DatasetError(f"The case {case.identifier} has no label map. Add it to labelsTr, or remove the case.")
        samples.append(sample_case(case, volume, labels, label_set, samples_per_case))
        if progress is not None:
            progress(done / len(cases))
    return fingerprint_of(samples)


def sample_case(
    case: Case, volume: Volume, labels: Volume | None, label_set: LabelSet, samples_per_case: int = SAMPLES_PER_CASE
) -> CaseSample:
    """What a fingerprint needs of a case; see :func:`fingerprint_cases`.

    Args:
        case: The case.
        volume: Its image.
        labels: Its label map in the numbering of ``label_set``; None where nobody annotated it.
        label_set: What the label map may hold.
        samples_per_case: Voxels drawn of each channel.
    """
    box = bounding_box(non_zero(volume.array))
    foreground = np.full(volume.array[0][box].shape, True)
    if labels is not None:
        foreground = labels.array[0][box] > 0
        if label_set.ignore_label is not None:
            foreground &= labels.array[0][box] != label_set.ignore_label
    random = np.random.RandomState(_SEED)
    drawn = []
    for values in volume.array:
        inside = values[box][foreground].astype(np.float32)
        if inside.size:
            drawn.append(random.choice(inside, samples_per_case, replace=True))
    return CaseSample(_described(case, volume, box), labels is not None, tuple(drawn))


def fingerprint_of(samples: Iterable[CaseSample]) -> Fingerprint:
    """The fingerprint of cases that were looked at, in any order; see :func:`fingerprint_cases`.

    Raises:
        DatasetError: There is no case, or none has foreground.
    """
    ordered = sorted(samples, key=lambda sample: sample.described.identifier)
    if not ordered:
        raise DatasetError("The dataset has no cases. Put images in imagesTr and label maps in labelsTr.")
    somebody_annotated = any(sample.labelled for sample in ordered)
    drawn = [sample.intensities for sample in ordered if sample.intensities and sample.labelled == somebody_annotated]
    if not drawn:
        raise DatasetError("No case has a labelled voxel. Check that labelsTr holds the label maps of these images.")
    channels = (np.concatenate(channel) for channel in zip(*drawn, strict=True))
    return Fingerprint(tuple(sample.described for sample in ordered), tuple(_statistics(c) for c in channels))


def _described(case: Case, volume: Volume, box: tuple[slice, slice, slice]) -> CaseFingerprint:
    shape = cast(Int3, tuple(s.stop - s.start for s in box))
    return CaseFingerprint(
        identifier=case.identifier,
        shape_after_crop=shape,
        spacing=volume.spacing,
        relative_size_after_cropping=float(np.prod(shape) / np.prod(volume.shape)),
        axis_codes=volume.axis_codes,
        intensity_percentiles=tuple(_float3(np.percentile(channel, PERCENTILES)) for channel in volume.array),
        sha256=case.content(),
    )


def _statistics(values: Array) -> dict[str, float]:
    """nnU-Net's seven numbers for one channel."""
    low, median, high = np.percentile(values, PERCENTILES)
    return {
        "max": float(values.max()),
        "mean": float(values.mean(dtype=np.float64)),
        "median": float(median),
        "min": float(values.min()),
        "percentile_00_5": float(low),
        "percentile_99_5": float(high),
        "std": float(values.std(dtype=np.float64)),
    }
