"""Every source broken in every way that a check names: what it finds, how bad it is, and the exit code."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from made_sources import (
    HELD_OUT,
    NAMES,
    Corrected,
    Decathlon,
    Dicom,
    LabelMaps,
    Made,
    Mixture,
    Mrb,
    Mrml,
    NnunetRaw,
    Segmentations,
    Source,
    VolumesAlone,
    make_cases,
    shifted,
    write_split,
)
from packages import TWO_WIDE, small_card, small_package
from plans import TWO_LABELS, small_plan
from ReCoKDLib.labels import LabelSet
from ReCoKDLib.networks import build_network
from ReCoKDLib.package import write_package
from ReCoKDTrainingLib import check_report
from ReCoKDTrainingLib.cli import main
from ReCoKDTrainingLib.datasets import open_datasets

Change = Callable[[Made], Made]
SOURCES: Mapping[str, Source] = {
    "mrb": Mrb(),
    "mrml": Mrml(),
    "segmentations": Segmentations(),
    "label maps": LabelMaps(),
    "nnU-Net raw": NnunetRaw(),
    "decathlon": Decathlon(),
    "dicom": Dicom(),
    "corrected": Corrected(),
    "volumes alone": VolumesAlone(),
    "mixture": Mixture(),
}
# One of those that are trained on; another with which it may have something in common.
BAD, OTHER = "made2", "made1"
TRAINED_ON = tuple(f"made{number}" for number in range(HELD_OUT))
ALL = (*TRAINED_ON, f"made{HELD_OUT}")


@dataclass(frozen=True)
class Fault:
    """One way to break a dataset.

    Attributes:
        kind: What the check calls it.
        spoils: Whether it spoils the training.
        changes: What becomes of cases, by their names.
        unreadable: Whether the bad case's file is overwritten.
        whole: Whether it is found in all cases together; else in the bad one.
        other: Further kinds that may be found, in any case.
        only: The only cases that are written; None for all.
        arguments: Of the command, besides.
        held_out: Which cases are held out; None makes no split.
    """

    kind: str
    spoils: bool = True
    changes: Mapping[str, Change] = field(default_factory=dict)
    unreadable: bool = False
    whole: bool = False
    other: Sequence[str] = ()
    only: Sequence[str] | None = None
    arguments: Sequence[str] = ()
    held_out: Sequence[str] | None = (f"made{HELD_OUT}",)


def voxels(work: Callable[[Any], Any]) -> Change:
    """Another image, worked on in a copy."""
    return lambda case: replace(case, image=case.image.with_array(work(case.image.array.copy())))


def with_nan(array: Any) -> Any:
    array[0, 3, 3, 3] = np.nan
    return array


def coarse(case: Made) -> Made:
    def four_times(volume: Any) -> Any:
        return replace(volume, ijk_to_ras=volume.ijk_to_ras * np.array([4, 4, 4, 1]))

    return replace(case, image=four_times(case.image), masks={n: four_times(m) for n, m in case.masks.items()})


def masks(work: Callable[[str, Any], Any]) -> Change:
    """Other masks; None leaves one away."""

    def change(case: Made) -> Made:
        changed = {name: work(name, mask) for name, mask in case.masks.items()}
        return replace(case, masks={name: mask for name, mask in changed.items() if mask is not None})

    return change


def without(*names: str) -> Change:
    return masks(lambda name, mask: None if name in names else mask)


def emptied(name: str, mask: Any) -> Any:
    return mask.with_array(0 * mask.array) if name == NAMES[1] else mask


def overlapping(case: Made) -> Made:
    first, second = (case.masks[name] for name in NAMES)
    both = first.array | second.array
    return replace(case, masks={NAMES[0]: first.with_array(both), NAMES[1]: second})


def same_image(other: int) -> Change:
    return lambda case: replace(case, image=make_cases()[other].image)


constant = voxels(lambda a: 0 * a + a.flat[0])
FAULTS: Mapping[str, Fault] = {
    "unreadable": Fault("unreadable", changes={}, unreadable=True),
    "channels": Fault("channels", changes={BAD: voxels(lambda a: np.concatenate([a, a + 1]))}),
    "not numbers": Fault("not numbers", changes={BAD: voxels(with_nan)}),
    "constant image": Fault("constant image", changes={BAD: constant}),
    "different grids": Fault(
        "different grids", changes={BAD: masks(lambda n, m: shifted(m, 2, 0, 0))}, other=["outside the image"]
    ),
    "unknown values": Fault("unknown values", changes={BAD: masks(lambda n, m: m.with_array(7 * m.array))}),
    "missing class": Fault("missing class", False, {BAD: without(NAMES[1])}),
    "empty segment": Fault("empty segment", False, {BAD: masks(emptied)}),
    "overlap": Fault("overlap", False, {BAD: overlapping}),
    "outside": Fault(
        "outside the image", changes={BAD: masks(lambda n, m: shifted(m, 500, 0, 0))}, other=["empty segment"]
    ),
    "partly outside": Fault("outside the image", False, {BAD: masks(lambda n, m: shifted(m, -5, 0, 0))}),
    "spacing": Fault("spacing", False, {BAD: coarse}),
    "intensity": Fault("intensity", False, {BAD: voxels(lambda a: 100 * a)}),
    "duplicate": Fault("duplicate", False, {BAD: same_image(int(OTHER[-1]))}),
    "leakage": Fault("leakage", changes={BAD: same_image(HELD_OUT)}),
    "patient on both sides": Fault("leakage", changes={BAD: lambda case: replace(case, patient=f"id {HELD_OUT}")}),
    "nothing there": Fault("dataset", whole=True, only=(), held_out=None),
    "all bad": Fault(
        *("empty dataset", True, dict.fromkeys(ALL, constant)),
        whole=True,
        other=["constant image", "split"],
        arguments=["--skip-bad"],
    ),
    "all to train on bad": Fault(
        *("no training", True, dict.fromkeys(TRAINED_ON, constant)),
        whole=True,
        other=["constant image"],
        arguments=["--skip-bad"],
    ),
    "one case": Fault("one case", whole=True, only=[BAD], other=["split", "no validation"], held_out=None),
    "no validation": Fault("no validation", False, whole=True, held_out=()),
    "split": Fault("split", whole=True, arguments=["--split", "nonsense"], other=["no validation"], held_out=None),
    "absent class": Fault(
        "absent class", changes=dict.fromkeys(TRAINED_ON, masks(emptied)), whole=True, other=["empty segment"]
    ),
    "no background": Fault(
        "no background",
        changes=dict.fromkeys(TRAINED_ON[:2], without(NAMES[0])) | dict.fromkeys(TRAINED_ON[2:], without(NAMES[1])),
        whole=True,
        other=["missing class"],
    ),
    "no teacher": Fault("no teacher", changes={BAD: without(*NAMES)}, whole=True, other=["no classes"]),
    "no classes": Fault(
        "no classes",
        changes=dict.fromkeys(ALL, without(*NAMES)),
        whole=True,
        other=["no teacher", "split", "no validation"],
        held_out=None,
    ),
    "teacher": Fault("teacher", whole=True, arguments=["--teacher", "half a teacher"]),
}

LABEL_MAPS = ("label maps", "nnU-Net raw", "decathlon", "corrected")
SEGMENTS = ("mrb", "mrml", "segmentations", "dicom", "mixture")
ALONE = "volumes alone"
# Faults that some sources cannot have, and why.
IMPOSSIBLE: Mapping[str, Mapping[Sequence[str], str]] = {
    "channels": {
        ("mrb", "mrml", "dicom"): "of a study the channels that are asked for are taken; one that lacks is unreadable",
        ("nnU-Net raw", "corrected", "mixture", "segmentations", "label maps", ALONE): (
            "a channel is a file: one that lacks is unreadable, a file with two as well"
        ),
    },
    "not numbers": {("dicom",): "its voxels are whole numbers"},
    "different grids": {SEGMENTS: "segments are brought to the image", (ALONE,): "nothing is annotated"},
    "unknown values": {SEGMENTS: "segments have names", (ALONE,): "nothing is annotated"},
    "missing class": {LABEL_MAPS: "the file does not tell who looked for what", (ALONE,): "nothing is annotated"},
    "empty segment": {(ALONE,): "nothing is annotated"},
    "overlap": {LABEL_MAPS: "a voxel has one value", (ALONE,): "nothing is annotated"},
    "outside": {LABEL_MAPS: "another grid is refused altogether", (ALONE,): "nothing is annotated"},
    "partly outside": {LABEL_MAPS: "another grid is refused altogether", (ALONE,): "nothing is annotated"},
    "leakage": {(ALONE,): "none of them can be held out"},
    "patient on both sides": {
        (*LABEL_MAPS, "segmentations", "mixture"): "files do not tell the patient",
        (ALONE,): "none of them can be held out",
    },
    "all to train on bad": {(ALONE,): "none of them can be held out"},
    "absent class": {(ALONE,): "nothing is annotated"},
    "no background": {
        (*LABEL_MAPS, "mixture"): "label maps do not tell who looked for what",
        (ALONE,): "nothing is annotated",
    },
    "no teacher": {("decathlon",): "each image has a label map"},
    "teacher": {(ALONE,): "the classes are its own"},
    "one case": {("mixture",): "a source without cases is refused"},
    "no classes": {("decathlon", "nnU-Net raw", "corrected", "mixture", "label maps"): "dataset.json names them"},
}


# What a run's settings make of good cases.
OF_SETTINGS = {"initial weights", "labels", "losses", "plan"}


def is_possible(source: str, fault: str) -> bool:
    return not any(source in sources for sources in IMPOSSIBLE.get(fault, {}))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a source without a fault, written once."""
    written: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in written:
            written[name] = tmp_path_factory.mktemp("good") / "data"
            SOURCES[name].begin(written[name])
            for case in make_cases():
                SOURCES[name].write(written[name], case)
        return written[name]

    return make


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """One that knows both classes, and one that knows only the first."""
    folder = tmp_path_factory.mktemp("teachers")
    plan, half = small_plan(features=TWO_WIDE), LabelSet(TWO_LABELS.segments[:1])
    torch.manual_seed(0)
    weights = build_network(plan.architecture, plan.channels, half.number_of_heads).state_dict()
    return {
        "teacher": small_package(folder / "both.recokd.zip"),
        "half a teacher": write_package(folder / "half.recokd.zip", small_card("half"), plan, half, [weights]),
    }


