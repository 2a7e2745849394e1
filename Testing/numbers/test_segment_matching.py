"""Which class a segment of somebody's segmentation shows."""

from __future__ import annotations

from ReCoKDLib.segment_matching import FoundSegment, classes_of, lacking, matched
from ReCoKDLib.terminology import UNKNOWN_STRUCTURE, type_and_modifier

MASS = "list~SCT^49755003^Morphologically Abnormal Structure~SCT^4147007^Mass~^^~regions~^^~^^"
VERTEBRA = "list~SCT^123037004^Anatomical Structure~SCT^51282000^Vertebra~^^~regions~^^~^^"


def found(*segments: tuple[str, str]) -> tuple[FoundSegment, ...]:
    return tuple(FoundSegment(str(place), name, entry) for place, (name, entry) in enumerate(segments))


def test_segments_stay_in_their_order_so_that_the_later_one_wins() -> None:
    segments = found(("liver", ""), ("lesion", ""))
    classes = classes_of([segments], {})
    assert [segment.name for segment in classes.segments] == ["lesion", "liver"]
    assert matched(segments, classes, {}) == (("0", 2), ("1", 1))


def test_a_code_of_several_structures_does_not_tell_them_apart() -> None:
    both = found(("L1", VERTEBRA), ("L2", VERTEBRA))
    one = found(("L2", VERTEBRA))
    classes = classes_of([both, one], {})
    assert [segment.name for segment in classes.segments] == ["L1", "L2"]
    assert matched(both, classes, {}) == (("0", 1), ("1", 2))
    assert matched(one, classes, {}) == (("0", 2),)
    assert lacking(classes, [matched(one, classes, {})]) == ("L1",)
    assert lacking(classes, [matched(one, classes, {}), (("0", 1),)]) == lacking(classes, [()]) == ()
    assert matched(both, classes_of([one], {}), {}) == (("1", 1),)


def test_the_region_belongs_to_the_code() -> None:
    liver, kidney = (
        MASS.replace("regions~^^", f"regions~SCT^{code}") for code in ("10200004^Liver", "64033007^Kidney")
    )
    assert type_and_modifier(liver) == "SCT^4147007~^~SCT^10200004~^"
    classes = classes_of([found(("tumour", liver)), found(("growth", kidney)), found(("Tumor", liver))], {})
    assert [segment.terminology for segment in classes.segments] == [kidney, liver]


def test_one_code_is_one_class_whatever_its_name() -> None:
    assert len(classes_of([found(("Wirbel", VERTEBRA)), found(("vertebra", VERTEBRA))], {}).segments) == 1


def test_a_name_is_coded_where_slicer_says_tissue() -> None:
    (segment,) = found(("Right kidney", UNKNOWN_STRUCTURE))
    assert segment.code == "SCT^64033007~SCT^24028007"
    classes = classes_of([found(("kidney right", "")), (segment,)], {})
    assert [known.name for known in classes.segments] == ["kidney right"]
