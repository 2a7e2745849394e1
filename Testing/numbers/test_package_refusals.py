"""Packages that are damaged, incomplete, from the future or out to harm: each is refused with its reason."""

from __future__ import annotations

import io
import json
import os
import pickle
import stat
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from packages import changed_json, contents_of, rewritten, small_package
from ReCoKDLib.errors import PackageError
from ReCoKDLib.package import ModelPackage

FORMS = pytest.mark.parametrize("name", ["blobs", "blobs.recokd.zip"], ids=["folder", "file"])
WEIGHTS = "models/model.safetensors"
PARTS = (
    "configs/metadata.json",
    "configs/plan.json",
    "configs/dataset.json",
    "configs/inference.json",
    "docs/README.md",
    "LICENSE",
    "checksums.json",
    WEIGHTS,
)


class Attack:
    """Unpickled, it would make a folder."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


def flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


@FORMS
@pytest.mark.parametrize("part", [part for part in PARTS if part not in ("checksums.json", WEIGHTS)])
def test_a_changed_file_is_named(tmp_path: Path, name: str, part: str) -> None:
    path = small_package(tmp_path / name)
    rewritten(path, {part: contents_of(path)[part] + b" "}, checksums=False)
    with pytest.raises(PackageError, match=f"{part} has changed .* checksum is wrong"):
        ModelPackage.open(path)


@FORMS
def test_changed_weights_are_named_before_they_are_used(tmp_path: Path, name: str) -> None:
    path = small_package(tmp_path / name)
    rewritten(path, {WEIGHTS: flipped(contents_of(path)[WEIGHTS])}, checksums=False)
    package = ModelPackage.open(path)
    for read in (package.weights, package.verify):
        with pytest.raises(PackageError, match=f"{WEIGHTS} has changed .* checksum is wrong"):
            read()


@FORMS
@pytest.mark.parametrize("part", PARTS)
def test_a_missing_part_is_named(tmp_path: Path, name: str, part: str) -> None:
    path = small_package(tmp_path / name)
    rewritten(path, {part: None}, checksums=False)
    with pytest.raises(PackageError, match=f"lacks {part}"):
        ModelPackage.open(path)


@FORMS
def test_a_missing_fold_is_named(tmp_path: Path, name: str) -> None:
    path = small_package(tmp_path / name)
    rewritten(path, changed_json(path, "configs/metadata.json", "recokd", "card", "folds", value=2))
    with pytest.raises(PackageError, match=r"lacks models/fold_1\.safetensors, one of its 2"):
        ModelPackage.open(path)


@FORMS
@pytest.mark.parametrize("version", [2, "1", None])
def test_an_unknown_format_version_is_refused(tmp_path: Path, name: str, version: object) -> None:
    path = small_package(tmp_path / name)
    rewritten(path, changed_json(path, "configs/metadata.json", "recokd", "format_version", value=version))
    with pytest.raises(PackageError, match=rf"format version {version!r}; this ReCoKD reads version 1. Update"):
        ModelPackage.open(path)


def test_another_monai_bundle_is_told_apart(tmp_path: Path) -> None:
    path = small_package(tmp_path / "blobs")
    rewritten(path, changed_json(path, "configs/metadata.json", "recokd", value=None))
    with pytest.raises(PackageError, match="is a MONAI Bundle but not a ReCoKD model package"):
        ModelPackage.open(path)


@FORMS
@pytest.mark.parametrize(
    "file", ["models/model.pt", "a.pth", "b.PKL", "c.pickle", "d.ckpt", "e.bin", "f.npy", "g.npz", "h.joblib", "i.py"]
)
def test_a_pickle_is_refused_by_its_name(tmp_path: Path, name: str, file: str) -> None:
    path = rewritten(small_package(tmp_path / name), {file: b"harmless"})
    with pytest.raises(PackageError, match=f"holds {file}, which may be a pickle"):
        ModelPackage.open(path)


def pickled_by(kind: str, trace: Path) -> bytes:
    stream = io.BytesIO()
    attack = Attack(trace)
    if kind.startswith("pickle"):
        stream.write(pickle.dumps(attack, protocol=int(kind[-1])))
    elif kind == "torch":
        torch.save({"weights": attack}, stream)
    else:
        np.save(stream, np.array([attack], dtype=object), allow_pickle=True)
    return stream.getvalue()


@FORMS
@pytest.mark.parametrize("kind", ["pickle2", "pickle4", "pickle5", "torch", "numpy"])
@pytest.mark.parametrize("file", ["docs/notes.txt", WEIGHTS])
def test_a_pickle_is_refused_by_its_contents(tmp_path: Path, name: str, kind: str, file: str) -> None:
    path = rewritten(small_package(tmp_path / name), {file: pickled_by(kind, tmp_path / "trace")})
    with pytest.raises(PackageError, match=f"holds {file}, which may be a pickle"):
        ModelPackage.open(path)
    assert not (tmp_path / "trace").exists()


def test_weights_that_are_no_safetensors_are_never_unpickled(tmp_path: Path) -> None:
    """A pickle of the oldest protocol has no telling first bytes; the safetensors reader does not know it."""
    attack = pickle.dumps(Attack(tmp_path / "trace"), protocol=0)
    path = rewritten(small_package(tmp_path / "blobs.recokd.zip"), {WEIGHTS: attack})
    with pytest.raises(PackageError, match=f"{WEIGHTS} in .* is not a safetensors file"):
        ModelPackage.open(path).weights()
    assert not (tmp_path / "trace").exists()


def test_a_header_length_that_looks_like_a_pickle_is_no_pickle(tmp_path: Path) -> None:
    """A safetensors file begins with its header's length, which may be 0x0280: the bytes 80 02."""
    header = json.dumps({"__metadata__": {"format": "pt"}}).encode().ljust(0x0280)
    path = small_package(tmp_path / "blobs.recokd.zip")
    rewritten(path, {WEIGHTS: len(header).to_bytes(8, "little") + header})
    assert ModelPackage.open(path).weights() == {}


