"""Small model packages, and packages that were tampered with."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from plans import TWO_LABELS, backbone_plan, small_plan
from ReCoKDLib.card import Card, ChannelInfo, Intensity, Licences, SpacingInfo, TrainingRecord
from ReCoKDLib.networks import build_network, plain_state
from ReCoKDLib.package import write_package
from ReCoKDLib.plan import Plan

# What two_blobs looks like: about 100, 60 brighter for each label.
BLOBS = Intensity((70.0, 90.0), (95.0, 110.0), (200.0, 260.0))
ONE_MILLIMETRE = SpacingInfo((1.0, 1.0, 1.0), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0))
TWO_WIDE = (4, 8)


def small_card(name: str = "blobs-x4", **changes: Any) -> Card:
    """A student's card with every field filled in."""
    card = Card(
        name=name,
        role="student",
        channels=(ChannelInfo("T1", "MR", "", BLOBS),),
        description="Finds two blobs; naïve, but small.",
        spacing=ONE_MILLIMETRE,
        orientation="RAS",
        mirror_axes=(0, 1, 2),
        training=TrainingRecord(
            dataset="Dataset901_Blobs",
            fingerprint="00ff",
            cases=6,
            split={"training": 4, "validation": 2},
            teacher="blobs",
            teacher_checksum="ff00",
            losses={"reco": {"eta": 1.0}},
            width=2,
            steps=10,
            batch_size=2,
            seed=3,
            versions={"torch": "2.9.0"},
            date="2026-01-02",
        ),
        metrics={"dice": {"anterior": 0.9, "posterior": float("nan")}},
        licences=Licences(weights="CC-BY-SA-4.0", attribution="Somebody"),
    )
    return replace(card, **changes)


def small_weights(plan: Plan, seed: int = 0) -> dict[str, torch.Tensor]:
    """The state dictionary of the plan's network at a seeded random start."""
    torch.manual_seed(seed)
    network = build_network(plan.architecture, plan.channels, TWO_LABELS.number_of_heads)
    return network.state_dict()


def small_package(
    path: Path, name: str = "blobs-x4", *, folds: int = 1, dtype: str = "float32", overwrite: bool = False, **card: Any
) -> Path:
    """Write a package whose network has two stages."""
    plan = small_plan(features=TWO_WIDE)
    weights = [small_weights(plan, seed) for seed in range(folds)]
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_package(path, small_card(name, **card), plan, TWO_LABELS, weights, overwrite, dtype)


def backbone_package(path: Path, backbone: str, *, folds: int = 1, **card: Any) -> Path:
    """Write a package whose network is a small one of the registry's backbone, at seeded random starts."""
    plan = backbone_plan(backbone, features=(8, 8, 8))
    weights = []
    for seed in range(folds):
        torch.manual_seed(seed)
        weights.append(plain_state(build_network(plan.architecture, plan.channels, TWO_LABELS.number_of_heads)))
    return write_package(path, small_card(f"blobs-{backbone}", **card), plan, TWO_LABELS, weights)


def contents_of(path: Path) -> dict[str, bytes]:
    """Every file of a package."""
    if path.is_dir():
        return {p.relative_to(path).as_posix(): p.read_bytes() for p in path.rglob("*") if p.is_file()}
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rewritten(path: Path, changes: Mapping[str, bytes | None], *, checksums: bool = True) -> Path:
    """The same package with files changed, added or (None) removed.

    Args:
        path: A package, folder or file; changed in place.
        changes: New contents by name.
        checksums: Bring the list of checksums up to date, as somebody who means harm would.
    """
    contents = contents_of(path)
    for name, data in changes.items():
        if data is None:
            del contents[name]
            if path.is_dir():
                (path / name).unlink()
        else:
            contents[name] = data
    if checksums:
        listed = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items() if name != "checksums.json"}
        contents["checksums.json"] = json.dumps({"algorithm": "SHA-256", "files": listed}).encode()
    if path.is_dir():
        for name, data in contents.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in contents.items():
                archive.writestr(name, data)
    return path


def changed_json(path: Path, name: str, *keys: str, value: Any) -> dict[str, bytes]:
    """A change for :func:`rewritten`: one value in one of the package's JSON files."""
    whole = json.loads(contents_of(path)[name])
    inner = whole
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    return {name: json.dumps(whole).encode()}
