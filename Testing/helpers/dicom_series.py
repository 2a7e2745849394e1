"""DICOM series of any geometry, written slice by slice with pydicom."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ReCoKDLib.volume import Volume


def write_series(folder: Path, volume: Volume, *, reverse: bool = False, prefix: str = "", **tags: Any) -> str:
    """Write the first channel of a volume as an MR series with a file for each slice k.

    Args:
        folder: Made if need be.
        volume: Any geometry with perpendicular axes.
        reverse: Number the files and instances against the order of the slices.
        prefix: Of the files' names.
        **tags: Further attributes, or None for those to leave out.

    Returns:
        The series' UID.
    """
    import pydicom
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

    folder.mkdir(parents=True, exist_ok=True)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.ijk_to_ras
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    study, series, frame_of_reference = generate_uid(), generate_uid(), generate_uid()
    slices = np.rint(volume.array[0]).astype(np.int16)
    for k, pixels in enumerate(slices):
        number = len(slices) - k if reverse else k + 1
        image = pydicom.Dataset()
        image.file_meta = pydicom.dataset.FileMetaDataset()
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID = MRImageStorage
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID = generate_uid()
        image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = study, series, frame_of_reference
        image.Modality, image.PatientName, image.PatientID = "MR", "Doe^Jane", "4711"
        image.PatientBirthDate, image.PatientSex, image.StudyID, image.StudyDate = "19700101", "F", "1", "20200102"
        image.StudyTime, image.AccessionNumber, image.ReferringPhysicianName = "120000", "", ""
        image.SeriesNumber, image.InstanceNumber = 1, number
        image.ImagePositionPatient = [f"{mm:.8g}" for mm in (lps @ [0, 0, k, 1])[:3]]
        image.ImageOrientationPatient = [f"{part:.8g}" for part in (lps[:3, :2] / spacing[:2]).T.ravel()]
        image.PixelSpacing = [f"{spacing[1]:.8g}", f"{spacing[0]:.8g}"]
        image.SliceThickness = f"{spacing[2]:.8g}"
        image.Rows, image.Columns = pixels.shape
        image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
        image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 1
        image.PixelData = pixels.tobytes()
        for name, value in tags.items():
            if value is None:
                delattr(image, name)
            else:
                setattr(image, name, value)
        image.save_as(folder / f"{prefix}{number:03d}.dcm", enforce_file_format=True)
    return str(series)
