"""The model package, one format for teacher and student: what writes it, verifies it and opens it.

A package is a MONAI Bundle, as a folder or as one file ``NAME.recokd.zip``::

    configs/metadata.json     MONAI's metadata; ours under "recokd" (format version, card, segments)
    configs/plan.json         nnU-Net plan
    configs/dataset.json      channels and labels as nnU-Net writes them
    configs/inference.json    for ``python -m monai.bundle run`` only
    models/model.safetensors  weights of the first fold; further folds are models/fold_1.safetensors ...
    docs/README.md            the card in words
    LICENSE                   licences of code and weights
    checksums.json            SHA-256 of every other file

Opening reads metadata, plan, checksums and safetensors. Nothing in a package is ever run, imported or unpickled
here, and MONAI's configuration, whose ``$`` expressions and ``_target_`` would run code, is not read. The
checksums find damage; they prove nothing about who made a package.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from .card import DTYPES, Card
from .card_text import card_markdown, licence_text
from .errors import PackageError
from .files import atomic_file, atomic_folder
from .labels import LabelSet, Segment
from .plan import Plan

if TYPE_CHECKING:
    import torch

FORMAT_VERSION = 1
PACKAGE_SUFFIX = ".recokd.zip"

METADATA = "configs/metadata.json"
PLAN = "configs/plan.json"
DATASET = "configs/dataset.json"
INFERENCE = "configs/inference.json"
README = "docs/README.md"
LICENSE = "LICENSE"
CHECKSUMS = "checksums.json"
_PARTS = (METADATA, PLAN, DATASET, INFERENCE, README, LICENSE)

_MONAI_SCHEMA = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
)
_SAFE_SUFFIXES = frozenset({"", ".json", ".md", ".txt", ".safetensors"})
_PICKLES = frozenset(
    {
        ".pt",
        ".pth",
        ".pkl",
        ".pickle",
        ".ckpt",
        ".bin",
        ".npy",
        ".npz",
        ".joblib",
        ".ts",
        ".pyc",
        ".mar",
        ".h5",
    }
)
# What file managers leave in any folder; never read.
_IGNORED = frozenset({".ds_store", "thumbs.db", "desktop.ini"})
_MAX_FILES = 256
_MAX_TEXT = 16 << 20  # bytes of one JSON file
_MAX_FILE = 8 << 30  # bytes of one weights file
_MAX_RATIO = 100  # weights do not compress; what does so more than this is a bomb
_AGAIN = "Get the package again from where it came from."


def weights_name(fold: int) -> str:
    """Where a package keeps the weights of a fold."""
    return "models/model.safetensors" if fold == 0 else f"models/fold_{fold}.safetensors"


@dataclass(frozen=True)
class ModelPackage:
    """An opened package. Weights are read when asked for.

    Attributes:
        path: Folder or file.
        card: What the model is.
        plan: Network, preprocessing and patch.
        label_set: What its outputs mean.
        checksum: SHA-256 of the list of checksums: one number for the whole contents, the same for a folder and
            the file made of it.
    """

    path: Path
    card: Card
    plan: Plan
    label_set: LabelSet
    checksum: str
    _checksums: Mapping[str, str] = field(repr=False)

    @staticmethod
    def open(path: Path | str) -> ModelPackage:
        """Open a package and verify all of it but its weights, which :meth:`weights` and :meth:`verify` do.

        Raises:
            PackageError: It is missing, not a package, damaged, incomplete, of an unknown version, holds a pickle
                or a file that is not on its list, or a path that leaves it.
        """
        path = Path(path)
        with _open_source(path) as source:
            raw = source.read(CHECKSUMS, _MAX_TEXT)
            checksums = _read_checksums(path, raw)
            metadata = _json(path, METADATA, _verified(source, METADATA, checksums, _MAX_TEXT))
            ours = _our_metadata(path, metadata)
            _require_complete(path, source.names, checksums)
            texts = {name: _verified(source, name, checksums, _MAX_TEXT) for name in _PARTS}
        card = Card.from_dict(_mapping(path, ours.get("card"), "card"))
        plan = Plan.from_nnunet(
            _mapping(path, _json(path, PLAN, texts[PLAN]), "plan"), str(ours["configuration"])
        )
        label_set = _label_set(path, _mapping(path, ours.get("labels"), "labels"))
        if len(card.channels) != plan.channels:
            raise PackageError(
                f"{path} names {len(card.channels)} input channel(s) in its card and {plan.channels} in its plan. "
                + _AGAIN
            )
        for fold in range(card.folds):
            if weights_name(fold) not in checksums:
                raise PackageError(
                    f"{path} lacks {weights_name(fold)}, one of its {card.folds} fold(s). {_AGAIN}"
                )
        return ModelPackage(path, card, plan, label_set, hashlib.sha256(raw).hexdigest(), checksums)

    def weights(self, fold: int = 0) -> dict[str, torch.Tensor]:
        """The weights of a fold, checked against their checksum: floats as float32, on the CPU.

        Raises:
            PackageError: There is no such fold, the checksum is wrong, or the file is not safetensors.
        """
        import safetensors
        import safetensors.torch

        if not 0 <= fold < self.card.folds:
            raise PackageError(
                f"{self.card.name} has {self.card.folds} fold(s), numbered from 0; there is no {fold}."
            )
        name = weights_name(fold)
        with _open_source(self.path) as source:
            raw = _verified(source, name, self._checksums, _MAX_FILE)
        try:
            tensors: dict[str, torch.Tensor] = safetensors.torch.load(raw)
        except (safetensors.SafetensorError, ValueError, KeyError) as error:
            raise PackageError(
                f"{name} in {self.path} is not a safetensors file ({error}). {_AGAIN}"
            ) from error
        return {
            key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in tensors.items()
        }

    def verify(self) -> None:
        """Check every file against its checksum, and the weights against the plan's network.

        Raises:
            PackageError: A file is damaged.
            PlanError: The weights do not fit the plan.
        """
        with _open_source(self.path) as source:
            for name in self._checksums:
                _verified(source, name, self._checksums, _MAX_FILE)
        for fold in range(self.card.folds):
            _fitting(self.plan, self.label_set, self.card.guidance_channels, self.weights(fold))


# Writing ------------------------------------------------------------------------------------------------------


def write_package(
    path: Path | str,
    card: Card,
    plan: Plan,
    label_set: LabelSet,
    folds: Sequence[Mapping[str, torch.Tensor]],
    overwrite: bool = False,
    dtype: str = "float32",
) -> Path:
    """Write a package whole or not at all; the same contents always give the same bytes.

    Args:
        path: A name that ends in ``.zip`` (by custom ``.recokd.zip``) gives one file, any other a folder.
        card: Its ``folds``, ``parameters`` and ``dtype`` are filled in here.
        plan: Of the network.
        label_set: What the outputs mean.
        folds: For each fold a state dictionary: the plan's network and nothing else.
        overwrite: Replace what is there.
        dtype: ``"float32"`` or ``"float16"`` for the stored weights.

    Returns:
        ``path``.

    Raises:
        PlanError: The weights do not fit the plan's network.
        PackageError: Card and plan contradict each other, or the weights are not finite in ``dtype``.
        OutputError: It exists and ``overwrite`` is False, or cannot be written.
    """
    path = Path(path)
    if len(card.channels) != plan.channels:
        raise PackageError(
            f"The card names {len(card.channels)} input channel(s), the plan {plan.channels}. Make them agree."
        )
    if not folds:
        raise PackageError("A package needs the weights of at least one fold.")
    contents: dict[str, bytes] = {}
    parameters = 0
    for fold, weights in enumerate(folds):
        fitting = _fitting(plan, label_set, card.guidance_channels, weights)
        parameters = sum(tensor.numel() for tensor in fitting.values() if tensor.is_floating_point())
        contents[weights_name(fold)] = _safetensors(fitting, dtype)
    card = replace(card, folds=len(folds), parameters=parameters, dtype=dtype)
    contents[METADATA] = _dump(_metadata(card, plan, label_set))
    contents[PLAN] = _dump(plan.to_nnunet())
    contents[DATASET] = _dump(_dataset_json(card, label_set))
    contents[INFERENCE] = _dump(_INFERENCE_CONFIG)
    contents[README] = card_markdown(card, plan, label_set).encode("utf-8")
    contents[LICENSE] = licence_text(card).encode("utf-8")
    checksums = {name: hashlib.sha256(contents[name]).hexdigest() for name in sorted(contents)}
    contents[CHECKSUMS] = _dump({"algorithm": "SHA-256", "files": checksums})
    if path.suffix.lower() == ".zip":
        with atomic_file(path, overwrite) as temporary:
            _write_zip(temporary, contents)
    else:
        with atomic_folder(path, overwrite) as temporary:
            for name, data in contents.items():
                target = temporary / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)
    return path


def _write_zip(path: Path, contents: Mapping[str, bytes]) -> None:
    # Stored, not deflated: weights hardly shrink, and the bytes must not depend on the version of zlib.
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(contents):
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.create_system = 3
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            archive.writestr(entry, contents[name])


def _fitting(
    plan: Plan, label_set: LabelSet, guidance_channels: int, weights: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The plan's own keys of ``weights``, each tensor once."""
    import torch

    from .networks import build_network, check_weights

    with torch.device("meta"):
        network = build_network(
            plan.architecture, plan.channels + guidance_channels, label_set.number_of_heads
        )
    return check_weights(network, weights)


