"""Cases of the open scene on their way to training, and back into the views."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DatasetError
from ..files import atomic_folder
from ..handover import check_geometry
from ..image_io import write_volume
from ..segment_matching import classes_of, matched
from .annotations import write_annotation
from .host import ensure_slicer
from .scene_cases import SceneCase, case_segmentations, case_volume, find_scene_cases, read_pairings
from .segmentations import SEGMENTATION_SUFFIX
from .views import nodes_of_class, show_volume

_ENDING = ".nrrd"  # keeps any grid


@dataclass(frozen=True)
class TrainingCase:
    """A case of the open scene.

    Attributes:
        case: Its nodes.
        text: Their names; of what is no whole case, why.
        name: The name of its first volume.
    """

    case: SceneCase
    text: str
    name: str


def training_cases(channels: Sequence[str] = (), pairing: Path | None = None) -> tuple[TrainingCase, ...]:
    """The cases of the open scene; see :func:`.scene_cases.find_scene_cases`.

    Args:
        channels: Names or modalities of the channels, where there are several.
        pairing: CSV table of segmentations and volumes.
    """
    scene = ensure_slicer().mrmlScene
    cases = find_scene_cases(scene, channels, read_pairings(pairing) if pairing is not None else ())
    return tuple(
        TrainingCase(case, " + ".join(case.names) or case.problem, case.names[0] if case.names else "")
        for case in cases
    )


def export_cases(cases: Sequence[SceneCase], folder: Path) -> Mapping[str, SceneCase]:
    """Write cases of the open scene as images and segmentations that training reads.

    The files hold voxels, geometry and segments; their names are numbers, as those in the scene may be a patient's.
    Parent transforms are applied, and segmentations are brought to the lattices of their volumes. Segments that overlap
    or reach out of the volume do so in the files too, as a check looks for that.

    Args:
        cases: At least one.
        folder: A folder that does not exist, or is empty; it appears whole or not at all.

    Returns:
        The cases by the names that they have in the folder.

    Raises:
        DatasetError: There is no case, or one cannot be used.
        InputError: A volume or segmentation is empty, or under a warp.
        OutputError: The folder cannot be written.
    """
    if not cases:
        raise DatasetError("No case was chosen. Tick at least one case of the scene.")
    scene = ensure_slicer().mrmlScene
    label_set = classes_of([segments for case in cases for segments in case.segments], {})
    digits = max(3, len(str(len(cases))))
    names = {f"case_{number:0{digits}d}": case for number, case in enumerate(cases, 1)}
    with atomic_folder(folder) as temporary:
        for name, case in names.items():
            if case.problem:
                raise DatasetError(case.problem)
            volume = case_volume(scene, case)
            for channel in range(volume.channels):
                path = temporary / f"{name}_{channel:04d}{_ENDING}"
                write_volume(volume.with_array(volume.array[channel : channel + 1]), path)
            check_geometry(volume.with_array(volume.array[:1]), temporary / f"{name}_0000{_ENDING}", _ENDING)
            # A class that is not in the file is one that nobody annotated.
            values = [matched(segments, label_set, {}) for segments in case.segments]
            if any(values):
                segmentations = zip(case_segmentations(scene, case), values, strict=True)
                write_annotation(list(segmentations), label_set, volume, temporary / f"{name}{SEGMENTATION_SUFFIX}")
    return names


def show_scene_case(case: SceneCase) -> None:
    """Show a case of the open scene in the views, and no other segmentation.

    Raises:
        DatasetError: It is not in the scene any more.
    """
    scene = ensure_slicer().mrmlScene
    nodes = [scene.GetNodeByID(node_id) for node_id in case.volumes]
    if not nodes or None in nodes:
        raise DatasetError("The case is not in the scene any more, or has no volume.")
    show_volume(nodes[0])
    _show_only(*case_segmentations(scene, case))


def show_files(images: Sequence[Path], segmentation: Path | None) -> None:
    """Show a case that lies in files; what the scene has already is not loaded again.

    Raises:
        DatasetError: It has no files of its own, or they cannot be loaded.
    """
    if not images:
        raise DatasetError("The case has no image file that could be shown. Open its scene or DICOM series in Slicer.")
    util = ensure_slicer().util
    try:
        nodes = [_loaded(path, "vtkMRMLVolumeNode") or util.loadVolume(str(path)) for path in images]
        drawn = None
        if segmentation is not None:
            drawn = _loaded(segmentation, "vtkMRMLSegmentationNode") or util.loadSegmentation(str(segmentation))
    except RuntimeError as error:
        raise DatasetError(f"The case could not be loaded ({error}).") from error
    show_volume(nodes[0])
    _show_only(*(() if drawn is None else (drawn,)))


def _show_only(*segmentation_nodes: Any) -> None:
    for node in nodes_of_class("vtkMRMLSegmentationNode"):
        if node.GetDisplayNode() is None:
            node.CreateDefaultDisplayNodes()
        node.SetDisplayVisibility(node in segmentation_nodes)


def _loaded(path: Path, kind: str) -> Any:
    for node in nodes_of_class(kind):
        storage = node.GetStorageNode() if hasattr(node, "GetStorageNode") else None
        if storage is not None and storage.GetFileName() and Path(storage.GetFileName()) == path:
            return node
    return None