@pytest.fixture
def check(
    tmp_path: Path, teachers: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, dict[str, dict[str, bool]]]]:
    """Run the task on a folder; the exit code, and by case (empty: all) what was found and whether it spoils."""
    monkeypatch.setattr(check_report, "write_sheets", lambda check, path: [])  # pictures take most of the time

    def run(
        source: Source, folder: Path, arguments: Sequence[str], held_out: Sequence[str] | None
    ) -> tuple[int, dict[str, dict[str, bool]]]:
        (tmp_path / "nonsense").write_text('{"train": ["nobody"], "val": []}')
        given = {**teachers, "nonsense": tmp_path / "nonsense"}
        told = [f"--dataset={path}" for path in source.paths(folder)]
        told += [str(given.get(argument, argument)) for argument in arguments]
        names = {}
        if held_out is not None:
            names = {name: name for name in ALL} if source.keeps_names else identifiers(source, folder)
            told.append(f"--split={write_split(tmp_path / 'split.json', names, held_out)}")
        code = main(["--task", "check", *told, "--output", str(tmp_path / "out")])
        values = json.loads((tmp_path / "out" / "check.json").read_text(encoding="utf-8"))
        by_identifier = {identifier: name for name, identifier in names.items()}
        found = {"": {each["kind"]: each["spoils"] for each in values["findings"]}}
        for case in values["cases"]:
            name = by_identifier.get(case["case"], case["case"])
            found[name] = {each["kind"]: each["spoils"] for each in case["findings"]}
        return code, found

    return run


