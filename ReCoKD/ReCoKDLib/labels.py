"""What a network's outputs mean: segments, regions, colours and codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .errors import DatasetError, InputError, PlanError

if TYPE_CHECKING:
    import torch

# Distinct on a grey image and to colour-blind readers (Okabe and Ito's palette, brightened); repeated when it runs out.
_DEFAULT_COLORS = (
    (0.90, 0.62, 0.00),
    (0.34, 0.71, 0.91),
    (0.00, 0.62, 0.45),
    (0.94, 0.89, 0.26),
    (0.84, 0.37, 0.00),
    (0.80, 0.47, 0.65),
    (0.00, 0.45, 0.70),
    (0.60, 0.80, 0.20),
)


@dataclass(frozen=True)
class Segment:
    """One structure.

    Attributes:
        name: What the user reads.
        value: Its value in an output label map.
        region: The label values of the training data that belong to it; ``(value,)`` unless regions overlap.
        color: Red, green, blue in 0..1.
        terminology: Slicer's terminology entry (``category~type~modifier~...``), or empty.
    """

    name: str
    value: int
    region: tuple[int, ...]
    color: tuple[float, float, float]
    terminology: str = ""


@dataclass(frozen=True)
class LabelSet:
    """The segments of a network in the order of its outputs.

    Without regions the network has one head for each label, background first, and a voxel gets the label of
    the largest (softmax). With regions it has one head for each region (sigmoid), and later regions overwrite
    earlier ones, in nnU-Net's ``regions_class_order``.

    Attributes:
        segments: Foreground only; in the order of the heads.
        has_regions: Whether heads are overlapping regions.
        ignore_label: Value of voxels that nobody annotated, or None.
    """

    segments: tuple[Segment, ...]
    has_regions: bool = False
    ignore_label: int | None = None

    @property
    def number_of_heads(self) -> int:
        """Outputs of the network."""
        return len(self.segments) + (0 if self.has_regions else 1)

    @property
    def training_values(self) -> frozenset[int]:
        """Every value that a training label map may hold: background, all labels, the ignore label."""
        values = {0, *(value for segment in self.segments for value in segment.region)}
        return frozenset(values if self.ignore_label is None else values | {self.ignore_label})

    @classmethod
    def from_dataset_json(cls, dataset: Mapping[str, Any]) -> LabelSet:
        """Read ``labels`` and ``regions_class_order`` of an nnU-Net v2 ``dataset.json``.

        Raises:
            DatasetError: No background 0, labels with gaps, or regions without an order.
        """
        given = dataset.get("labels")
        labels = dict(given) if isinstance(given, Mapping) else {}
        if not labels:
            raise DatasetError("dataset.json names no labels. Add 'labels': {'background': 0, ...}.")
        if labels.pop("background", None) not in (0, [0]):
            raise DatasetError("dataset.json must have the label 'background' with the value 0. Add it.")
        ignore = labels.pop("ignore", None)
        if ignore is not None and not isinstance(ignore, int):
            raise DatasetError("The label 'ignore' in dataset.json must be a single number.")
        try:
            regions = {
                str(name): tuple(int(v) for v in value) if isinstance(value, Sequence) else (int(value),)
                for name, value in labels.items()
            }
        except (TypeError, ValueError) as error:
            raise DatasetError(
                f"A label in dataset.json is neither a number nor a list of numbers: {error}."
            ) from error
        has_regions = any(len(region) > 1 for region in regions.values())
        if has_regions:
            order = dataset.get("regions_class_order")
            if (
                not isinstance(order, Sequence)
                or len(order) != len(regions)
                or not all(isinstance(value, int) for value in order)
            ):
                raise DatasetError(
                    "dataset.json has regions, so it needs 'regions_class_order' with one value for each of its "
                    f"{len(regions)} regions; it has {order!r}."
                )
            values = [int(value) for value in order]
        else:
            values = [region[0] for region in regions.values()]
            if sorted(values) != list(range(1, len(values) + 1)):
                raise DatasetError(
                    f"The labels in dataset.json must be 1, 2, 3, ... without gaps; they are {sorted(values)}. "
                    "Renumber them in dataset.json and in the label maps."
                )
        if ignore is not None and ignore != max(v for region in regions.values() for v in region) + 1:
            raise DatasetError("The label 'ignore' in dataset.json must have the highest value, by one.")
        ordered = list(zip(regions.items(), values, strict=True))
        if not has_regions:
            ordered.sort(key=lambda item: item[1])  # head order is label order
        segments = tuple(
            Segment(name, value, region, _DEFAULT_COLORS[index % len(_DEFAULT_COLORS)])
            for index, ((name, region), value) in enumerate(ordered)
        )
        return cls(segments, has_regions, ignore)

    def to_dataset_json(self) -> dict[str, Any]:
        """The same as nnU-Net writes it: ``labels`` and, with regions, ``regions_class_order``."""
        labels: dict[str, Any] = {"background": 0}
        for segment in self.segments:
            labels[segment.name] = list(segment.region) if self.has_regions else segment.value
        if self.ignore_label is not None:
            labels["ignore"] = self.ignore_label
        if not self.has_regions:
            return {"labels": labels}
        return {"labels": labels, "regions_class_order": [segment.value for segment in self.segments]}

    def named(self, name: str) -> Segment:
        """The segment called ``name`` (upper and lower case count the same).

        Raises:
            InputError: There is none; the message lists what there is.
        """
        for segment in self.segments:
            if segment.name.casefold() == name.strip().casefold():
                return segment
        known = ", ".join(segment.name for segment in self.segments)
        raise InputError(f"There is no label {name!r} in this student. It has: {known}.")

    def subset(self, names: Sequence[str] | None) -> tuple[Segment, ...]:
        """The segments with these names, in head order; all of them for None.

        Raises:
            InputError: A name is not known.
        """
        if names is None:
            return self.segments
        wanted = {self.named(name).name for name in names}
        return tuple(segment for segment in self.segments if segment.name in wanted)

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """(heads, k, j, i) logits to probabilities: softmax over labels, sigmoid for regions; float32."""
        logits = logits.float()
        return logits.sigmoid() if self.has_regions else logits.softmax(0)

    def logits(self, probabilities: torch.Tensor) -> torch.Tensor:
        """Logits whose :meth:`probabilities` are the given ones (head, k, j, i)."""
        return probabilities.logit() if self.has_regions else probabilities.log()

    def label_map(self, logits: torch.Tensor, wanted: Sequence[Segment] | None = None) -> torch.Tensor:
        """(heads, k, j, i) logits to a (k, j, i) label map, as nnU-Net decides it.

        Args:
            logits: One for each head.
            wanted: The only segments to put into the map; the decision between labels stays that of all.

        Raises:
            PlanError: The logits hold NaN.
        """
        import torch

        chosen = self.segments if wanted is None else wanted
        result = torch.zeros(logits.shape[1:], dtype=torch.int16, device=logits.device)
        if not self.has_regions:
            # Class by class: the largest so far and whose it is. The first of several largest wins, as in argmax.
            largest = logits[0].clone()
            for segment, head in zip(self.segments, logits[1:], strict=True):
                result.masked_fill_(head > largest, segment.value if segment in chosen else 0)
                torch.maximum(largest, head, out=largest)
            _require_numbers(largest)
            return result
        _require_numbers(logits)
        # sigmoid(x) > 0.5 as nnU-Net computes it, in float32
        inside = logits.float().sigmoid() > 0.5
        for head, segment in enumerate(self.segments):
            if segment in chosen:
                result.masked_fill_(inside[head], segment.value)
        return result


def _require_numbers(logits: torch.Tensor) -> None:
    if logits.isnan().any():
        raise PlanError(
            "The network's result holds values that are not numbers (NaN), so there are no labels. With --precision "
            "bf16 or on a GPU try --precision f32 --device cpu; if it stays, the model's weights are broken."
        )
