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
from .surface_view import render_surfaces, screen_directions
from .table import SegmentSize, segment_mask, segment_sizes
from .volume import Volume

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Slice = npt.NDArray[Any]

NO_SURFACE_VIEW = "No 3D view: no OpenGL was found on this computer."

# Inches; the page is as high as its legend needs.
_PANEL, _GAP, _MARGIN = 4.0, 0.12, 0.3
_TITLE, _LEGEND_ROW, _FOOTER = 0.75, 0.22, 0.5
_WIDTH = 2 * _PANEL + _GAP + 2 * _MARGIN
_LEGEND_COLUMNS, _LEGEND_ROWS = 4, 15
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


@dataclass(frozen=True)
class _Plane:
    """How a slice is cut from a volume in RAS order (axes k, j, i) and which way it is shown."""

    name: str
    axis: int  # of the (k, j, i) array
    letters: tuple[str, str, str, str]  # left, right, top, bottom
    world: str

    def cut(self, array: Slice, index: int) -> Slice:
        """The slice with its first row at the top and first column at the left, radiological convention.

        All three planes have both in-plane axes reversed: R and A to the left, A and S to the top.
        """
        cut: Slice = np.take(array, index, self.axis)[::-1, ::-1]
        return cut


_PLANES = (
    _Plane("Axial", 0, ("R", "L", "A", "P"), "S"),
    _Plane("Sagittal", 2, ("A", "P", "S", "I"), "R"),
    _Plane("Coronal", 1, ("R", "L", "S", "I"), "A"),
)


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
    if path.suffix.lower() != ".png":
        raise OutputError(f"{path} cannot be written as a picture. Give it a name that ends in .png.")
    if not volume.same_grid(labels):
        raise ValueError(f"labels on the grid {labels.shape} do not fit the volume's {volume.shape}")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError(
            "Matplotlib, which draws the picture, is not installed. Install it (pip install matplotlib), "
            "or run without the picture."
        ) from error
    with atomic_file(path, overwrite) as temporary:
        # A figure and canvas of its own: pyplot's global state may be in use elsewhere in this process.
        figure = Figure(dpi=_DPI, facecolor="white")
        FigureCanvasAgg(figure)
        notes, has_surface_view = _draw(figure, volume, labels, segments, title)
        figure.savefig(temporary, format="png", facecolor="white")
    return Picture(path, has_surface_view, notes)


