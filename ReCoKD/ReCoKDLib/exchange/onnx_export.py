"""From a model package to one ONNX file, checked against PyTorch before it is kept.

The file holds the network alone: what a runner must do before and after it (orientation, spacing, intensities,
sliding window, labels) is told by its metadata.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import MissingDependencyError, OutputError, PackageError
from ..files import atomic_file, require_new
from ..package import ModelPackage
from ..students import find_student

if TYPE_CHECKING:
    import torch

    from ..plan import Int3, Plan

SUFFIX = ".onnx"
INPUT, OUTPUT = "image", "logits"
# Rounding in another order changed the logits of small random networks by 1e-6 to 1e-5, and those of the shipped,
# trained student by 2.5e-4. A logit that is off by 1e-3 changes no probability by more than 2.5e-4; more than that is
# another computation.
LARGEST_DIFFERENCE = 1e-3
_OPSET = 17  # the first with all operators of these networks in a form that ONNX Runtime 1.14 and later run
_MAX_BYTES = 2 << 30  # of a protobuf message
_AXES = ("x", "y", "z")


@dataclass(frozen=True)
class OnnxExport:
    """What was written.

    Attributes:
        path: The file.
        shapes: Of the inputs that were tried, (batch, channel, x, y, z).
        difference: The largest of the logits from PyTorch's, over all of them.
    """

    path: Path
    shapes: tuple[tuple[int, ...], ...]
    difference: float


def export_onnx(model: ModelPackage | Path | str, output: Path, overwrite: bool = False) -> OnnxExport:
    """Write a model's network: ``image`` (batch, channel, x, y, z) to ``logits`` (batch, head, x, y, z), float32.

    Batch and x, y, z are dynamic; the latter must be multiples of the network's total stride, which the metadata
    tell. Axes are those of the plan. The logits of several folds are averaged inside the graph. It is run by
    ONNX Runtime and by PyTorch on noise of the plan's patch size and of another size.

    Args:
        model: A package, its path, or the name of an installed one.
        output: ``NAME.onnx``.
        overwrite: Replace an existing file.

    Raises:
        MissingDependencyError: The packages ``onnx`` and ``onnxruntime`` are not installed.
        PackageError: The model cannot be opened or is guided by clicks, or its network has no ONNX form.
        OutputError: The file exists, has another suffix, cannot be written, or computes something else than PyTorch.
    """
    if output.suffix.lower() != SUFFIX:
        raise OutputError(f"{output} does not end in {SUFFIX}. Choose a name such as student{SUFFIX}.")
    require_new(output, overwrite)
    _require_onnx()
    import torch

    from ..prediction import Predictor

    package = model if isinstance(model, ModelPackage) else find_student(model)
    network = _mean_of(Predictor.from_package(package, "cpu").networks)
    size = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
    if size >= _MAX_BYTES:
        raise OutputError(f"The model has {size >> 20} MB of weights; one ONNX file can hold 2 GB. Export fewer folds.")
    shapes = _shapes(package.plan)
    images = [torch.randn(shape, generator=torch.Generator().manual_seed(0)) for shape in shapes]
    with atomic_file(output, overwrite) as temporary:
        _write(network, images[0], temporary, package)
        differences = [_difference(network, temporary, image) for image in images]
        difference = max(differences)
        if not all(each <= LARGEST_DIFFERENCE for each in differences):  # so that NaN is refused too
            raise OutputError(
                f"The ONNX file gave other logits than PyTorch (largest difference {difference:.2g}; "
                f"{LARGEST_DIFFERENCE:g} is allowed), so it was not kept. Update PyTorch, onnx and onnxruntime."
            )
    return OnnxExport(output, shapes, difference)


def onnx_metadata(package: ModelPackage) -> dict[str, Any]:
    """What a runner of the file needs to know, as JSON values; ``plan`` and ``dataset`` are nnU-Net's."""
    from ..bundle_metadata import dataset_json

    plan, card = package.plan, package.card
    return {
        "name": card.name,
        "version": card.version,
        "intended_use": card.intended_use,
        "licence_of_weights": card.licences.weights,
        "attribution": card.licences.attribution,
        "package_checksum": package.checksum,
        "orientation": card.orientation,
        "axes": "the image's (k, j, i) after transpose_forward",
        "transpose_forward": list(plan.transpose_forward),
        "spacing": list(plan.spacing),
        "patch_size": list(plan.patch_size),
        "size_must_be_multiple_of": list(_total_stride(plan)),
        "channels": [channel.name for channel in card.channels],
        "normalization": [
            {"scheme": scheme, "inside_nonzero_mask": masked, "intensities": dict(known)}
            for scheme, masked, known in zip(
                plan.normalization_schemes, plan.use_mask_for_norm, plan.intensity_properties, strict=True
            )
        ],
        "activation": "sigmoid" if package.label_set.has_regions else "softmax",
        "labels": [{"name": s.name, "value": s.value, "region": list(s.region)} for s in package.label_set.segments],
        "dataset": dataset_json(card, package.label_set),
        "plan": plan.to_nnunet(),
    }


