"""Which classes of a teacher a student learns, and what becomes of label maps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from raw_dataset import make_raw_dataset
from ReCoKDLib.errors import DatasetError, PackageError
from ReCoKDLib.labels import LabelSet
from ReCoKDLib.terminology import type_and_modifier, with_terminology
from ReCoKDTrainingLib.cache import preprocess_cases
from ReCoKDTrainingLib.class_matching import common_classes, match_classes, relabelling, select_classes
from ReCoKDTrainingLib.datasets import NnunetRawDataset, load_case
from ReCoKDTrainingLib.fingerprint import fingerprint_dataset
from ReCoKDTrainingLib.planner import plan_dataset


def labels(*names: str, ignore: bool = False) -> LabelSet:
    values = {"background": 0, **{name: value for value, name in enumerate(names, 1)}}
    return LabelSet.from_dataset_json({"labels": values | ({"ignore": len(values)} if ignore else {})})


def regions(ignore: bool = False, **given: list[int]) -> LabelSet:
    values = {"background": 0, **given} | ({"ignore": max(max(v) for v in given.values()) + 1} if ignore else {})
    return LabelSet.from_dataset_json({"labels": values, "regions_class_order": list(range(1, len(given) + 1))})


BRATS = regions(whole=[1, 2, 3], core=[2, 3], enhancing=[3])
ABDOMEN = labels("Spleen", "Left kidney", "Right kidney", "Liver")


# -- from the teacher's heads to the student's --------------------------------------------------------------


def test_probabilities_of_merged_classes_add_up() -> None:
    classes = match_classes(labels("liver", "SPLEEN"), ABDOMEN, "data", "teacher")
    assert classes.names == (("liver", "Liver"), ("SPLEEN", "Spleen"))
    assert classes.heads == ((0, 2, 3), (4,), (1,))
    generator = torch.Generator().manual_seed(0)
    logits = 20 * torch.randn(2, 5, 3, 4, 5, generator=generator, dtype=torch.float64)
    merged = classes.logits(logits)
    assert merged.shape == (2, 3, 3, 4, 5)
    whole = logits.softmax(1)
    expected = torch.stack([whole[:, [0, 2, 3]].sum(1), whole[:, 4], whole[:, 1]], 1)
    torch.testing.assert_close(merged.softmax(1), expected, rtol=1e-12, atol=1e-15)
    huge = classes.logits(torch.full((1, 5, 1, 1, 1), 1e30))
    assert torch.isfinite(huge).all()


def test_the_same_classes_are_left_as_they_are() -> None:
    logits = torch.randn(1, 5, 2, 2, 2)
    assert match_classes(ABDOMEN, ABDOMEN, "data", "teacher").logits(logits) is logits
    assert match_classes(BRATS, BRATS, "data", "teacher").logits(logits[:, :3]).shape[1] == 3


def test_classes_are_matched_by_code_where_the_names_differ() -> None:
    teacher = with_terminology(ABDOMEN)
    student = with_terminology(labels("kidney_right", "liver"))
    assert match_classes(student, teacher, "data", "teacher").heads == ((0, 1, 2), (3,), (4,))
    with pytest.raises(PackageError, match="does not know kidney_right"):
        match_classes(labels("kidney_right", "liver"), teacher, "data", "teacher")  # without codes


def test_a_name_goes_before_a_code() -> None:
    teacher = with_terminology(labels("right kidney", "kidney right"))
    assert match_classes(with_terminology(labels("Kidney right")), teacher, "data", "teacher").heads == ((0, 1), (2,))


def test_slicers_default_code_means_nothing() -> None:
    tissue = "list~SCT^85756007^Tissue~SCT^85756007^Tissue~^^~Anatomic codes - DICOM master list~^^~^^"
    coded = [
        replace(known, segments=tuple(replace(s, terminology=tissue) for s in known.segments))
        for known in (labels("lesion"), labels("thing"))
    ]
    assert type_and_modifier(tissue) == ""
    with pytest.raises(PackageError, match="does not know lesion"):
        match_classes(coded[0], coded[1], "data", "teacher")


def test_codes_are_compared_without_their_meanings() -> None:
    left = with_terminology(labels("left kidney")).segments[0].terminology
    assert type_and_modifier(left) == "SCT^64033007~SCT^7771000"
    assert type_and_modifier(left.replace("^Kidney", "^Niere")) == type_and_modifier(left)
    assert type_and_modifier("") == type_and_modifier("free text") == ""


def test_regions_are_selected() -> None:
    student = regions(core=[1, 2], Whole=[1, 2, 3])
    classes = match_classes(student, BRATS, "data", "teacher")
    assert classes.heads == ((1,), (0,))
    logits = torch.randn(1, 3, 2, 2, 2)
    assert torch.equal(classes.logits(logits), logits[:, [1, 0]])


def test_labels_and_regions_are_not_comparable() -> None:
    plain = labels("whole", "core", "enhancing")
    assert not match_classes(plain, BRATS, "data", "teacher").comparable
    assert not match_classes(BRATS, plain, "data", "teacher").comparable
    assert match_classes(plain, BRATS, "data", "teacher").names[0] == ("whole", "whole")


def test_what_the_teacher_does_not_know_is_refused_with_both_lists() -> None:
    with pytest.raises(PackageError) as error:
        match_classes(labels("liver", "colon"), ABDOMEN, "Dataset001_Colon", "abdomen")
    for part in ("abdomen does not know colon", "Spleen, Left kidney, Right kidney, Liver", "liver, colon", "--labels"):
        assert part in str(error.value)


def test_two_labels_for_one_of_the_teachers_are_refused() -> None:
    student = with_terminology(labels("liver", "Liver ", "spleen"))
    with pytest.raises(PackageError, match="are the same one"):
        match_classes(student, with_terminology(ABDOMEN), "data", "teacher")


# -- some of a dataset's classes ---------------------------------------------------------------------------


def test_selected_labels_are_renumbered() -> None:
    chosen = select_classes(labels("a", "b", "c", ignore=True), ["C", "a"])
    assert [(s.name, s.value, s.region) for s in chosen.segments] == [("a", 1, (1,)), ("c", 2, (2,))]
    assert chosen.ignore_label == 3
    assert relabelling(labels("a", "b", "c", ignore=True), chosen).values == ((1, 1), (3, 2), (4, 3))
    assert LabelSet.from_dataset_json(chosen.to_dataset_json()).training_values == chosen.training_values


def test_selected_regions_stay_regions() -> None:
    chosen = select_classes(regions(whole=[1, 2, 3], core=[2, 3], enhancing=[3], ignore=True), ["core", "enhancing"])
    assert [(s.name, s.value, s.region) for s in chosen.segments] == [("core", 1, (1, 2)), ("enhancing", 2, (2,))]
    assert (chosen.has_regions, chosen.ignore_label) == (True, 3)
    assert relabelling(regions(whole=[1, 2, 3], core=[2, 3], enhancing=[3], ignore=True), chosen).values == (
        (2, 1),
        (3, 2),
        (4, 3),
    )
    assert LabelSet.from_dataset_json(chosen.to_dataset_json()).has_regions


def test_regions_of_one_value_become_labels() -> None:
    """As nnU-Net would read them back; it has no regions of one value."""
    chosen = select_classes(regions(whole=[1, 2], rim=[4], dot=[3]), ["dot", "rim"])
    assert [(s.name, s.region) for s in chosen.segments] == [("rim", (1,)), ("dot", (2,))]
    assert not chosen.has_regions
    assert relabelling(regions(whole=[1, 2], rim=[4], dot=[3]), chosen).values == ((3, 2), (4, 1))


def test_what_the_target_does_not_know_is_unknown_where_background_is() -> None:
    source, target = labels("liver", "gallbladder"), labels("liver", "spleen", ignore=True)
    other = relabelling(source, target)
    assert other.background_is_unknown
    assert other.apply(np.array([0, 1, 2])).tolist() == [3, 1, 3]
    assert relabelling(source, labels("liver")).apply(np.array([0, 1, 2])).tolist() == [0, 1, 0]


def test_a_label_that_is_not_there_is_refused() -> None:
    with pytest.raises(DatasetError, match="no label 'colon'. It has: Spleen, Left kidney"):
        select_classes(ABDOMEN, ["liver", "colon"])


def test_label_maps_follow(tmp_path: Path) -> None:
    whole = NnunetRawDataset(make_raw_dataset(tmp_path / "blobs", cases=2, ignore=True))
    chosen = whole.with_labels(select_classes(whole.label_set, ["posterior"]))
    _, before = load_case(whole.cases[0], whole.label_set, 1)
    _, after = load_case(chosen.cases[0], chosen.label_set, 1)
    assert before is not None
    assert after is not None
    expected = np.select([before.array == 2, before.array == 3], [1, 2], 0)
    assert set(np.unique(before.array)) == {0, 1, 2, 3}
    np.testing.assert_array_equal(after.array, expected)
    assert after.same_grid(before)
    assert whole.cases[0].relabelling is None, "the dataset itself stays as it was"


def test_values_that_the_dataset_does_not_name_are_refused_as_ever(tmp_path: Path) -> None:
    folder = make_raw_dataset(tmp_path / "blobs", cases=2)
    description = folder / "dataset.json"
    description.write_text(description.read_text(encoding="utf-8").replace('"posterior": 2', '"posterior": 1'))
    description.write_text(description.read_text(encoding="utf-8").replace('"anterior": 1,', ""))
    dataset = NnunetRawDataset(folder)
    chosen = dataset.with_labels(select_classes(dataset.label_set, ["posterior"]))
    with pytest.raises(DatasetError, match=r"holds the values \[2\]"):
        load_case(chosen.cases[0], chosen.label_set, 1)


def test_fingerprint_and_cache_know_the_selection(raw_dataset: Path, tmp_path: Path) -> None:
    whole = NnunetRawDataset(raw_dataset)
    one = whole.with_labels(select_classes(whole.label_set, ["posterior"]))
    # The same selection of a dataset.json that calls the values by each other's names.
    swapped = relabelling(labels("posterior", "anterior"), one.label_set)
    other = replace(one.cases[0], relabelling=swapped)
    plan = plan_dataset(fingerprint_dataset(whole), whole.channel_names, whole.label_set)
    made = {
        preprocess_cases([case], plan, label_set, tmp_path / "cache")[0].folder
        for case, label_set in (
            (whole.cases[0], whole.label_set),
            (one.cases[0], one.label_set),
            (other, one.label_set),
        )
    }
    assert len(made) == 3
    (cached,) = preprocess_cases(one.cases[:1], plan, one.label_set, tmp_path / "cache")
    assert set(cached.locations()) == {"posterior"}
    assert set(np.unique(cached.labels())) == {0, 1}


# -- an evaluation in the model's numbering ----------------------------------------------------------------


def test_a_model_is_measured_on_what_it_shares_with_the_dataset() -> None:
    dataset = labels("posterior", "unknown", "anterior", ignore=True)
    model = labels("anterior", "middle", "posterior")
    shared = common_classes(model, dataset, "model", "data")
    assert [(s.name, s.value) for s in shared.segments] == [("anterior", 1), ("posterior", 3)]
    assert shared.ignore_label == 4
    assert relabelling(dataset, shared).values == ((1, 3), (3, 1), (4, 4))


def test_regions_are_measured_in_the_models_values() -> None:
    model = regions(core=[1, 2], enhancing=[2])
    shared = common_classes(model, BRATS, "model", "data")
    assert relabelling(BRATS, shared).values == ((2, 1), (3, 2))
    with pytest.raises(DatasetError, match="regions overlap in the same way"):
        relabelling(BRATS, common_classes(labels("core", "enhancing"), BRATS, "model", "data"))


def test_nothing_in_common_is_refused() -> None:
    with pytest.raises(PackageError, match=r"labels Spleen.*, the dataset data whole, core, enhancing: none in common"):
        common_classes(ABDOMEN, BRATS, "model", "data")
