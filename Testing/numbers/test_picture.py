"""The picture: right slices, the right way round, true proportions, and no 3D view where none can be had."""

from __future__ import annotations

import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from geometries import scanner_lps
from ReCoKDLib import picture, slice_view
from ReCoKDLib.errors import MissingDependencyError, OutputError
from ReCoKDLib.image_io import read_volume
from ReCoKDLib.labels import LabelSet, Segment
from ReCoKDLib.picture import NO_SURFACE_VIEW, write_picture
from ReCoKDLib.surface_view import render_surfaces, screen_directions
from ReCoKDLib.volume import Volume

Matrix = npt.NDArray[np.float64]
TwoBlobs = Callable[..., tuple[Volume, Volume]]

RED, BLUE = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)
SEGMENTS = (Segment("front", 1, (1,), RED), Segment("back", 2, (2,), BLUE))


@pytest.fixture
def no_surfaces(monkeypatch: pytest.MonkeyPatch) -> None:
    """No rendering: for tests of slices, which then take less time."""
    monkeypatch.setattr(picture, "render_surfaces", lambda *arguments: None)


def pixels(path: Path) -> npt.NDArray[np.float64]:
    """(row, column, 3) in 0..1."""
    from matplotlib.image import imread

    rgb: npt.NDArray[np.float64] = np.asarray(imread(path))[..., :3]
    return rgb


def rendered(labels: Volume, segments: Any, size: int = 200) -> npt.NDArray[np.int64]:
    view = render_surfaces(labels, segments, size)
    if view is None:
        pytest.skip("no OpenGL on this computer")
    return view.astype(np.int64)


def test_picture_of_any_geometry(two_blobs: TwoBlobs, any_geometry: Matrix, tmp_path: Path) -> None:
    image, labels = two_blobs(any_geometry)
    path = tmp_path / "bild größer.png"
    made = write_picture(image, labels, SEGMENTS, path, title="Two blobs")
    shown = pixels(path)
    assert shown.shape[0] > 1000
    assert shown.shape[1] > 1000
    assert made.path == path
    assert "Slices through the centre of front, the largest structure." in made.notes
    assert [child.name for child in tmp_path.iterdir()] == [path.name]
    height, width = shown.shape[0] // 2, shown.shape[1] // 2
    reddish = (shown[..., 0] > shown[..., 1] + 0.1) & (shown[..., 0] > shown[..., 2] + 0.1)
    for rows in (slice(0, height), slice(height, None)):
        for columns in (slice(0, width), slice(width, None)):
            if made.has_surface_view or (rows.start, columns.start) != (height, width):
                assert reddish[rows, columns].sum() > 100  # the structure is in each of the four views


def slice_axes(monkeypatch: pytest.MonkeyPatch, volume: Volume, labels: Volume, path: Path) -> dict[str, Any]:
    """The three slices' axes as they were drawn, by plane."""
    drawn = {}

    def remember(ax: Any, plane: Any, *arguments: Any) -> None:
        slice_view.draw_slice(ax, plane, *arguments)
        drawn[plane.name] = ax

    monkeypatch.setattr(picture, "draw_slice", remember)
    write_picture(volume, labels, SEGMENTS, path)
    return drawn