def _require_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            f"Exporting to ONNX needs the packages onnx and onnxruntime ({error}). "
            'Install them: pip install "recokd[onnx]", or pip install onnx onnxruntime.'
        ) from error


def _mean_of(networks: Sequence[torch.nn.Module]) -> torch.nn.Module:
    import torch

    class Mean(torch.nn.Module):
        """The mean logits of all folds."""

        def __init__(self) -> None:
            super().__init__()
            self.folds = torch.nn.ModuleList(networks)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            total: torch.Tensor = self.folds[0](image)
            for fold in self.folds[1:]:
                total = total + fold(image)
            return total / len(self.folds)

    return networks[0] if len(networks) == 1 else Mean().eval()


def _total_stride(plan: Plan) -> Int3:
    total = [1, 1, 1]
    for stride in plan.architecture.strides:
        total = [t * s for t, s in zip(total, stride, strict=True)]
    return total[0], total[1], total[2]


def _shapes(plan: Plan) -> tuple[tuple[int, ...], ...]:
    """The plan's patch alone, and two of another size at once, which a graph of fixed sizes could not take."""
    larger = (n + step for n, step in zip(plan.patch_size, _total_stride(plan), strict=True))
    return (1, plan.channels, *plan.patch_size), (2, plan.channels, *larger)


def write_graph(network: torch.nn.Module, image: torch.Tensor, path: Path, name: str) -> None:
    """Trace a network on an image (batch, channel, x, y, z) and write its graph; batch and x, y, z are dynamic.

    Raises:
        PackageError: The network of the model ``name`` has no ONNX form.
    """
    import torch

    dynamic = {0: "batch", **{2 + axis: axis_name for axis, axis_name in enumerate(_AXES)}}
    try:
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tracing; what it gets wrong, the comparison finds
            # The exporter that traces: the newer one (dynamo=True) takes a minute and cannot export
            # ResidualEncoderUNet with dynamic sizes (PyTorch 2.13).
            torch.onnx.export(
                network,
                (image,),
                str(path),
                dynamo=False,
                opset_version=_OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_axes={INPUT: dynamic, OUTPUT: dynamic},
            )
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        raise PackageError(
            f"The network of {name} has no ONNX form with this PyTorch ({type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else ''}). Update PyTorch, or use another backbone."
        ) from error


def _write(network: torch.nn.Module, image: torch.Tensor, path: Path, package: ModelPackage) -> None:
    import onnx

    write_graph(network, image, path, package.card.name)
    graph = onnx.load(str(path))
    graph.producer_name = "ReCoKD"
    graph.doc_string = f"{package.card.name} {package.card.version}. {package.card.intended_use}"
    metadata = onnx_metadata(package)
    properties = {key: metadata[key] for key in ("name", "version", "intended_use", "package_checksum")}
    for key, value in {**properties, "recokd": json.dumps(metadata, ensure_ascii=False)}.items():
        entry = graph.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.checker.check_model(graph)
    onnx.save(graph, str(path))


def _difference(network: torch.nn.Module, path: Path, image: torch.Tensor) -> float:
    """The largest difference of the logits, PyTorch's against ONNX Runtime's; infinite where shapes differ."""
    import numpy as np
    import onnxruntime
    import torch

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (found,) = session.run([OUTPUT], {INPUT: image.numpy()})
    with torch.inference_mode():
        expected = network(image).numpy()
    return float(np.abs(found - expected).max()) if found.shape == expected.shape else float("inf")