def identifiers(source: Source, folder: Path) -> dict[str, str]:
    """What the cases are called in the dataset, by their names here."""
    cases = open_datasets(source.paths(folder)).cases
    places = {case.identifier: str(case.reader.place) for case in cases}
    return {name: identifier for name in ALL for identifier, place in places.items() if name in place}


@pytest.mark.parametrize(
    ("source", "fault"), [(source, fault) for source in SOURCES for fault in FAULTS if is_possible(source, fault)]
)
def test_each_fault_of_each_source(source: str, fault: str, made: Any, check: Any, tmp_path: Path) -> None:
    needs(source)
    writer, broken, folder = SOURCES[source], FAULTS[fault], tmp_path / "data"
    if broken.only is None:
        shutil.copytree(made(source), folder)
    else:
        writer.begin(folder)
    for case in make_cases():
        if broken.only is not None and case.name in broken.only:
            writer.write(folder, case)
        if case.name in broken.changes:
            writer.write(folder, broken.changes[case.name](case))
    if broken.unreadable:
        writer.image(folder, BAD).write_bytes(b"nothing")
    arguments = list(broken.arguments)
    allowed = {broken.kind, *broken.other}
    if source == ALONE:
        allowed.add("no validation")
        if fault not in ("no teacher", "no classes", "teacher"):
            arguments += ["--teacher", "teacher"]
    code, found = check(writer, folder, arguments, broken.held_out if writer.held_out else None)
    # Of two that are the same, either may be called so.
    bad = [""] if broken.whole else [BAD, OTHER] if fault == "duplicate" else [BAD]
    assert [found[name][broken.kind] for name in bad if broken.kind in found.get(name, {})] == [broken.spoils], found
    assert {kind for kinds in found.values() for kind in kinds} <= allowed
    assert code == int(broken.spoils)


@pytest.mark.parametrize("source", SOURCES)
def test_nothing_is_found_where_nothing_is_wrong(source: str, made: Any, check: Any) -> None:
    needs(source)
    alone = source == ALONE
    arguments = ["--teacher", "teacher"] if alone else []
    code, found = check(SOURCES[source], made(source), arguments, None if alone else (ALL[HELD_OUT],))
    assert code == 0
    assert len(found) == 6
    assert {kind for kinds in found.values() for kind in kinds} == ({"no validation"} if alone else set())


def test_every_kind_of_finding_is_here() -> None:
    library = Path(check_report.__file__).parent
    kinds = {
        kind
        for path in library.rglob("*.py")
        for kind in re.findall(r'(?:Finding|tried)\(\s*"([a-z ]+)"', path.read_text(encoding="utf-8"))
    }
    assert kinds - OF_SETTINGS == {fault.kind for fault in FAULTS.values()}
    assert kinds >= OF_SETTINGS
    for reasons in IMPOSSIBLE.values():
        assert all(reasons.values())
        assert {source for sources in reasons for source in sources} <= SOURCES.keys()


def needs(source: str) -> None:
    if source in ("mrb", "mrml", "segmentations", "mixture"):
        pytest.importorskip("slicer", reason='needs slicer-core: pip install "recokd[host]"')
    if source == "dicom":
        pytest.importorskip("highdicom")
