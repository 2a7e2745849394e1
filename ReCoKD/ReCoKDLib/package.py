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

Opening reads metadata, plan, checksums and safetensors. Nothing in a package is ever run, imported or
unpickled here; MONAI's configuration, whose ``$`` expressions and ``_target_`` would run code, is only
checksummed. The checksums find damage; they prove nothing about who made a package.
"""

from __future__ import annotations

import hashlib
import json
import stat
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .bundle_metadata import INFERENCE_CONFIG, dataset_json, monai_metadata
from .card import DTYPES, Card
from .card_text import card_markdown, licence_text
from .errors import OutputError, PackageError
from .files import atomic_file, atomic_folder, require_new
from .labels import LabelSet, Segment
from .package_files import CHECKSUMS, GET_AGAIN, METADATA, PackageFiles, open_package_files, require_inside
from .plan import Plan
from .terminology import with_terminology

if TYPE_CHECKING:
    import torch

FORMAT_VERSION = 1

PLAN = "configs/plan.json"
DATASET = "configs/dataset.json"
INFERENCE = "configs/inference.json"
README = "docs/README.md"
LICENSE = "LICENSE"
_PARTS = (METADATA, PLAN, DATASET, INFERENCE, README, LICENSE)

_MAX_TEXT = 16 << 20  # bytes of a file that people can read
_MAX_WEIGHTS = 8 << 30  # bytes of one fold


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
        checksum: SHA-256 of the list of checksums: one number for the whole contents, the same for a folder
            and the file made of it.
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
            PackageError: It is missing, not a package, damaged, incomplete, of an unknown version, or holds a
                pickle, a file that is not on its list or a path that leaves it.
            PlanError: Its plan cannot be used.
        """
        path = Path(path)
        with open_package_files(path) as files:
            raw = files.read(CHECKSUMS, _MAX_TEXT)
            checksums = _read_checksums(path, raw)
            metadata = _json(path, METADATA, _verified(files, METADATA, checksums, _MAX_TEXT))
            ours = _our_metadata(path, metadata)
            _require_complete(path, files.names, checksums)
            texts = {name: _verified(files, name, checksums, _MAX_TEXT) for name in _PARTS}
        card = Card.from_dict(_mapping(path, ours.get("card"), "card"))
        plan = Plan.from_nnunet(_mapping(path, _json(path, PLAN, texts[PLAN]), "plan"), str(ours["configuration"]))
        label_set = _label_set(path, _mapping(path, ours.get("labels"), "labels"))
        if len(card.channels) != plan.channels:
            raise PackageError(
                f"{path} names {len(card.channels)} input channel(s) in its card and {plan.channels} in its "
                f"plan. {GET_AGAIN}"
            )
        for fold in range(card.folds):
            if weights_name(fold) not in checksums:
                raise PackageError(f"{path} lacks {weights_name(fold)}, one of its {card.folds} fold(s). {GET_AGAIN}")
        return ModelPackage(path, card, plan, label_set, hashlib.sha256(raw).hexdigest(), checksums)

    def weights(self, fold: int = 0) -> dict[str, torch.Tensor]:
        """The weights of a fold, checked against their checksum: floats as float32, on the CPU.

        Raises:
            PackageError: There is no such fold, the checksum is wrong, or the file is not safetensors.
        """
        import safetensors
        import safetensors.torch

        if not 0 <= fold < self.card.folds:
            raise PackageError(f"{self.card.name} has {self.card.folds} fold(s), numbered from 0; there is no {fold}.")
        name = weights_name(fold)
        with open_package_files(self.path) as files:
            raw = _verified(files, name, self._checksums, _MAX_WEIGHTS)
        try:
            tensors: dict[str, torch.Tensor] = safetensors.torch.load(raw)
        except (safetensors.SafetensorError, ValueError, KeyError) as error:
            raise PackageError(f"{name} in {self.path} is not a safetensors file ({error}). {GET_AGAIN}") from error
        return {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in tensors.items()}

    def verify_files(self) -> None:
        """Check every file against its checksum, for which no torch is needed.

        Raises:
            PackageError: A file is damaged.
        """
        with open_package_files(self.path) as files:
            for name in self._checksums:
                _verified(files, name, self._checksums, _MAX_WEIGHTS)

    def verify(self) -> None:
        """Check every file against its checksum, and the weights against the plan's network.

        Raises:
            PackageError: A file is damaged.
            PlanError: The weights do not fit the plan.
        """
        self.verify_files()
        for fold in range(self.card.folds):
            _fitting(self.plan, self.label_set, self.card.guidance_channels, self.weights(fold))


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
        label_set: What the outputs mean; segments without a terminology entry get one if their names tell it.
        folds: For each fold a state dictionary: the plan's network and nothing else.
        overwrite: Replace what is there.
        dtype: ``"float32"`` or ``"float16"`` for the stored weights.

    Returns:
        ``path``.

    Raises:
        PlanError: The weights do not fit the plan's network.
        PackageError: Card and plan contradict each other, or the weights are not finite in ``dtype``.
        OutputError: It exists and ``overwrite`` is False, it is something else than a package, or it cannot be
            written.
    """
    path = Path(path)
    require_package_place(path, overwrite)
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
    label_set = with_terminology(label_set, plan.dataset_name)
    card = replace(card, folds=len(folds), parameters=parameters, dtype=dtype)
    contents[METADATA] = _dump(
        {
            **monai_metadata(card, plan, label_set),
            "recokd": {
                "format_version": FORMAT_VERSION,
                "configuration": plan.configuration,
                "card": card.to_dict(),
                "labels": asdict(label_set),
            },
        }
    )
    contents[PLAN] = _dump(plan.to_nnunet())
    contents[DATASET] = _dump(dataset_json(card, label_set))
    contents[INFERENCE] = _dump(INFERENCE_CONFIG)
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


def require_package_place(path: Path, overwrite: bool) -> None:
    """Check before any work is done that a package can be written here; ``overwrite`` replaces packages only.

    Raises:
        OutputError: It exists and ``overwrite`` is False, it is something else than a package, or its folder
            cannot be written.
    """
    require_new(path, overwrite)
    is_package = (path / METADATA).is_file() or (path / CHECKSUMS).is_file()
    if path.is_dir() and not is_package and any(path.iterdir()):
        raise OutputError(f"{path} is a folder with other things than a model package. Choose another name.")
    if path.is_dir() == (path.suffix.lower() == ".zip") and path.exists():
        raise OutputError(
            f"{path} is {'a folder' if path.is_dir() else 'a file'}, which this model would replace. "
            "Choose another name: NAME.recokd.zip for a file, any other for a folder."
        )


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
        network = build_network(plan.architecture, plan.channels + guidance_channels, label_set.number_of_heads)
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


def _read_checksums(path: Path, raw: bytes) -> dict[str, str]:
    listed = _mapping(path, _json(path, CHECKSUMS, raw), CHECKSUMS).get("files")
    if not isinstance(listed, Mapping) or not all(isinstance(value, str) for value in listed.values()):
        raise PackageError(f"{CHECKSUMS} in {path} names no files. {GET_AGAIN}")
    for name in listed:
        require_inside(path, name)
    return dict(listed)


def _verified(files: PackageFiles, name: str, checksums: Mapping[str, str], limit: int) -> bytes:
    """One file's contents if they are those that were written."""
    data = files.read(name, limit)
    if name not in checksums:
        raise PackageError(f"{name} is not on the package's list of checksums. {GET_AGAIN}")
    if hashlib.sha256(data).hexdigest() != checksums[name].lower():
        raise PackageError(
            f"{name} has changed since the package was written: its checksum is wrong, so it is damaged "
            f"or was edited. {GET_AGAIN}"
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
        raise PackageError(f"{path} is incomplete: it lacks {', '.join(missing)}. {GET_AGAIN}")
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
        raise PackageError(f"{name} in {path} is not readable as JSON ({error}). {GET_AGAIN}") from error


def _mapping(path: Path, value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise PackageError(f"{path} has no readable {what}. {GET_AGAIN}")
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
        raise PackageError(f"{path} has labels that cannot be read ({error!r}). {GET_AGAIN}") from error
    if not segments:
        raise PackageError(f"{path} names no segment. {GET_AGAIN}")
    return label_set