@FORMS
def test_a_kind_of_file_that_no_package_needs_is_refused(tmp_path: Path, name: str) -> None:
    path = rewritten(small_package(tmp_path / name), {"run.sh": b"echo"})
    with pytest.raises(PackageError, match=r"run\.sh, a kind of file that no model package needs"):
        ModelPackage.open(path)


@FORMS
def test_a_file_that_is_not_on_the_list_is_refused(tmp_path: Path, name: str) -> None:
    path = rewritten(small_package(tmp_path / name), {"docs/more.md": b"more"}, checksums=False)
    with pytest.raises(PackageError, match=r"not on its list of checksums: docs/more\.md"):
        ModelPackage.open(path)


def test_what_file_managers_leave_is_no_harm(tmp_path: Path) -> None:
    path = small_package(tmp_path / "blobs")
    (path / ".DS_Store").write_bytes(b"\x00\x00\x00\x01Bud1")
    (path / "docs" / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    ModelPackage.open(path).verify()


OUTSIDE = (
    "../evil.json",
    "configs/../../evil.json",
    "/etc/evil.json",
    "C:/evil.json",
    "C:evil.json",
    "..\\evil.json",
    "\\\\server\\share\\evil.json",
    "configs//evil.json",
    "./evil.json",
    "evil.json.",
    "evil.json:stream",
    "../folder/",
)


@pytest.mark.parametrize("inside", OUTSIDE)
def test_a_path_that_leaves_the_package_is_refused(tmp_path: Path, inside: str) -> None:
    path = small_package(tmp_path / "blobs.recokd.zip")
    with zipfile.ZipFile(path, "a") as archive:
        entry = zipfile.ZipInfo("x")
        entry.filename = inside  # the constructor would put another separator
        archive.writestr(entry, "{}")
    with pytest.raises(PackageError, match="path that may lead out of it"):
        ModelPackage.open(path)


def test_a_listed_path_that_leaves_the_package_is_refused(tmp_path: Path) -> None:
    path = small_package(tmp_path / "blobs")
    listed = changed_json(path, "checksums.json", "files", "../outside.json", value="00")
    rewritten(path, listed, checksums=False)
    with pytest.raises(PackageError, match=r"path that may lead out of it: '\.\./outside\.json'"):
        ModelPackage.open(path)


def test_a_link_in_a_file_is_refused(tmp_path: Path) -> None:
    path = small_package(tmp_path / "blobs.recokd.zip")
    with zipfile.ZipFile(path, "a") as archive:
        link = zipfile.ZipInfo("docs/link.md")
        link.create_system = 3
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(PackageError, match=r"docs/link\.md .* is a link"):
        ModelPackage.open(path)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_link_in_a_folder_is_refused(tmp_path: Path, kind: str) -> None:
    path = small_package(tmp_path / "blobs")
    target = tmp_path / "target"
    if kind == "file":
        (path / WEIGHTS).rename(target)
    else:
        (path / "models").rename(target)
    try:
        (path / (WEIGHTS if kind == "file" else "models")).symlink_to(target)
    except OSError:
        pytest.skip("this system does not let ordinary users make links")
    with pytest.raises(PackageError, match="is a link"):
        ModelPackage.open(path)


def test_a_link_to_the_whole_package_is_followed(tmp_path: Path) -> None:
    path = small_package(tmp_path / "blobs")
    link = tmp_path / "link"
    try:
        link.symlink_to(path)
    except OSError:
        pytest.skip("this system does not let ordinary users make links")
    ModelPackage.open(link).verify()


def test_a_zip_bomb_is_refused_unread(tmp_path: Path) -> None:
    path = small_package(tmp_path / "blobs.recokd.zip")
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("docs/zeros.md", bytes(64 << 20))
    assert path.stat().st_size < 1 << 20
    with pytest.raises(PackageError, match=r"docs/zeros\.md .* would swell .* zip bomb"):
        ModelPackage.open(path)


def test_too_many_files_are_refused(tmp_path: Path) -> None:
    path = small_package(tmp_path / "blobs.recokd.zip")
    rewritten(path, {f"docs/{number}.md": b"" for number in range(300)})
    with pytest.raises(PackageError, match="too many for a model package"):
        ModelPackage.open(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("again", ["LICENSE", "license"])
def test_two_files_of_one_name_are_refused(tmp_path: Path, again: str) -> None:
    path = small_package(tmp_path / "blobs.recokd.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(again, "another")
    with pytest.raises(PackageError, match="two files of the same name"):
        ModelPackage.open(path)


def test_an_encrypted_file_is_refused(tmp_path: Path) -> None:
    path = small_package(tmp_path / "blobs.recokd.zip")
    data = bytearray(path.read_bytes())
    entry = data.index(b"PK\x01\x02")
    data[entry + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(PackageError, match="is encrypted"):
        ModelPackage.open(path)


def test_damage_inside_a_file_is_named(tmp_path: Path) -> None:
    path = small_package(tmp_path / "blobs.recokd.zip")
    data = path.read_bytes()
    path.write_bytes(data.replace(b"Research use only", b"Clinical use also", 1))
    with pytest.raises(PackageError, match="is damaged"):
        ModelPackage.open(path)


@pytest.mark.parametrize("keep", [0, 100, 0.5, 0.99])
def test_a_file_cut_short_is_refused(tmp_path: Path, keep: float) -> None:
    path = small_package(tmp_path / "blobs.recokd.zip")
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises(PackageError, match="is not a model package"):
        ModelPackage.open(path)


def test_what_is_no_package_is_told_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="There is no model package"):
        ModelPackage.open(tmp_path / "nowhere.recokd.zip")
    text = tmp_path / "notes.txt"
    text.write_text("hello", encoding="utf-8")
    with pytest.raises(PackageError, match=r"neither a folder nor a \.recokd\.zip file"):
        ModelPackage.open(text)
    checkpoint = tmp_path / "checkpoint_final.pth"
    torch.save({"network_weights": {}}, checkpoint)
    with pytest.raises(PackageError, match="is not a model package"):
        ModelPackage.open(checkpoint)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(PackageError, match=r"has no configs/metadata\.json\. Choose a folder"):
        ModelPackage.open(empty)
    results = tmp_path / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    results.mkdir()
    (results / "plans.json").write_text("{}", encoding="utf-8")
    with pytest.raises(PackageError, match="`recokd import nnunet`"):
        ModelPackage.open(results)
    outer = tmp_path / "outer"
    small_package(outer / "blobs")
    with pytest.raises(PackageError, match="lies in a folder inside it"):
        ModelPackage.open(outer)
    zipped = tmp_path / "zipped.recokd.zip"
    with zipfile.ZipFile(zipped, "w") as archive:
        for name, data in contents_of(outer / "blobs").items():
            archive.writestr(f"blobs/{name}", data)
    with pytest.raises(PackageError, match="lies in a folder inside it"):
        ModelPackage.open(zipped)


@FORMS
@pytest.mark.parametrize("part", ["configs/metadata.json", "configs/plan.json", "checksums.json"])
@pytest.mark.parametrize("data", [b"{", b"\xff\xfe", b"[]", b"[" * 100_000])
def test_what_is_no_json_is_refused(tmp_path: Path, name: str, part: str, data: bytes) -> None:
    path = rewritten(small_package(tmp_path / name), {part: data}, checksums=part != "checksums.json")
    with pytest.raises(PackageError, match="Get the package again|is a MONAI Bundle but not"):
        ModelPackage.open(path)


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("card", "channels"), [{"name": "a"}, {"name": "b"}], r"names 2 input channel\(s\) in its card and 1 in its"),
        (("card", "channels"), "T1", "card cannot be read"),
        (("card", "folds"), "many", "card cannot be read"),
        (("card", "training"), [], "card cannot be read"),
        (("card", "training", "steps"), "many", "card cannot be read"),
        (("card", "licences", "weights"), 3, "card cannot be read"),
        (("card", "spacing"), {"median": [1, 1]}, "card cannot be read"),
        (("card", "role"), "pupil", "role must be teacher or student"),
        (("card",), None, "no readable card"),
        (("labels",), None, "no readable labels"),
        (("labels", "segments"), [], "names no segment"),
        (("labels", "segments"), [{"name": "a"}], "labels that cannot be read"),
    ],
)
def test_metadata_that_make_no_sense_are_refused(
    tmp_path: Path, keys: tuple[str, ...], value: object, message: str
) -> None:
    path = small_package(tmp_path / "blobs")
    rewritten(path, changed_json(path, "configs/metadata.json", "recokd", *keys, value=value))
    with pytest.raises(PackageError, match=message):
        ModelPackage.open(path)
