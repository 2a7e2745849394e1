"""One picture of a result: three slices with the structures drawn in, a 3D view, a legend with volumes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .errors import MissingDependencyError, OutputError
from .files import atomic_file
from .labels import Segment
from .slice_view import PLANES, draw_slice, grey_window, hide_frame
from .surface_view import render_surfaces, screen_directions
from .table import SegmentSize, segment_mask, segment_sizes
from .volume import Volume

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NO_SURFACE_VIEW = "No 3D view: this computer could not render it (no OpenGL)."

# Inches; the page is as high as its legend needs.
_PANEL, _GAP, _MARGIN = 4.0, 0.12, 0.3
_TITLE, _LEGEND_ROW, _FOOTER_LINE = 0.75, 0.22, 0.17
_WIDTH = 2 * _PANEL + _GAP + 2 * _MARGIN
_LEGEND_COLUMNS, _LEGEND_ROWS = 4, 15
_FOOTER_CHARACTERS = 130
_CENTRE_SAMPLE = 200_000
_DPI = 160
_OBLIQUE_DEGREES = 1.0
_INK, _FAINT = "#1b1f24", "#5c6670"


@dataclass(frozen=True)
class Picture:
    """What was drawn.

    Attributes:
        path: The PNG file.
        has_surface_view: Whether the 3D view is in it.
        notes: What a reader should know, as it stands in the picture's footer.
    """

    path: Path
    has_surface_view: bool
    notes: tuple[str, ...]


def write_picture(
    volume: Volume,
    labels: Volume,
    segments: Sequence[Segment],
    path: Path,
    *,
    title: str = "",
    overwrite: bool = False,
) -> Picture:
    """Write a PNG with an axial, a sagittal and a coronal slice through the largest structure, and a 3D view.

    Slices are cut along the volume's own axes, those nearest to the patient's; of an oblique volume the
    footer says by how many degrees they are off. They are shown in radiological convention (the patient's
    right on the left), at the same scale and with the voxels' true proportions. The grey values are the first
    channel's.

    Args:
        volume: What was segmented.
        labels: One-channel label map on the same grid.
        segments: What to draw, in the legend's order.
        path: A file ending in ``.png``.
        title: Above the picture; the volume's name when empty.
        overwrite: Replace an existing file.

    Raises:
        OutputError: The name does not end in .png, the file exists and ``overwrite`` is False, or it cannot
            be written.
        MissingDependencyError: Matplotlib is not installed.
        ValueError: The label map lies on another grid.
    """
    require_picture(path)
    if not volume.same_grid(labels):
        raise ValueError(f"labels on the grid {labels.shape} do not fit the volume's {volume.shape}")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with atomic_file(path, overwrite) as temporary:
        # A figure and canvas of its own: pyplot's global state may be in use elsewhere in this process.
        figure = Figure(dpi=_DPI, facecolor="white")
        FigureCanvasAgg(figure)
        notes, has_surface_view = _draw(figure, volume, labels, segments, title)
        figure.savefig(temporary, format="png", facecolor="white")
    return Picture(path, has_surface_view, notes)


def require_picture(path: Path) -> None:
    """Check before any work is done that a picture of this name can be drawn.

    Raises:
        OutputError: The name does not end in .png.
        MissingDependencyError: Matplotlib is not installed.
    """
    if path.suffix.lower() != ".png":
        raise OutputError(f"{path} cannot be written as a picture. Give it a name that ends in .png.")
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            "Matplotlib, which draws the picture, is not installed. Install it (pip install matplotlib), "
            "or run without the picture."
        ) from error


class _Page:
    """A figure measured in inches from its upper left corner."""

    def __init__(self, figure: Figure, height: float) -> None:
        figure.set_size_inches(_WIDTH, height)
        self.figure = figure
        self.height = height

    def panel(self, column: int, row: int) -> Axes:
        left = _MARGIN + column * (_PANEL + _GAP)
        bottom = self.height - _TITLE - row * (_PANEL + _GAP) - _PANEL
        return self.figure.add_axes((left / _WIDTH, bottom / self.height, _PANEL / _WIDTH, _PANEL / self.height))

    def text(self, left: float, top: float, text: str, size: float, color: str = _FAINT, **options: Any) -> None:
        self.figure.text(left / _WIDTH, 1 - top / self.height, text, fontsize=size, color=color, va="center", **options)

    def swatch(self, left: float, top: float, color: tuple[float, float, float]) -> None:
        from matplotlib.patches import Rectangle

        corner = (left / _WIDTH, 1 - (top + 0.055) / self.height)
        self.figure.add_artist(Rectangle(corner, 0.16 / _WIDTH, 0.11 / self.height, color=color, linewidth=0))


def _draw(
    figure: Figure, volume: Volume, labels: Volume, segments: Sequence[Segment], title: str
) -> tuple[tuple[str, ...], bool]:
    sizes = segment_sizes(labels, segments)
    found = [size for size in sizes if size.voxels]
    shown = volume.with_array(volume.array[:1]).reoriented("RAS")
    labels_shown = volume.with_array(labels.array).reoriented("RAS")
    if found:
        largest = max(found, key=lambda size: size.voxels).segment
        centre = central_voxel(segment_mask(labels_shown.array[0], largest))
        notes = [f"Slices through the centre of {largest.name}, the largest structure."]
    else:
        centre = (shown.shape[0] // 2, shown.shape[1] // 2, shown.shape[2] // 2)
        notes = ["No structure was found; slices through the centre of the volume."]
    notes.append("Radiological convention: the patient's right is on the left.")
    degrees = _obliqueness(shown)
    if degrees > _OBLIQUE_DEGREES:
        notes.append(f"Oblique volume: slices along its own axes, up to {degrees:.0f}° off the patient's.")
    view = render_surfaces(labels, [size.segment for size in found])
    if found and view is None:
        notes.append(NO_SURFACE_VIEW)

    lines = _lines(notes)
    columns = min(_LEGEND_COLUMNS, max(1, len(sizes)))
    rows = min(_LEGEND_ROWS, -(-len(sizes) // columns))
    legend_top = _TITLE + 2 * _PANEL + _GAP + 0.2
    footer_top = legend_top + rows * _LEGEND_ROW + 0.18
    page = _Page(figure, footer_top + len(lines) * _FOOTER_LINE + 0.15)
    page.text(_MARGIN, 0.3, title or volume.name, 14, _INK, weight="bold")
    k, j, i = volume.shape
    dk, dj, di = volume.spacing
    page.text(_MARGIN, 0.56, f"{i} × {j} × {k} voxels of {di:.3g} × {dj:.3g} × {dk:.3g} mm", 9)
    window = grey_window(shown, labels_shown)
    field = 1.04 * max(n * mm for n, mm in zip(shown.shape, shown.spacing, strict=True))
    for plane, (column, row) in zip(PLANES, ((0, 0), (1, 0), (0, 1)), strict=True):
        draw_slice(page.panel(column, row), plane, shown, labels_shown, segments, centre, window, field)
    _draw_surface_view(page.panel(1, 1), view, bool(found))
    _draw_legend(page, sizes, columns, rows, legend_top)
    for number, line in enumerate(lines):
        page.text(_MARGIN, footer_top + (number + 0.5) * _FOOTER_LINE, line, 7.5)
    return tuple(notes), view is not None


def _lines(notes: Sequence[str]) -> list[str]:
    """The notes one after another in lines that fit the page."""
    lines = [notes[0]]
    for note in notes[1:]:
        if len(lines[-1]) + len(note) < _FOOTER_CHARACTERS:
            lines[-1] += f"  {note}"
        else:
            lines.append(note)
    return lines


def central_voxel(mask: npt.NDArray[np.bool_]) -> tuple[int, int, int]:
    """The structure's voxel nearest to its centre of gravity, which may lie outside of a curved one."""
    inside = np.flatnonzero(mask)
    inside = inside[:: 1 + len(inside) // _CENTRE_SAMPLE]
    voxels = np.stack(np.unravel_index(inside, mask.shape), axis=1)
    nearest = voxels[np.argmin(((voxels - voxels.mean(0)) ** 2).sum(1))]
    return int(nearest[0]), int(nearest[1]), int(nearest[2])


def _obliqueness(shown: Volume) -> float:
    """The largest angle between an axis of a volume in RAS order and the patient's, in degrees."""
    directions = shown.ijk_to_ras[:3, :3] / np.linalg.norm(shown.ijk_to_ras[:3, :3], axis=0)
    return float(np.degrees(np.arccos(np.clip(np.diag(directions), -1, 1)).max()))


def _draw_surface_view(ax: Axes, view: npt.NDArray[np.uint8] | None, anything: bool) -> None:
    hide_frame(ax)
    ax.set_facecolor("#f3f4f6")
    if view is None:
        ax.set_xlim(0, 1)
        ax.set_ylim(0, 1)
        text = NO_SURFACE_VIEW.replace(": ", ":\n") if anything else "No structure was found."
        ax.text(0.5, 0.5, text, ha="center", va="center", fontsize=10, color=_FAINT)
        return
    ax.imshow(view, extent=(0, 1, 0, 1), aspect="equal", interpolation="antialiased")
    for spine in ax.spines.values():
        spine.set_visible(True)
        spine.set_color("#c9ced6")
    ax.text(0.025, 0.97, "3D", ha="left", va="top", fontsize=9, color=_INK)
    origin, length = np.array([0.12, 0.10]), 0.075
    for letter, direction, color in zip("RAS", screen_directions(), ("#c0392b", "#27813f", "#2457a8"), strict=True):
        tip = origin + length * direction
        ax.plot((origin[0], tip[0]), (origin[1], tip[1]), color=color, linewidth=1.6, solid_capstyle="round")
        beyond = origin + (length + 0.025) * direction / max(float(np.linalg.norm(direction)), 0.5)
        ax.text(
            float(beyond[0]),
            float(beyond[1]),
            letter,
            ha="center",
            va="center",
            fontsize=8,
            color=color,
            weight="bold",
        )
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1)


