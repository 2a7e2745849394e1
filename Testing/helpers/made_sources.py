"""The same small cases as every source of a dataset, to be broken one way at a time."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from dicom_series import write_series
from geometries import Matrix, axis_aligned
from plans import TWO_LABELS
from ReCoKDLib.files import write_json
from ReCoKDLib.image_io import dicom_files, read_volume, write_label_map, write_volume
from ReCoKDLib.labels import LabelSet, Segment
from ReCoKDLib.provenance import PROVENANCE, Provenance, provenance_json
from ReCoKDLib.volume import Volume

NAMES = tuple(segment.name for segment in TWO_LABELS.segments)
HELD_OUT = 4


@dataclass(frozen=True)
class Made:
    """A case that is not written yet.

    Attributes:
        name: Of its files.
        image: One channel, whole numbers.
        masks: By class, (1, k, j, i) of 0 and 1, all on one grid; none where nobody annotated it.
        patient: Its patient's ID.
    """

    name: str
    image: Volume
    masks: Mapping[str, Volume]
    patient: str

    def label_map(self) -> Volume:
        """1 and 2 in place of the masks, on their grid."""
        whole = sum(value * self.masks[name].array for value, name in enumerate(NAMES, 1) if name in self.masks)
        return next(iter(self.masks.values())).with_array(np.asarray(whole))


def make_cases() -> list[Made]:
    """Five cases without a fault, the last to be held out."""
    cases = []
    for number in range(5):
        random = np.random.default_rng(number)
        masks = {}
        image = random.normal(100, 8, (1, 6, 12, 14))
        for name, first in zip(NAMES, (1, 3), strict=True):
            mask = np.zeros(image.shape, np.uint8)
            mask[0, first : first + 2, 3 : 8 + number % 2, 3:9] = 1
            image += 60 * mask
            masks[name] = Volume(mask, axis_aligned())
        volume = Volume(np.rint(image).astype(np.float32), axis_aligned())
        cases.append(Made(f"made{number}", volume, masks, f"id {number}"))
    return cases


class Source:
    """How cases become files.

    Attributes:
        held_out: Whether the last case can be held out.
        keeps_names: Whether cases are called as their files are.
    """

    held_out = True
    keeps_names = True

    def begin(self, folder: Path) -> None:
        """Write what is there beside the cases."""
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, folder: Path, case: Made) -> None:
        """Write a case, over the one of that name."""
        raise NotImplementedError

    def paths(self, folder: Path) -> list[Path]:
        """What to give for ``--dataset``."""
        return [folder]

    def image(self, folder: Path, name: str) -> Path:
        """The file that a case cannot be read without."""
        raise NotImplementedError


class NnunetRaw(Source):
    """As NRRD, which keeps NaN."""

    description: Mapping[str, Any] = {
        "channel_names": {"0": "MRI"},
        **TWO_LABELS.to_dataset_json(),
        "file_ending": ".nrrd",
    }

    def begin(self, folder: Path) -> None:
        super().begin(folder)
        write_json(folder / "dataset.json", dict(self.description))

    def image(self, folder: Path, name: str) -> Path:
        return folder / "imagesTr" / f"{name}_0000.nrrd"

    def label(self, folder: Path, name: str) -> Path:
        """The label map's file."""
        return folder / "labelsTr" / f"{name}.nrrd"

    def write(self, folder: Path, case: Made) -> None:
        self.image(folder, case.name).parent.mkdir(exist_ok=True)
        _write_image(case.image, self.image(folder, case.name))
        label = self.label(folder, case.name)
        label.unlink(missing_ok=True)
        if case.masks:
            write_label_map(case.label_map(), label)


class Corrected(NnunetRaw):
    """With the record of who corrected what."""

    def begin(self, folder: Path) -> None:
        super().begin(folder)
        write_json(folder / PROVENANCE, provenance_json({f"made{n}": Provenance.now("blobs") for n in range(5)}))


