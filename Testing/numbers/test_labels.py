"""What heads mean, and label maps made from them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ReCoKDLib.errors import DatasetError, InputError
from ReCoKDLib.labels import LabelSet

PLAIN: dict[str, Any] = {"labels": {"background": 0, "posterior": 2, "anterior": 1}}
REGIONS: dict[str, Any] = {
    "labels": {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3},
    "regions_class_order": [1, 2, 3],
}


def test_plain_labels_in_the_order_of_their_values() -> None:
    labels = LabelSet.from_dataset_json(PLAIN)
    assert [(s.name, s.value, s.region) for s in labels.segments] == [("anterior", 1, (1,)), ("posterior", 2, (2,))]
    assert (labels.number_of_heads, labels.has_regions, labels.ignore_label) == (3, False, None)
    assert labels.training_values == {0, 1, 2}


def test_regions_in_the_order_of_dataset_json() -> None:
    labels = LabelSet.from_dataset_json(REGIONS | {"labels": REGIONS["labels"] | {"ignore": 4}})
    assert [s.region for s in labels.segments] == [(1, 2, 3), (2, 3), (3,)]
    assert (labels.number_of_heads, labels.has_regions, labels.ignore_label) == (3, True, 4)
    assert labels.training_values == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("source", [PLAIN, REGIONS], ids=["plain", "regions"])
def test_dataset_json_round_trip(source: dict[str, Any]) -> None:
    labels = LabelSet.from_dataset_json(source)
    assert LabelSet.from_dataset_json(labels.to_dataset_json()) == labels


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({}, "names no labels"),
        ({"labels": ["background", "anterior"]}, "names no labels"),
        ({"labels": {"background": 0, "a": [1, 2]}, "regions_class_order": ["a"]}, "regions_class_order"),
        ({"labels": {"anterior": 1}}, "'background' with the value 0"),
        ({"labels": {"background": 0, "a": 1, "b": 3}}, "without gaps"),
        ({"labels": {"background": 0, "a": [1, 2]}}, "regions_class_order"),
        ({"labels": {"background": 0, "a": 1, "ignore": 5}}, "highest value, by one"),
        ({"labels": {"background": 0, "a": None}}, "neither a number nor a list"),
    ],
)
def test_contradictions_are_refused(source: dict[str, Any], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        LabelSet.from_dataset_json(source)


def test_the_largest_logit_wins() -> None:
    logits = torch.tensor([[1.0, 0.0, -5.0], [0.0, 2.0, -4.0], [0.5, 1.0, -3.0]]).reshape(3, 1, 1, 3)
    labels = LabelSet.from_dataset_json(PLAIN)
    assert labels.label_map(logits).flatten().tolist() == [0, 1, 2]
    assert labels.label_map(logits, labels.subset(["posterior"])).flatten().tolist() == [0, 0, 2]
    torch.testing.assert_close(labels.probabilities(logits), torch.softmax(logits, 0))


def test_later_regions_overwrite_earlier_ones() -> None:
    logits = torch.tensor([[1.0, 1.0, -1.0, -1.0], [-1.0, 1.0, 1.0, -1.0], [-1.0, 1.0, -1.0, -1.0]]).reshape(3, 1, 1, 4)
    labels = LabelSet.from_dataset_json(REGIONS)
    assert labels.label_map(logits).flatten().tolist() == [1, 3, 2, 0]
    # what another region would have overwritten is shown when that region is not wanted
    assert labels.label_map(logits, labels.subset(["whole"])).flatten().tolist() == [1, 1, 0, 0]
    torch.testing.assert_close(labels.probabilities(logits), torch.sigmoid(logits))


def test_subset_by_name() -> None:
    labels = LabelSet.from_dataset_json(PLAIN)
    assert [s.name for s in labels.subset([" Posterior", "ANTERIOR"])] == ["anterior", "posterior"]
    assert labels.subset(None) == labels.segments
    with pytest.raises(InputError, match="no label 'liver'.*It has: anterior, posterior"):
        labels.subset(["liver"])
