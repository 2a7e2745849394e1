"""Standard codes for segments."""

from __future__ import annotations

import pytest

from ReCoKDLib import terminology
from ReCoKDLib.labels import LabelSet
from ReCoKDLib.terminology import terminology_entry, with_terminology

ANTERIOR = (
    "Segmentation category and type - DICOM master list~SCT^123037004^Anatomical Structure~"
    "SCT^5366008^Hippocampus~SCT^255549009^Anterior~Anatomic codes - DICOM master list~^^~^^"
)


def test_the_hippocampus_data_have_their_codes() -> None:
    labels = LabelSet.from_dataset_json({"labels": {"background": 0, "Anterior": 1, "Posterior": 2}})
    anterior, posterior = with_terminology(labels, "Dataset004_Hippocampus").segments
    assert anterior.terminology == ANTERIOR
    assert posterior.terminology == ANTERIOR.replace("255549009^Anterior", "255551008^Posterior")


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("kidney_left", "SCT^64033007^Kidney~SCT^7771000^Left"),
        ("Right Kidney", "SCT^64033007^Kidney~SCT^24028007^Right"),
        ("liver", "SCT^10200004^Liver~^^"),
        ("urinary_bladder", "SCT^89837001^Bladder~^^"),
        ("anterior hippocampus", "SCT^5366008^Hippocampus~SCT^255549009^Anterior"),
    ],
)
def test_known_names_are_coded(name: str, code: str) -> None:
    assert code in terminology_entry(name)


@pytest.mark.parametrize("name", ["kidney tumour", "Anterior", "liver and spleen", "left", "left right lung", "", "2"])
def test_what_a_name_does_not_tell_surely_is_not_coded(name: str) -> None:
    assert terminology_entry(name, "Dataset004_Something") == ""


def test_an_entry_that_is_there_is_kept() -> None:
    labels = LabelSet.from_dataset_json({"labels": {"background": 0, "liver": 1}})
    coded = with_terminology(labels)
    other = LabelSet((type(coded.segments[0])("liver", 1, (1,), (1, 0, 0), "mine"),))
    assert with_terminology(other).segments[0].terminology == "mine"


def test_the_codes_are_those_of_the_dicom_standard() -> None:
    concepts = pytest.importorskip("pydicom.sr._concepts_dict").concepts["SCT"]
    meanings: dict[str, set[str]] = {}
    for entries in concepts.values():
        for value, (meaning, _) in entries.items():
            meanings.setdefault(value, set()).add(meaning)
    for value, meaning in (*terminology._TYPES.values(), *terminology._MODIFIERS.values()):
        assert meaning in meanings[value], (value, meaning, meanings.get(value))


def test_slicer_reads_the_entry() -> None:
    slicer = pytest.importorskip("slicer")
    logic, entry = slicer.vtkSlicerTerminologiesModuleLogic(), slicer.vtkSlicerTerminologyEntry()
    assert logic.DeserializeTerminologyEntry(ANTERIOR, entry)
    assert entry.GetTypeObject().GetCodeMeaning() == "Hippocampus"
    assert entry.GetTypeModifierObject().GetCodeMeaning() == "Anterior"
    assert logic.SerializeTerminologyEntry(entry) == ANTERIOR