@pytest.mark.usefixtures("no_surfaces")
@pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR", "SLA"])
def test_right_is_left_and_front_is_up(
    two_blobs: TwoBlobs, codes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bright corner at the right, front, top shows at the upper left, however the voxels are stored."""
    image, labels = two_blobs()
    array = np.zeros_like(image.array)
    array[0, -4:, -4:, -4:] = 1000.0  # superior, anterior, right in RAS order
    array[0, :, :, :] += 100 * (labels.array[0] > 0)
    corner = image.with_array(array).reoriented(codes)
    mask = np.zeros_like(labels.array)
    mask[0, -6:-1, -6:-1, -6:-1] = 1  # so that the slices pass through the corner
    axes = slice_axes(monkeypatch, corner, labels.with_array(mask).reoriented(codes), tmp_path / "a.png")
    for name, expected in {"Axial": "RLAP", "Sagittal": "APSI", "Coronal": "RLSI"}.items():
        shown = np.asarray(axes[name].images[0].get_array())
        bright = np.argwhere(shown > 900)
        assert bright.max(0).tolist() == [3, 3], name
        assert {text.get_text() for text in axes[name].texts} >= set(expected)


@pytest.mark.usefixtures("no_surfaces")
def test_proportions_are_true(
    two_blobs: TwoBlobs, anisotropic_matrix: Matrix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slices 5 mm apart are shown 5 mm apart, and all three views have one scale."""
    image, labels = two_blobs(anisotropic_matrix)
    axes = slice_axes(monkeypatch, image, labels, tmp_path / "a.png")
    extents = dict(zip("SAR", (n * mm for n, mm in zip(*_in_ras(image), strict=True)), strict=True))
    for name, down, across in (("Axial", "A", "R"), ("Sagittal", "S", "A"), ("Coronal", "S", "R")):
        left, right, bottom, top = axes[name].images[0].get_extent()
        assert right - left == pytest.approx(extents[across])
        assert bottom - top == pytest.approx(extents[down])
        assert np.ptp(axes[name].get_xlim()) == pytest.approx(np.ptp(axes["Axial"].get_xlim()))


def _in_ras(volume: Volume) -> tuple[tuple[int, int, int], tuple[float, float, float]]:
    ras = volume.reoriented("RAS")
    return ras.shape, ras.spacing


@pytest.mark.usefixtures("no_surfaces")
def test_places_are_named(two_blobs: TwoBlobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image, labels = two_blobs(scanner_lps())
    axes = slice_axes(monkeypatch, image, labels, tmp_path / "a.png")
    k, j, i = np.argwhere(labels.array[0] == 1).mean(0)
    right, front, up = (image.ijk_to_ras @ (i, j, k, 1))[:3]
    said = {name: ax.texts[0].get_text() for name, ax in axes.items()}
    for name, value, letters in (("Axial", up, "SI"), ("Sagittal", right, "RL"), ("Coronal", front, "AP")):
        plane, letter, number, unit = said[name].split()
        assert (plane, unit) == (name, "mm")
        assert letter == letters[int(value < 0)]
        assert float(number) == pytest.approx(abs(value), abs=1.0)


@pytest.mark.usefixtures("no_surfaces")
def test_oblique_volumes_are_said_to_be(two_blobs: TwoBlobs, oblique_matrix: Matrix, tmp_path: Path) -> None:
    made = write_picture(*two_blobs(oblique_matrix), SEGMENTS, tmp_path / "a.png")
    assert any("Oblique volume" in note and "28°" in note for note in made.notes), made.notes
    made = write_picture(*two_blobs(), SEGMENTS, tmp_path / "b.png")
    assert not any("Oblique" in note for note in made.notes)


@pytest.mark.usefixtures("no_surfaces")
def test_nothing_found(two_blobs: TwoBlobs, tmp_path: Path) -> None:
    image, labels = two_blobs()
    made = write_picture(image, labels.with_array(np.zeros_like(labels.array)), SEGMENTS, tmp_path / "a.png")
    assert made.notes[0].startswith("No structure was found")
    assert NO_SURFACE_VIEW not in made.notes  # there is nothing to show, GL or not


@pytest.mark.usefixtures("no_surfaces")
def test_many_structures(two_blobs: TwoBlobs, tmp_path: Path) -> None:
    image, labels = two_blobs()
    many = tuple(Segment(f"a structure with a rather long name {n}", n, (n,), RED) for n in range(1, 118))
    made = write_picture(image, labels, many, tmp_path / "a.png", title="117")
    assert pixels(made.path).shape[0] < 2600  # the page does not grow without end


@pytest.mark.usefixtures("no_surfaces")
def test_a_constant_image(two_blobs: TwoBlobs, tmp_path: Path) -> None:
    image, labels = two_blobs()
    write_picture(image.with_array(np.full_like(image.array, 7)), labels, SEGMENTS, tmp_path / "a.png")


@pytest.mark.usefixtures("no_surfaces")
def test_refusals(two_blobs: TwoBlobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image, labels = two_blobs()
    with pytest.raises(OutputError, match=r"ends in \.png"):
        write_picture(image, labels, SEGMENTS, tmp_path / "a.jpg")
    with pytest.raises(ValueError, match="do not fit"):
        write_picture(image, two_blobs(scanner_lps())[1], SEGMENTS, tmp_path / "a.png")
    (tmp_path / "a.png").write_text("precious")
    with pytest.raises(OutputError, match="exists already"):
        write_picture(image, labels, SEGMENTS, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_text() == "precious"
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingDependencyError, match="pip install matplotlib"):
        write_picture(image, labels, SEGMENTS, tmp_path / "b.png")


@pytest.mark.usefixtures("no_surfaces")
def test_pyplot_is_left_alone(two_blobs: TwoBlobs, tmp_path: Path) -> None:
    import matplotlib.pyplot as plt

    write_picture(*two_blobs(), SEGMENTS, tmp_path / "a.png")
    assert plt.get_fignums() == []


# The 3D view


def test_surfaces_are_seen_from_the_right_front_top(two_blobs: TwoBlobs, any_geometry: Matrix) -> None:
    """The front structure hides part of the one behind, and each has its colour at its place."""
    _, labels = two_blobs(any_geometry)
    view = rendered(labels, SEGMENTS)
    red = np.argwhere((view[..., 0] > 100) & (view[..., 2] < 80))
    blue = np.argwhere((view[..., 2] > 100) & (view[..., 0] < 80))
    assert len(red) > 300
    assert len(blue) > 300
    assert (view[0, 0] == 255).all()
    # The vector from one centre to the other points on the screen where the axes' directions say.
    k, j, i = (np.argwhere(labels.array[0] == 2).mean(0) - np.argwhere(labels.array[0] == 1).mean(0)).tolist()
    in_world = labels.ijk_to_ras[:3, :3] @ (i, j, k)
    right, up = in_world @ screen_directions()
    rows, columns = blue.mean(0) - red.mean(0)
    angle = np.degrees(np.arctan2(-rows, columns) - np.arctan2(up, right))
    assert abs((angle + 180) % 360 - 180) < 25


def test_axes_of_the_view() -> None:
    """The patient faces the viewer: the right hand is at the left, the head above."""
    (r_right, _), (_, a_up), (s_right, s_up) = screen_directions()
    assert r_right < -0.5
    assert a_up < 0
    assert s_right == pytest.approx(0)
    assert s_up > 0.5


def test_surfaces_at_the_border_are_closed_and_small_ones_are_kept(two_blobs: TwoBlobs) -> None:
    _, labels = two_blobs()
    edge = np.zeros_like(labels.array)
    edge[0, :3, :3, :3] = 1
    edge[0, 12, 12, 12] = 2  # a single voxel
    view = rendered(labels.with_array(edge), SEGMENTS)
    assert ((view[..., 0] > 80) & (view[..., 2] < 80)).sum() > 20


def test_no_voxels_no_view(two_blobs: TwoBlobs) -> None:
    _, labels = two_blobs()
    assert render_surfaces(labels, (Segment("absent", 9, (9,), RED),)) is None


@pytest.mark.parametrize("way", ["crash", "hang", "no python"])
def test_without_a_3d_view_the_slices_remain(
    two_blobs: TwoBlobs, tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*arguments: Any, **options: Any) -> Any:
        if way == "hang":
            raise subprocess.TimeoutExpired("python", 1)
        return types.SimpleNamespace(returncode=-11)

    monkeypatch.setattr(subprocess, "run", run)
    if way == "no python":
        monkeypatch.setattr(sys, "executable", "/Applications/Slicer/SlicerApp-real")
        monkeypatch.setenv("PATH", str(tmp_path))
    made = write_picture(*two_blobs(), SEGMENTS, tmp_path / "a.png")
    assert not made.has_surface_view
    assert NO_SURFACE_VIEW in made.notes
    assert made.path.is_file()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="hides Linux's OpenGL")
def test_on_a_computer_without_opengl(two_blobs: TwoBlobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """VTK really crashes there; the picture says that it has no 3D view."""
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.setenv("__EGL_VENDOR_LIBRARY_FILENAMES", "/nowhere.json")
    monkeypatch.setenv("VTK_DEFAULT_OPENGL_WINDOW", "vtkXOpenGLRenderWindow")
    made = write_picture(*two_blobs(), SEGMENTS, tmp_path / "a.png")
    assert not made.has_surface_view
    assert NO_SURFACE_VIEW in made.notes


def test_real_case(shared_data: Path, repository: Path) -> None:
    """Looked at by people: Testing/output/hippocampus.png."""
    folder = shared_data / "Dataset004_Hippocampus"
    label_set = LabelSet.from_dataset_json({"labels": {"background": 0, "Anterior": 1, "Posterior": 2}})
    output = repository / "Testing" / "output"
    output.mkdir(exist_ok=True)
    made = write_picture(
        read_volume(folder / "imagesTr" / "hippocampus_003_0000.nii.gz"),
        read_volume(folder / "labelsTr" / "hippocampus_003.nii.gz"),
        label_set.segments,
        output / "hippocampus.png",
        title="hippocampus_003, reference",
        overwrite=True,
    )
    assert made.notes[0] == "Slices through the centre of Posterior, the largest structure."