def _draw(
    figure: Figure, volume: Volume, labels: Volume, segments: Sequence[Segment], title: str
) -> tuple[tuple[str, ...], bool]:
    sizes = segment_sizes(labels, segments)
    largest = max(sizes, key=lambda size: size.voxels, default=None)
    shown = volume.with_array(volume.array[:1]).reoriented("RAS")
    masks_on = labels.reoriented("RAS")
    if largest is not None and largest.voxels:
        centre = _centre(segment_mask(masks_on, largest.segment))
        notes = [f"Slices through the centre of {largest.segment.name}, the largest structure."]
    else:
        centre = (shown.shape[0] // 2, shown.shape[1] // 2, shown.shape[2] // 2)
        notes = ["No structure was found; slices through the centre of the volume."]
    notes.append("Radiological convention: the patient's right is on the left.")
    degrees = _obliqueness(shown)
    if degrees > _OBLIQUE_DEGREES:
        notes.append(f"Oblique volume: slices along its own axes, up to {degrees:.0f}° off the patient's.")

    columns = min(_LEGEND_COLUMNS, max(1, len(sizes)))
    rows = min(_LEGEND_ROWS, -(-len(sizes) // columns))
    height = _TITLE + 2 * _PANEL + _GAP + 0.2 + rows * _LEGEND_ROW + _FOOTER
    figure.set_size_inches(_WIDTH, height)

    def axes(column: int, row: int) -> Axes:
        left = _MARGIN + column * (_PANEL + _GAP)
        top = _TITLE + row * (_PANEL + _GAP)
        return figure.add_axes((left / _WIDTH, 1 - (top + _PANEL) / height, _PANEL / _WIDTH, _PANEL / height))

    window = _window(shown, masks_on)
    extent = tuple(n * mm for n, mm in zip(shown.shape, shown.spacing, strict=True))
    field = 1.04 * max(extent)
    for plane, (column, row) in zip(_PLANES, ((0, 0), (1, 0), (0, 1)), strict=True):
        _draw_slice(axes(column, row), plane, shown, masks_on, segments, centre, window, field)
    view = render_surfaces(labels, [size.segment for size in sizes if size.voxels])
    if view is None and largest is not None and largest.voxels:
        notes.append(NO_SURFACE_VIEW)
    _draw_surface_view(axes(1, 1), view, bool(largest and largest.voxels))

    k, j, i = volume.shape
    dk, dj, di = volume.spacing
    figure.text(
        _MARGIN / _WIDTH,
        1 - 0.3 / height,
        title or volume.name,
        fontsize=14,
        weight="bold",
        color=_INK,
        va="center",
    )
    figure.text(
        _MARGIN / _WIDTH,
        1 - 0.56 / height,
        f"{i} × {j} × {k} voxels of {di:.3g} × {dj:.3g} × {dk:.3g} mm",
        fontsize=9,
        color=_FAINT,
        va="center",
    )
    _draw_legend(figure, sizes, columns, rows, (_TITLE + 2 * _PANEL + _GAP + 0.2, height))
    figure.text(_MARGIN / _WIDTH, 0.18 / height, "  ".join(notes), fontsize=7.5, color=_FAINT, va="center")
    return tuple(notes), view is not None


def _centre(mask: npt.NDArray[np.bool_]) -> tuple[int, int, int]:
    """The structure's voxel nearest to its centre of gravity, which may lie outside of a curved one."""
    voxels = np.argwhere(mask)
    nearest = voxels[np.argmin(((voxels - voxels.mean(0)) ** 2).sum(1))]
    return int(nearest[0]), int(nearest[1]), int(nearest[2])


def _obliqueness(shown: Volume) -> float:
    """The largest angle between an axis of a volume in RAS order and the patient's, in degrees."""
    directions = shown.ijk_to_ras[:3, :3] / np.linalg.norm(shown.ijk_to_ras[:3, :3], axis=0)
    return float(np.degrees(np.arccos(np.clip(np.diag(directions), -1, 1)).max()))


def _window(shown: Volume, labels: Volume) -> tuple[float, float]:
    """Grey values shown as black and as white, in a range that suits the structures.

    The middle half of their values and four times as much on both sides: soft tissue in CT and grey matter in
    MRI then have contrast, whatever air, metal or a bright vessel elsewhere. Never wider than the image's own
    values.
    """
    array = shown.array[0]
    lowest, highest = (float(value) for value in np.percentile(array, (0.2, 99.8)))
    inside = array[labels.array[0] > 0]
    if inside.size:
        low, high = (float(value) for value in np.percentile(inside, (25.0, 75.0)))
        margin = 4.0 * (high - low)
        if margin > 0:
            lowest, highest = max(lowest, low - margin), min(highest, high + margin)
    return lowest, highest if highest > lowest else lowest + 1.0


def _draw_slice(
    ax: Axes,
    plane: _Plane,
    shown: Volume,
    labels: Volume,
    segments: Sequence[Segment],
    centre: tuple[int, int, int],
    window: tuple[float, float],
    field: float,
) -> None:
    index = centre[plane.axis]
    grey = plane.cut(shown.array[0], index).astype(np.float64)
    rows, columns = (n for axis, n in enumerate(shown.shape) if axis != plane.axis)
    down, across = (mm for axis, mm in enumerate(shown.spacing) if axis != plane.axis)
    width, height = columns * across, rows * down
    ax.set_facecolor("black")
    ax.imshow(
        grey,
        cmap="gray",
        vmin=window[0],
        vmax=window[1],
        interpolation="bicubic",
        extent=(0, width, height, 0),
        aspect="equal",
    )
    # Voxel centres, with a rim of background so that outlines close at the border of the volume.
    x = (np.arange(-1, columns + 1) + 0.5) * across
    y = (np.arange(-1, rows + 1) + 0.5) * down
    for segment in segments:
        mask = plane.cut(segment_mask(labels, segment), index)
        if not mask.any():
            continue
        inside = np.pad(mask, 1).astype(np.float64)
        ax.contourf(x, y, inside, levels=(0.5, 1.5), colors=[segment.color], alpha=0.28, antialiased=True)
        ax.contour(x, y, inside, levels=(0.5,), colors=[segment.color], linewidths=1.3)
    ax.set_xlim(width / 2 - field / 2, width / 2 + field / 2)
    ax.set_ylim(height / 2 + field / 2, height / 2 - field / 2)
    _hide_frame(ax)
    place = (shown.ijk_to_ras @ (centre[2], centre[1], centre[0], 1.0))["RAS".index(plane.world)]
    direction = plane.world if place >= 0 else {"R": "L", "A": "P", "S": "I"}[plane.world]
    _write(ax, 0.025, 0.97, f"{plane.name}  {direction} {abs(place):.1f} mm", ha="left", va="top", size=9)
    left, right, top, bottom = plane.letters
    _write(ax, 0.02, 0.5, left, ha="left", va="center")
    _write(ax, 0.98, 0.5, right, ha="right", va="center")
    _write(ax, 0.5, 0.98, top, ha="center", va="top")
    _write(ax, 0.5, 0.02, bottom, ha="center", va="bottom")
    _draw_scale_bar(ax, field)


def _write(ax: Axes, x: float, y: float, text: str, *, ha: str, va: str, size: float = 11) -> None:
    """White text with a dark rim, readable on any grey."""
    from matplotlib import patheffects

    ax.text(
        x,
        y,
        text,
        transform=ax.transAxes,
        ha=ha,
        va=va,
        fontsize=size,
        color="white",
        path_effects=[patheffects.withStroke(linewidth=2, foreground="#000000b0")],
    )


def _draw_scale_bar(ax: Axes, field: float) -> None:
    from matplotlib import patheffects

    length = max(step for step in (1, 2, 5, 10, 20, 50, 100, 200) if step <= max(1.0, field / 4))
    share = length / field
    rim = [patheffects.withStroke(linewidth=4, foreground="#000000b0")]
    ax.plot(
        (0.97 - share, 0.97),
        (0.035, 0.035),
        transform=ax.transAxes,
        color="white",
        linewidth=2,
        path_effects=rim,
    )
    _write(ax, 0.97 - share / 2, 0.045, f"{length} mm", ha="center", va="bottom", size=8)


def _hide_frame(ax: Axes) -> None:
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)


def _draw_surface_view(ax: Axes, view: npt.NDArray[np.uint8] | None, anything: bool) -> None:
    _hide_frame(ax)
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


def _draw_legend(
    figure: Figure, sizes: Sequence[SegmentSize], columns: int, rows: int, place: tuple[float, float]
) -> None:
    from matplotlib.patches import Rectangle

    top, height = place
    room = columns * rows
    listed = list(sizes)
    if len(listed) > room:  # the largest ones, in their own order
        keep = {id(size) for size in sorted(sizes, key=lambda size: -size.voxels)[: room - 1]}
        listed = [size for size in sizes if id(size) in keep]
    column_width = (_WIDTH - 2 * _MARGIN) / _LEGEND_COLUMNS
    for index, size in enumerate(listed):
        left = _MARGIN + (index // rows) * column_width
        y = 1 - (top + (index % rows + 0.5) * _LEGEND_ROW) / height
        swatch = (left / _WIDTH, y - 0.055 / height)
        figure.add_artist(Rectangle(swatch, 0.16 / _WIDTH, 0.11 / height, color=size.segment.color, linewidth=0))
        name = size.segment.name if len(size.segment.name) <= 26 else size.segment.name[:25] + "…"
        figure.text((left + 0.24) / _WIDTH, y, name, fontsize=8.5, color=_INK, va="center")
        figure.text(
            (left + column_width - 0.2) / _WIDTH,
            y,
            _in_words(size.millilitres) if size.voxels else "not found",
            fontsize=8.5,
            color=_FAINT,
            va="center",
            ha="right",
        )
    if len(listed) < len(sizes):
        left = _MARGIN + (columns - 1) * column_width
        y = 1 - (top + (rows - 0.5) * _LEGEND_ROW) / height
        text = f"and {len(sizes) - len(listed)} more in the table"
        figure.text((left + 0.24) / _WIDTH, y, text, fontsize=8.5, color=_FAINT, va="center")


def _in_words(millilitres: float) -> str:
    decimals = 0 if millilitres >= 100 else 1 if millilitres >= 10 else 2 if millilitres >= 0.1 else 3
    return f"{millilitres:.{decimals}f} ml"