def _safetensors(weights: Mapping[str, torch.Tensor], dtype: str) -> bytes:
    import safetensors.torch
    import torch

    if dtype not in DTYPES:
        raise PackageError(f"Weights are stored as {' or '.join(DTYPES)}, not as {dtype!r}.")
    stored = {}
    for key, tensor in weights.items():
        tensor = tensor.detach().cpu()
        if tensor.is_floating_point():
            tensor = tensor.to(getattr(torch, dtype))
            if not torch.isfinite(tensor).all():
                raise PackageError(
                    f"The weights {key} hold values that are not finite as {dtype}. "
                    "Store them as float32; if they are not finite there either, the training diverged."
                )
        stored[key] = tensor.contiguous().clone()
    data: bytes = safetensors.torch.save(stored, metadata={"format": "pt"})
    return data


def _dump(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8")


def _dataset_json(card: Card, label_set: LabelSet) -> dict[str, Any]:
    return {
        "name": card.training.dataset or card.name,
        "channel_names": {str(index): channel.name for index, channel in enumerate(card.channels)},
        **label_set.to_dataset_json(),
        "numTraining": card.training.cases or 0,
        "file_ending": ".nii.gz",
    }


def _metadata(card: Card, plan: Plan, label_set: LabelSet) -> dict[str, Any]:
    """MONAI's metadata, with ours under "recokd"."""
    versions = {
        name: card.training.versions.get(name) or _installed(name) for name in ("monai", "torch", "numpy")
    }
    first = card.channels[0]
    heads = [segment.name for segment in label_set.segments]
    if not label_set.has_regions:
        heads.insert(0, "background")
    intensity = first.intensity
    return {
        "schema": _MONAI_SCHEMA,
        "version": card.version,
        "changelog": {card.version: "Written by ReCoKD"},
        "monai_version": versions["monai"],
        "pytorch_version": versions["torch"],
        "numpy_version": versions["numpy"],
        "required_packages_version": {
            name: _installed(name)
            for name in ("dynamic-network-architectures", "safetensors", "SimpleITK", "recokd")
        },
        "name": card.name,
        "task": f"Segmentation of {', '.join(segment.name for segment in label_set.segments)}",
        "description": card.description or card.name,
        "authors": card.licences.attribution or "unknown",
        "copyright": f"Weights: {card.licences.weights or 'licence unknown'}",
        "data_source": card.training.dataset,
        "data_type": "nifti",
        "intended_use": card.intended_use,
        "network_data_format": {
            "inputs": {
                "image": {
                    "type": "image",
                    "format": "hounsfield" if first.unit == "HU" else "magnitude",
                    "modality": first.modality or "n/a",
                    "num_channels": len(card.channels) + card.guidance_channels,
                    "spatial_shape": list(plan.patch_size),
                    "dtype": "float32",
                    "value_range": [intensity.percentile_00_5[0], intensity.percentile_99_5[1]]
                    if intensity
                    else [],
                    "is_patch_data": True,
                    "channel_def": {str(index): channel.name for index, channel in enumerate(card.channels)},
                }
            },
            "outputs": {
                "pred": {
                    "type": "image",
                    "format": "segmentation",
                    "num_channels": label_set.number_of_heads,
                    "spatial_shape": list(plan.patch_size),
                    "dtype": "float32",
                    "value_range": [],
                    "is_patch_data": True,
                    "channel_def": {str(index): name for index, name in enumerate(heads)},
                }
            },
        },
        "recokd": {
            "format_version": FORMAT_VERSION,
            "configuration": plan.configuration,
            "card": card.to_dict(),
            "labels": asdict(label_set),
        },
    }


def _installed(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    from . import __version__

    try:
        return __version__ if package == "recokd" else version(package)
    except PackageNotFoundError:
        return "unknown"


# `python -m monai.bundle run --config_file configs/inference.json --bundle_root . --input X --output Y`
_INFERENCE_CONFIG: dict[str, Any] = {
    "bundle_root": ".",
    "input": "",
    "output": "",
    "device": "auto",
    "mirroring": False,
    "overwrite": False,
    "run": {
        "_target_": "ReCoKDLib.bundle.segment",
        "bundle_root": "@bundle_root",
        "input": "@input",
        "output": "@output",
        "device": "@device",
        "mirroring": "@mirroring",
        "overwrite": "@overwrite",
    },
}


# Opening ------------------------------------------------------------------------------------------------------


class _Source(Protocol):
    """Where the files of a package come from."""

    @property
    def names(self) -> frozenset[str]:
        """All files, as paths with forward slashes."""

    def read(self, name: str, limit: int) -> bytes:
        """The contents of one file of at most ``limit`` bytes."""

    def __enter__(self) -> _Source: ...

    def __exit__(self, *_: object) -> None: ...


def _open_source(path: Path) -> _Source:
    if path.is_dir():
        return _Folder(path)
    if not path.exists():
        raise PackageError(f"There is no model package {path}. Check the path.")
    return _Archive(path)


class _Folder:
    """A package as a folder; links are not followed, since they may lead anywhere."""

    def __init__(self, path: Path) -> None:
        self.path = path
        names = set()
        root = os.path.realpath(path)
        for folder, folders, files in os.walk(path):
            for entry in (*folders, *files):
                whole = Path(folder, entry)
                name = whole.relative_to(path).as_posix()
                real = os.path.normcase(os.path.realpath(whole))
                if whole.is_symlink() or real != os.path.normcase(Path(root, name)):  # the latter: junctions
                    raise PackageError(
                        f"{name} in {path} is a link that may lead out of the package. {_AGAIN}"
                    )
                if entry in files and entry.lower() not in _IGNORED:
                    if not stat.S_ISREG(whole.lstat().st_mode):
                        raise PackageError(f"{name} in {path} is not an ordinary file. {_AGAIN}")
                    names.add(name)
        self.names = frozenset(names)
        _require_package(path, self.names)
        _require_safe(path, self.names, self._head)

    def _head(self, name: str) -> bytes:
        with (self.path / name).open("rb") as stream:
            return stream.read(16)

    def read(self, name: str, limit: int) -> bytes:
        if name not in self.names:
            raise PackageError(f"{self.path} lacks {name}. {_AGAIN}")
        file = self.path / name
        try:
            if file.stat().st_size > limit:
                raise PackageError(f"{name} in {self.path} is larger than any such file should be. {_AGAIN}")
            return file.read_bytes()
        except OSError as error:
            raise PackageError(
                f"{name} in {self.path} cannot be read ({error.strerror}). {_AGAIN}"
            ) from error

    def __enter__(self) -> _Folder:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class _Archive:
    """A package as one zip file, read without unpacking it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError) as error:
            raise PackageError(
                f"{path} is not a model package: neither a folder nor a {PACKAGE_SUFFIX} file ({error}). "
                + (_HINTS.get(path.suffix.lower(), "Choose a package, or get this one again."))
            ) from error
        try:
            self.names = self._checked_names()
        except BaseException:
            self.archive.close()
            raise

    def _checked_names(self) -> frozenset[str]:
        entries = [entry for entry in self.archive.infolist() if not entry.is_dir()]
        names = [entry.filename for entry in entries]
        if len(entries) > _MAX_FILES:
            raise PackageError(
                f"{self.path} holds {len(entries)} files, more than a model package can have. {_AGAIN}"
            )
        for entry in entries:
            # orig_filename: what zipfile makes of "a\\b" differs between systems
            _require_inside(self.path, entry.orig_filename)
            kind = stat.S_IFMT(entry.external_attr >> 16)
            if kind not in (0, stat.S_IFREG):
                raise PackageError(
                    f"{entry.filename} in {self.path} is a link that may lead out of the package, or another special "
                    f"file. {_AGAIN}"
                )
            if entry.flag_bits & 1:
                raise PackageError(f"{self.path} is encrypted. Unpack it and choose the folder.")
            if entry.file_size > max(_MAX_RATIO * entry.compress_size, 1 << 20):
                raise PackageError(
                    f"{entry.filename} in {self.path} would swell from {entry.compress_size} to {entry.file_size} "
                    f"bytes (a zip bomb). Do not use this package."
                )
        if len({name.casefold() for name in names}) != len(names):
            raise PackageError(f"{self.path} holds two files of the same name. {_AGAIN}")
        _require_package(self.path, frozenset(names))
        _require_safe(self.path, names, self._head)
        return frozenset(names)

    def _head(self, name: str) -> bytes:
        try:
            with self.archive.open(name) as stream:
                return stream.read(16)
        except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, ValueError) as error:
            raise PackageError(f"{name} in {self.path} cannot be read ({error}). {_AGAIN}") from error

    def read(self, name: str, limit: int) -> bytes:
        import zlib

        if name not in self.names:
            raise PackageError(f"{self.path} lacks {name}. {_AGAIN}")
        if self.archive.getinfo(name).file_size > limit:
            raise PackageError(f"{name} in {self.path} is larger than any such file should be. {_AGAIN}")
        try:
            return self.archive.read(name)
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, ValueError) as error:
            raise PackageError(f"{name} in {self.path} is damaged ({error}). {_AGAIN}") from error

    def __enter__(self) -> _Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self.archive.close()


_HINTS = {
    suffix: "This looks like a PyTorch checkpoint; import its nnU-Net results folder with `recokd import nnunet`."
    for suffix in (".pth", ".pt", ".ckpt")
}


def _require_package(path: Path, names: frozenset[str]) -> None:
    if METADATA in names or CHECKSUMS in names:
        return
    hint = "Choose a folder with configs/metadata.json, or a .recokd.zip file."
    if "plans.json" in names:
        hint = "This looks like an nnU-Net results folder; import it first with `recokd import nnunet`."
    elif any(name.endswith(("/" + METADATA, "/" + CHECKSUMS)) for name in names):
        hint = "The package lies in a folder inside it; choose that folder, unpacking the file first if it is one."
    raise PackageError(f"{path} is not a model package: it has no {METADATA}. {hint}")


def _require_inside(path: Path, name: str) -> None:
    """Refuse every spelling of a path that one system or another could take out of the package."""
    parts = name.split("/")
    if (
        any(part in ("", ".", "..") for part in parts)
        or re.search(r'[\\:*?"<>|\x00-\x1f]', name)
        or any(part != part.rstrip(". ") for part in parts)
    ):
        raise PackageError(f"{path} holds a path that may lead out of it: {name!r}. Do not use this package.")


def _require_safe(path: Path, names: Sequence[str] | frozenset[str], head: Any) -> None:
    """Refuse pickles, by their names and by their first bytes, and every kind of file that no package needs."""
    for name in sorted(names):
        suffix = Path(name).suffix.lower()
        start = head(name) if suffix not in _PICKLES else b""
        # A safetensors file begins with the length of its header (8 bytes), then the header's brace.
        is_tensors = suffix == ".safetensors" and start[8:9] == b"{"
        pickled = re.match(rb"\x80[\x02-\x05]|PK\x03\x04|\x93NUMPY|\x89HDF", start) is not None
        if suffix in _PICKLES or (pickled and not is_tensors):
            raise PackageError(
                f"{path} holds {name}, which may be a pickle: opening such a file can run any program. "
                "Do not use this package; ask for one with safetensors only."
            )
        if suffix not in _SAFE_SUFFIXES:
            raise PackageError(f"{path} holds {name}, a kind of file that no model package needs. {_AGAIN}")


def _read_checksums(path: Path, raw: bytes) -> dict[str, str]:
    listed = _mapping(path, _json(path, CHECKSUMS, raw), CHECKSUMS).get("files")
    if not isinstance(listed, Mapping) or not all(isinstance(value, str) for value in listed.values()):
        raise PackageError(f"{CHECKSUMS} in {path} names no files. {_AGAIN}")
    for name in listed:
        _require_inside(path, name)
    return dict(listed)


def _verified(source: _Source, name: str, checksums: Mapping[str, str], limit: int) -> bytes:
    """One file's contents if they are those that were written."""
    data = source.read(name, limit)
    if name not in checksums:
        raise PackageError(f"{name} is not on the package's list of checksums. {_AGAIN}")
    if hashlib.sha256(data).hexdigest() != checksums[name].lower():
        raise PackageError(
            f"{name} has changed since the package was written (its checksum is wrong): it is damaged or was edited. "
            + _AGAIN
        )
    return data


def _our_metadata(path: Path, metadata: Any) -> Mapping[str, Any]:
    ours = metadata.get("recokd") if isinstance(metadata, Mapping) else None
    if not isinstance(ours, Mapping):
        raise PackageError(
            f"{path} is a MONAI Bundle but not a ReCoKD model package: {METADATA} has no part 'recokd'. "
            "Run it with `python -m monai.bundle run`, or choose another package."
        )
    version = ours.get("format_version")
    if version != FORMAT_VERSION:
        raise PackageError(
            f"{path} has the format version {version!r}; this ReCoKD reads version {FORMAT_VERSION}. Update ReCoKD."
        )
    return {"configuration": "3d_fullres", **ours}


def _require_complete(path: Path, names: frozenset[str], checksums: Mapping[str, str]) -> None:
    missing = sorted({*_PARTS, *checksums} - names)
    if missing:
        raise PackageError(f"{path} is incomplete: it lacks {', '.join(missing)}. {_AGAIN}")
    extra = sorted(names - {*checksums, CHECKSUMS})
    if extra:
        raise PackageError(
            f"{path} holds files that are not on its list of checksums: {', '.join(extra)}. "
            "Remove them, or get the package again."
        )


def _json(path: Path, name: str, raw: bytes) -> Any:
    try:
        return json.loads(raw.decode("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise PackageError(f"{name} in {path} is not readable as JSON ({error}). {_AGAIN}") from error


def _mapping(path: Path, value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise PackageError(f"{path} has no readable {what}. {_AGAIN}")
    return value


def _label_set(path: Path, values: Mapping[str, Any]) -> LabelSet:
    try:
        segments = tuple(
            Segment(
                str(segment["name"]),
                int(segment["value"]),
                tuple(int(value) for value in segment["region"]),
                (float(segment["color"][0]), float(segment["color"][1]), float(segment["color"][2])),
                str(segment.get("terminology", "")),
            )
            for segment in values["segments"]
        )
        ignore = values.get("ignore_label")
        label_set = LabelSet(segments, bool(values["has_regions"]), None if ignore is None else int(ignore))
    except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise PackageError(f"{path} has labels that cannot be read ({error!r}). {_AGAIN}") from error
    if not segments:
        raise PackageError(f"{path} names no segment. {_AGAIN}")
    return label_set
