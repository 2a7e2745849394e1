"""A slice of a volume with structures drawn in, as radiologists look at it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .labels import Segment
from .table import segment_mask
from .volume import Volume

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Slice = npt.NDArray[Any]


@dataclass(frozen=True)
class Plane:
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


PLANES = (
    Plane("Axial", 0, ("R", "L", "A", "P"), "S"),
    Plane("Sagittal", 2, ("A", "P", "S", "I"), "R"),
    Plane("Coronal", 1, ("R", "L", "S", "I"), "A"),
)


def grey_window(shown: Volume, labels: Volume) -> tuple[float, float]:
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


def draw_slice(
    ax: Axes,
    plane: Plane,
    shown: Volume,
    labels: Volume,
    segments: Sequence[Segment],
    centre: tuple[int, int, int],
    window: tuple[float, float],
    field: float,
) -> None:
    """Draw one slice with outlined and tinted structures, letters of the directions and a scale bar.

    Args:
        ax: Where; a square.
        plane: Which way to cut.
        shown: One channel in RAS order.
        labels: Label map on the same grid.
        segments: What to draw.
        centre: The voxel (k, j, i) that the slice passes through.
        window: Grey values of black and white.
        field: Width and height of the view in mm, so that several views have one scale.
    """
    index = centre[plane.axis]
    grey = plane.cut(shown.array[0], index).astype(np.float64)
    cut_labels = plane.cut(labels.array[0], index)
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
        mask = segment_mask(cut_labels, segment)
        if not mask.any():
            continue
        inside = np.pad(mask, 1).astype(np.float64)
        ax.contourf(x, y, inside, levels=(0.5, 1.5), colors=[segment.color], alpha=0.28, antialiased=True)
        ax.contour(x, y, inside, levels=(0.5,), colors=[segment.color], linewidths=1.3)
    ax.set_xlim(width / 2 - field / 2, width / 2 + field / 2)
    ax.set_ylim(height / 2 + field / 2, height / 2 - field / 2)
    hide_frame(ax)
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


def hide_frame(ax: Axes) -> None:
    """No ticks and no border."""
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)
