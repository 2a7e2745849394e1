"""Volumes from and to files: every geometry keeps its place, and what is no volume is refused in words."""

from __future__ import annotations

import locale
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from geometries import Matrix, oblique_left_handed
from ReCoKDLib.errors import InputError, OutputError
from ReCoKDLib.image_io import LABEL_MAP_SUFFIXES, read_volume, write_label_map
from ReCoKDLib.volume import Volume


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_a_label_map_comes_back_from_every_format(any_geometry: Matrix, suffix: str, tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 3, (1, 4, 5, 6))
    path = tmp_path / f"Müller's labels{suffix}"
    write_label_map(Volume(array, any_geometry), path)
    back = read_volume(path)
    np.testing.assert_array_equal(back.array, array)
    assert back.array.dtype == np.uint8
    np.testing.assert_allclose(back.ijk_to_ras, any_geometry, atol=1e-4)
    assert back.name == "Müller's labels"


def test_simpleitk_agrees_on_where_a_voxel_lies(any_geometry: Matrix, tmp_path: Path) -> None:
    write_label_map(Volume(np.zeros((1, 4, 5, 6)), any_geometry), tmp_path / "a.nrrd")
    lps = sitk.ReadImage(str(tmp_path / "a.nrrd")).TransformIndexToPhysicalPoint((3, 1, 2))
    np.testing.assert_allclose(np.array(lps) * [-1, -1, 1], (any_geometry @ [3, 1, 2, 1])[:3], atol=1e-4)


