"""What was measured after each epoch: as a CSV file, as curves, as TensorBoard events."""

from __future__ import annotations

import csv
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ReCoKDLib.files import atomic_file

from .stopwatch import SECONDS
from .validation import DICE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Row = dict[str, float]

LOG = "log.csv"
CURVES = "curves.png"
EVENTS = "tensorboard"
_INK, _FAINT = "#222222", "#DDDDDD"


def _dice(row: Mapping[str, float]) -> float:
    value = row[DICE]
    return value if math.isfinite(value) else -1.0


def best_epoch(history: Sequence[Row]) -> int | None:
    """The epoch with the best validation, the first one of equals; None before the first validation."""
    validated = [row for row in history if DICE in row]
    return int(max(validated, key=_dice)["epoch"]) if validated else None


def validations_since(history: Sequence[Row]) -> int:
    """How many validations came after the best one."""
    best = best_epoch(history)
    return 0 if best is None else sum(DICE in row and row["epoch"] > best for row in history)


def write_csv(history: Sequence[Row], path: Path) -> None:
    """One row for each epoch; empty where a value was not measured.

    Raises:
        OutputError: It cannot be written.
    """
    columns = list(dict.fromkeys(name for row in history for name in row))
    with (
        atomic_file(path, overwrite=True) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as stream,
    ):
        writer = csv.DictWriter(stream, columns, restval="")
        writer.writeheader()
        writer.writerows({k: f"{v:.6g}" for k, v in row.items()} for row in history)


def draw_curves(history: Sequence[Row], path: Path) -> None:
    """Losses, validation, the distillation losses' terms, and gradient norms against the epochs, as a PNG file.

    Raises:
        OutputError: It cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(name for row in history for name in row))
    counted = ("_pairs", "pairs_")
    terms = [
        n for n in names if "/" in n and not n.startswith(("gradient norm/", DICE, SECONDS)) and not _any(counted, n)
    ]
    panels: list[tuple[str, list[str], bool]] = [
        ("Loss", [n for n in ("total", "segmentation") if n in names], False),
        ("Dice of held-out cases", [n for n in names if n.startswith(DICE)], False),
        ("Distillation terms, before eta", terms, True),
        ("Gradient norm, last shared layer", [n for n in names if n.startswith("gradient norm/")], True),
    ]
    shown = [panel for panel in panels if panel[1]]
    columns = min(2, len(shown)) or 1
    rows = max(1, math.ceil(len(shown) / columns))
    figure = Figure(figsize=(5.2 * columns, 3.2 * rows), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes: list[Axes] = [figure.add_subplot(rows, columns, place + 1) for place in range(len(shown))]
    for ax, (title, series, logarithmic) in zip(axes, shown, strict=True):
        _draw_panel(ax, title, series, history, logarithmic)
    with atomic_file(path, overwrite=True) as temporary:
        figure.savefig(temporary, format="png", facecolor="white")


def _any(parts: Sequence[str], name: str) -> bool:
    return any(part in name for part in parts)


def _draw_panel(ax: Axes, title: str, series: Sequence[str], history: Sequence[Row], logarithmic: bool) -> None:
    from matplotlib.ticker import MaxNLocator

    drawn = False
    for name in series:
        points = [(row["epoch"], row[name]) for row in history if math.isfinite(row.get(name, math.nan))]
        if logarithmic:
            points = [(epoch, value) for epoch, value in points if value > 0]
        if not points:
            continue
        x, y = zip(*points, strict=True)
        drawn = True
        label = name.removeprefix("gradient norm/").removeprefix("validation/")
        ax.plot(x, y, linewidth=1.4, marker="." if len(points) < 40 else None, markersize=5, label=label)
    if logarithmic and drawn:
        ax.set_yscale("log")
    ax.set_title(title, fontsize=10, color=_INK, loc="left")
    ax.set_xlabel("epoch", fontsize=8)
    ax.tick_params(labelsize=8)
    ax.grid(color=_FAINT, linewidth=0.6)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if drawn:
        ax.legend(fontsize=7, frameon=False)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)


class Events:
    """TensorBoard events of a run, made with tensorboardX; nothing where that is not installed.

    What a killed run left is replaced: all epochs are written again when the file is opened. Not its
    ``SummaryWriter``, whose thread ends on a full disk and whose ``flush`` then waits for it for ever.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / EVENTS
        self._writer: Any = None
        self._shown: set[tuple[int, str]] = set()
        self._written = 0

    @staticmethod
    def available() -> bool:
        """Whether tensorboardX is installed."""
        try:
            import tensorboardX  # noqa: F401
        except ImportError:
            return False
        return True

    def write(self, history: Sequence[Row]) -> None:
        """Add the epochs that are not there yet; of the last one whatever was measured since.

        Raises:
            OSError: There is no room.
        """
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.record_writer import RecordWriter
        from tensorboardX.summary import scalar

        now = time.time()
        if self._writer is None:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True, exist_ok=True)
            self._writer = RecordWriter(str(self.folder / f"events.out.tfevents.{int(now)}.recokd"))
            self._writer.write(Event(wall_time=now, file_version="brain.Event:2").SerializeToString())
        for row in history[max(0, self._written - 1) :]:
            epoch = int(row["epoch"])
            for name, value in row.items():
                if name != "epoch" and (epoch, name) not in self._shown:
                    event = Event(wall_time=now, step=epoch, summary=scalar(name.replace(" ", "_"), value))
                    self._writer.write(event.SerializeToString())
                    self._shown.add((epoch, name))
        self._written = len(history)
        self._writer.flush()

    def close(self) -> None:
        """End the file.

        Raises:
            OSError: There is no room.
        """
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
