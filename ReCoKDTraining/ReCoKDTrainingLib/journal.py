"""What a run tells about itself in its folder: state, log, metrics, curves, events.

None of it is needed to go on: where one cannot be written, that is said once and the run goes on. Only checkpoints
may end a run.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ReCoKDLib.errors import ReCoKDError
from ReCoKDLib.files import write_json
from ReCoKDLib.remaining import Remaining

from .history import CURVES, LOG, Events, Row, best_epoch, draw_curves, write_csv
from .stopwatch import logged_split
from .validation import DICE

STATUS = "status.json"
TEXT_LOG = "log.txt"
FORMAT = 1
_STATUS_SECONDS = 2.0
_CURVES_SECONDS = 60.0


class Journal:
    """The files beside the checkpoints.

    ``status.json`` is written whole each time, for programs that watch a run: ``state`` (preparing, training,
    evaluating, done, failed, stopped), ``stage`` and ``fraction`` of it, ``seconds_left`` of the stage, ``epoch``,
    ``epochs``, ``step``, ``losses`` of the last step, ``validation`` (``dice``, ``best_dice``, ``best_epoch``),
    ``step_seconds`` (mean seconds of a step by part: data, teacher, student, losses, backward, optimiser, rest),
    ``package``, ``report``, ``error``, ``pid``, ``updated`` (ISO 8601). A run that was killed leaves its last state:
    look whether the process is still there.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._events = Events(folder)
        self._status: dict[str, Any] = {
            "format": FORMAT,
            "state": "preparing",
            "stage": "",
            "fraction": 0.0,
            "seconds_left": None,
            "epoch": 0,
            "epochs": None,
            "step": 0,
            "losses": {},
            "validation": {"dice": None, "best_dice": None, "best_epoch": None},
            "step_seconds": {},
            "package": None,
            "report": None,
            "error": None,
            "pid": os.getpid(),
            "updated": "",
        }
        self._failed: set[str] = set()
        self._next_status = self._next_curves = 0.0
        self._remaining = Remaining()
        if not Events.available():
            self.line("No TensorBoard events: tensorboardX is not installed (pip install tensorboardX).")

    def state(self, state: str, **values: Any) -> None:
        """Enter a state, with whatever else is known now."""
        self._status |= {"state": state, **values}
        self._write_status(now=True)

    def stage(self, title: str, fraction: float, begins: bool = False) -> None:
        """How far a stage is."""
        if begins:
            self._remaining = Remaining()
        left = self._remaining.seconds(fraction, time.monotonic())
        self._status |= {"stage": title, "fraction": fraction, "seconds_left": None if left is None else round(left)}
        self._write_status(now=begins)

    def step(self, step: int, losses: Mapping[str, float]) -> None:
        """The losses of the last step."""
        self._status |= {"step": step, "losses": dict(losses)}
        self._write_status()

    def epochs(self, history: Sequence[Row], epochs: int) -> None:
        """All epochs so far."""
        # JSON has no word for NaN, the Dice of cases that have none of the segments
        validated = {row["epoch"]: row[DICE] if math.isfinite(row[DICE]) else None for row in history if DICE in row}
        best = best_epoch(history)
        self._status |= {
            "epoch": len(history),
            "epochs": epochs,
            "validation": {
                "dice": list(validated.values())[-1] if validated else None,
                "best_dice": None if best is None else validated[best],
                "best_epoch": best,
            },
        }
        if history:
            self._status["step_seconds"] = logged_split(history[-1]) or self._status["step_seconds"]
        self._write_status(now=True)
        if not history:
            return
        self._quietly(LOG, lambda: write_csv(history, self.folder / LOG))
        if Events.available():
            self._quietly("the TensorBoard events", lambda: self._events.write(history))
        if time.monotonic() >= self._next_curves or len(history) == epochs:
            self._next_curves = time.monotonic() + _CURVES_SECONDS
            self._quietly(CURVES, lambda: draw_curves(history, self.folder / CURVES))

    def line(self, text: str) -> None:
        """One line of the log, with the time."""

        def append() -> None:
            with (self.folder / TEXT_LOG).open("a", encoding="utf-8") as stream:
                stream.write(f"{datetime.now().isoformat(sep=' ', timespec='seconds')}  {text}\n")

        self._quietly(TEXT_LOG, append)

    def close(self) -> None:
        """Nothing more comes."""
        self._quietly("the TensorBoard events", self._events.close)

    def _write_status(self, now: bool = False) -> None:
        if not now and time.monotonic() < self._next_status:
            return
        self._next_status = time.monotonic() + _STATUS_SECONDS
        self._status["updated"] = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self._quietly(STATUS, lambda: write_json(self.folder / STATUS, self._status, overwrite=True))

    def _quietly(self, what: str, write: Callable[[], None]) -> None:
        try:
            write()
        except (OSError, ReCoKDError) as error:
            if what not in self._failed:
                self._failed.add(what)
                said = str(error) if isinstance(error, ReCoKDError) else f"{what} could not be written ({error})."
                print(f"{said} The run goes on.", flush=True)