def _draw_legend(page: _Page, sizes: Sequence[SegmentSize], columns: int, rows: int, top: float) -> None:
    room = columns * rows
    listed = list(sizes)
    if len(listed) > room:  # the largest ones, in their own order
        keep = {id(size) for size in sorted(sizes, key=lambda size: -size.voxels)[: room - 1]}
        listed = [size for size in sizes if id(size) in keep]
    width = (_WIDTH - 2 * _MARGIN) / _LEGEND_COLUMNS
    for index, size in enumerate(listed):
        left = _MARGIN + (index // rows) * width
        middle = top + (index % rows + 0.5) * _LEGEND_ROW
        page.swatch(left, middle, size.segment.color)
        name = size.segment.name if len(size.segment.name) <= 26 else size.segment.name[:25] + "…"
        page.text(left + 0.24, middle, name, 8.5, _INK)
        amount = _in_words(size.millilitres) if size.voxels else "not found"
        page.text(left + width - 0.2, middle, amount, 8.5, ha="right")
    if len(listed) < len(sizes):
        middle = top + (rows - 0.5) * _LEGEND_ROW
        more = f"and {len(sizes) - len(listed)} more in the table"
        page.text(_MARGIN + (columns - 1) * width + 0.24, middle, more, 8.5)


def _in_words(millilitres: float) -> str:
    decimals = 0 if millilitres >= 100 else 1 if millilitres >= 10 else 2 if millilitres >= 0.1 else 3
    return f"{millilitres:.{decimals}f} ml"