def test_more_than_255_labels_are_kept(tmp_path: Path) -> None:
    array = np.arange(300).reshape(1, 3, 10, 10)
    write_label_map(Volume(array, np.eye(4)), tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(read_volume(tmp_path / "a.nii.gz").array, array)


def write_dicom_series(folder: Path, positions: list[float], series: str = "1.2.3.4") -> None:
    before = locale.setlocale(locale.LC_ALL)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for number, position in enumerate(positions):
        image = sitk.GetImageFromArray(np.full((1, 5, 6), number * 10, dtype=np.int16))
        image.SetSpacing((0.7, 0.8, 2.0))
        for key, value in {
            "0008|0060": "MR",
            "0010|0010": "Doe^Jane",
            "0020|000d": "1.2.3",
            "0020|000e": series,
            "0020|0013": str(number + 1),
            "0020|0032": f"-10\\-20\\{position}",
            "0020|0037": "1\\0\\0\\0\\1\\0",
            "0008|0018": f"{series}.{number}",
            "0018|0050": "2.0",
        }.items():
            image.SetMetaData(key, value)
        writer.SetFileName(str(folder / f"{series}-{number}.dcm"))
        writer.Execute(image)
    # Writing DICOM, ITK leaves the locale "C" to the process, in which other tests could read no umlaut.
    locale.setlocale(locale.LC_ALL, before)


def test_a_dicom_folder_is_one_volume(tmp_path: Path) -> None:
    write_dicom_series(tmp_path, [4.0, 0.0, 2.0])  # out of order
    volume = read_volume(tmp_path)
    assert volume.spacing == pytest.approx((2.0, 0.8, 0.7))
    assert volume.array[0, :, 0, 0].tolist() == [10, 20, 0]
    np.testing.assert_allclose(volume.ijk_to_ras[:3, 3], [10, 20, 0], atol=1e-6)
    assert volume.name == tmp_path.name  # never the patient's name


def test_a_dicom_series_with_a_missing_slice_is_refused(tmp_path: Path) -> None:
    write_dicom_series(tmp_path, [0.0, 2.0, 4.0, 8.0, 10.0])
    with pytest.raises(InputError, match="unevenly spaced.*missing"):
        read_volume(tmp_path)


def test_a_dicom_series_without_positions_is_refused(tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    write_dicom_series(tmp_path, [0, 2, 4])
    for file in tmp_path.iterdir():
        slice_ = pydicom.dcmread(file)
        del slice_.ImagePositionPatient
        slice_.save_as(file)
    with pytest.raises(InputError, match="does not say where its slices lie"):
        read_volume(tmp_path)


def test_two_dicom_series_in_one_folder_are_refused(tmp_path: Path) -> None:
    write_dicom_series(tmp_path, [0.0, 2.0, 4.0])
    write_dicom_series(tmp_path, [0.0, 2.0, 4.0], "1.2.3.5")
    with pytest.raises(InputError, match="2 DICOM series"):
        read_volume(tmp_path)


def test_a_lone_dicom_slice_is_refused(tmp_path: Path) -> None:
    write_dicom_series(tmp_path, [0.0])
    with pytest.raises(InputError, match="single slice"):
        read_volume(tmp_path)


def test_the_real_dicom_series(shared_data: Path) -> None:
    volume = read_volume(shared_data / "dicom" / "hippocampus_crop")
    assert volume.shape == (32, 51, 35)
    assert volume.axis_codes == "LPS"


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist. Check the path"):
        read_volume(tmp_path / "nothing.nii.gz")


@pytest.mark.parametrize("name", ["text.txt", "text.nii.gz", "text.nrrd"])
def test_not_an_image(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("not an image")
    with pytest.raises(InputError, match="could not be read as an image.*NIfTI"):
        read_volume(tmp_path / name)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_a_file_that_was_not_copied_to_its_end_is_refused(tmp_path: Path, suffix: str) -> None:
    array = np.random.default_rng(0).integers(0, 200, (1, 20, 21, 22))
    path = tmp_path / f"a{suffix}"
    write_label_map(Volume(array, np.eye(4)), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"a\."):
        read_volume(path)


def test_a_damaged_compressed_file_is_refused(tmp_path: Path) -> None:
    write_label_map(
        Volume(np.random.default_rng(0).integers(0, 200, (1, 20, 21, 22)), np.eye(4)), tmp_path / "a.nii.gz"
    )
    data = bytearray((tmp_path / "a.nii.gz").read_bytes())
    data[-8] ^= 1  # of the checksum
    (tmp_path / "a.nii.gz").write_bytes(data)
    with pytest.raises(InputError, match=r"is damaged|could not be read"):
        read_volume(tmp_path / "a.nii.gz")


def test_a_folder_without_dicom(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no DICOM series"):
        read_volume(tmp_path)


def test_two_dimensional(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((5, 6), np.uint8)), str(tmp_path / "a.png"))
    with pytest.raises(InputError, match="single slice.*3D image is needed.*all slices"):
        read_volume(tmp_path / "a.png")


def test_four_dimensional(tmp_path: Path) -> None:
    image = sitk.JoinSeries([sitk.Image(4, 5, 6, sitk.sitkFloat32)] * 3)
    sitk.WriteImage(image, str(tmp_path / "a.nii.gz"))
    with pytest.raises(InputError, match="4D series.*Split it"):
        read_volume(tmp_path / "a.nii.gz")


def test_a_fourth_axis_of_length_one_is_no_hindrance(tmp_path: Path) -> None:
    image = sitk.JoinSeries([sitk.Image(4, 5, 6, sitk.sitkFloat32) + 3])
    sitk.WriteImage(image, str(tmp_path / "a.nrrd"))
    assert read_volume(tmp_path / "a.nrrd").shape == (6, 5, 4)


def test_colour(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.Image((4, 5, 6), sitk.sitkVectorUInt8, 3), str(tmp_path / "a.nrrd"))
    with pytest.raises(InputError, match="3 values in each voxel"):
        read_volume(tmp_path / "a.nrrd")


def test_unknown_output_format(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="Use one of .nii.gz"):
        write_label_map(Volume(np.zeros((1, 2, 2, 2)), oblique_left_handed()), tmp_path / "a.jpg")


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("Exception thrown\nitk::ERROR: NrrdImageIO(0x1): No space left on device.")

    monkeypatch.setattr(sitk, "WriteImage", fail)
    with pytest.raises(OutputError, match=r"No space left on device\). Nothing was changed"):
        write_label_map(Volume(np.zeros((1, 2, 2, 2)), np.eye(4)), tmp_path / "a.nrrd")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit of the size of files")
@pytest.mark.parametrize("suffix", LABEL_MAP_SUFFIXES)
def test_a_full_disk_leaves_the_old_file(repository: Path, tmp_path: Path, suffix: str) -> None:
    """A file that may not grow stands for a disk that is full."""
    path = tmp_path / f"labels{suffix}"
    path.write_text("precious")
    code = f"""
import resource, signal
import numpy as np
import os
import subprocess
import sys
from pathlib import Path
from ReCoKDLib.errors import OutputError
from ReCoKDLib.image_io import write_label_map
from ReCoKDLib.volume import Volume
noise = np.random.default_rng(0).integers(0, 200, (1, 40, 40, 40), dtype=np.uint8)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    write_label_map(Volume(noise, np.eye(4)), Path({str(path)!r}), overwrite=True)
except OutputError as error:
    print("refused:", error)
"""
    environment = {**os.environ, "PYTHONPATH": str(repository / "ReCoKD")}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert "refused:" in run.stdout, run.stderr
    assert path.read_text() == "precious"
    assert [child.name for child in tmp_path.iterdir()] == [path.name]