class Decathlon(NnunetRaw):
    """A list of the cases."""

    description: Mapping[str, Any] = {
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": NAMES[0], "2": NAMES[1]},
        "training": [],
    }

    def image(self, folder: Path, name: str) -> Path:
        return folder / "imagesTr" / f"{name}.nrrd"

    def write(self, folder: Path, case: Made) -> None:
        super().write(folder, case)
        found = sorted(path.name for path in (folder / "imagesTr").iterdir())
        entries = [{"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in found]
        write_json(folder / "dataset.json", {**self.description, "training": entries}, overwrite=True)


class LabelMaps(NnunetRaw):
    """A label map beside each image."""

    description = TWO_LABELS.to_dataset_json()

    def image(self, folder: Path, name: str) -> Path:
        return folder / f"{name}.nrrd"

    def label(self, folder: Path, name: str) -> Path:
        return folder / f"{name}_seg.nrrd"


class VolumesAlone(LabelMaps):
    """Images that nobody annotated."""

    held_out = False

    def begin(self, folder: Path) -> None:
        Source.begin(self, folder)

    def write(self, folder: Path, case: Made) -> None:
        super().write(folder, replace(case, masks={}))


class Segmentations(Source):
    """A ``.seg.nrrd`` beside each image."""

    def image(self, folder: Path, name: str) -> Path:
        return folder / f"{name}.nrrd"

    def write(self, folder: Path, case: Made) -> None:
        _write_image(case.image, self.image(folder, case.name))
        segmentation = folder / f"{case.name}.seg.nrrd"
        segmentation.unlink(missing_ok=True)
        if case.masks:
            _write_segments(case, segmentation)


class Mrb(Source):
    """A scene for each case."""

    keeps_names = False

    def image(self, folder: Path, name: str) -> Path:
        return folder / f"{name}.mrb"

    def write(self, folder: Path, case: Made) -> None:
        from ReCoKDLib.mrml.volumes import volume_to_node
        from scene_files import save_scene, study

        segmentation = folder / "written.seg.nrrd"

        def build(slicer: Any) -> None:
            nodes = [volume_to_node(case.image, name="image")]
            if case.masks:
                _write_segments(case, segmentation)
                node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "annotated")
                storage = slicer.vtkMRMLSegmentationStorageNode()
                storage.SetFileName(str(segmentation))
                assert storage.ReadData(node)
                node.SetReferenceImageGeometryParameterFromVolumeNode(nodes[0])
                segmentation.unlink()
                nodes.append(node)
            study(slicer, "study", *nodes, patient=case.patient)

        save_scene(folder / f"{case.name}.mrb", build)


class Mrml(Mrb):
    """A scene for each case, with its files beside it."""

    def image(self, folder: Path, name: str) -> Path:
        return folder / name / f"{name}.mrml"

    def write(self, folder: Path, case: Made) -> None:
        super().write(folder, case)
        packed = folder / f"{case.name}.mrb"
        shutil.rmtree(folder / case.name, ignore_errors=True)
        with zipfile.ZipFile(packed) as archive:
            archive.extractall(folder)
        packed.unlink()


class Dicom(Source):
    """A series for each case, and a SEG."""

    keeps_names = False

    def image(self, folder: Path, name: str) -> Path:
        return folder / name / "005.dcm"

    def write(self, folder: Path, case: Made) -> None:
        import pydicom

        from ReCoKDLib.dicom_seg import write_dicom_seg

        series = folder / case.name
        shutil.rmtree(series, ignore_errors=True)
        annotated_on = next((mask.ijk_to_ras for mask in case.masks.values()), case.image.ijk_to_ras)
        write_series(series, replace(case.image, ijk_to_ras=annotated_on), PatientID=case.patient)
        if not case.masks:
            return
        # As regions, which may overlap: 1 and 2 are in one of them, 3 in both.
        labels = case.label_map().array
        segments = tuple(
            Segment(name, value, (value, 3), (1, 1, 0)) for value, name in enumerate(NAMES, 1) if name in case.masks
        )
        on_image = Volume(labels, annotated_on).reoriented(read_volume(series).axis_codes)
        files = dicom_files(series)
        write_dicom_seg(on_image, LabelSet(segments, True), files, series / "seg.dcm", "manual", "1")
        moved = np.diag([-1.0, -1.0, 1.0]) @ (case.image.ijk_to_ras - annotated_on)[:3, 3]
        for file in files if moved.any() else ():
            header = pydicom.dcmread(file)
            header.ImagePositionPatient = [a + b for a, b in zip(header.ImagePositionPatient, moved, strict=True)]
            header.save_as(file)


class Mixture(Source):
    """The third and fourth case as segmentations beside images, the others in nnU-Net's layout."""

    keeps_names = False

    def __init__(self) -> None:
        self.first, self.second = NnunetRaw(), Segmentations()

    def begin(self, folder: Path) -> None:
        for part, source in zip(self.paths(folder), (self.first, self.second), strict=True):
            source.begin(part)

    def paths(self, folder: Path) -> list[Path]:
        return [folder / "raw", folder / "files"]

    def _part(self, folder: Path, name: str) -> tuple[Source, Path]:
        second = name in ("made2", "made3")
        return (self.second, folder / "files") if second else (self.first, folder / "raw")

    def write(self, folder: Path, case: Made) -> None:
        source, part = self._part(folder, case.name)
        source.write(part, case)

    def image(self, folder: Path, name: str) -> Path:
        source, part = self._part(folder, name)
        return source.image(part, name)


def _write_image(volume: Volume, path: Path) -> None:
    """As SimpleITK writes anything, NaN too; several channels become a fourth axis."""
    write_volume(volume.with_array(np.zeros_like(volume.array[:1])), path, overwrite=True)
    like = sitk.ReadImage(str(path))
    channels = []
    for array in volume.array:
        image = sitk.GetImageFromArray(array)
        image.CopyInformation(like)
        channels.append(image)
    sitk.WriteImage(channels[0] if len(channels) == 1 else sitk.JoinSeries(channels), str(path))


def _write_segments(case: Made, path: Path) -> None:
    from ReCoKDLib.mrml.segmentations import write_segments
    from ReCoKDLib.mrml.voxels import oriented_image

    known = {segment.name: segment for segment in TWO_LABELS.segments}
    images = [
        (known[name], oriented_image(mask.array[0], mask.ijk_to_ras) if mask.array.any() else None)
        for name, mask in case.masks.items()
    ]
    write_segments(images, case.image, path)


def shifted(volume: Volume, *millimetres: float) -> Volume:
    """The same voxels elsewhere."""
    matrix: Matrix = volume.ijk_to_ras.copy()
    matrix[:3, 3] += millimetres
    return replace(volume, ijk_to_ras=matrix)


def write_split(path: Path, identifiers: Mapping[str, str], held_out: Sequence[str]) -> Path:
    """A split by the cases' names before they were written."""
    sides: dict[str, list[str]] = {"train": [], "val": []}
    for name, identifier in identifiers.items():
        sides["val" if name in held_out else "train"].append(identifier)
    path.write_text(json.dumps(sides), encoding="utf-8")
    return path
