"""Work in a thread beside Slicer's interface, with progress and cancelling."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import qt

Result = TypeVar("Result")
Work = Callable[[Callable[[float], None], Callable[[], bool]], Result]

_TICK_MILLISECONDS = 10
_SHARE_SECONDS = 0.02
_GOODBYE_SECONDS = 3.0


class BackgroundTask(Generic[Result]):
    """One piece of work in a thread of its own; what it reports arrives in the thread of the interface.

    Why so: Slicer's main thread keeps Python's global lock while it is in Qt's event loop (PythonQt is set up
    without thread support), so a thread that only waits for its turn would stand still until some Python code
    happens to run. A timer therefore waits for the thread's messages for a short time, again and again: waiting
    gives up the lock, the work goes on, and between two waits the interface draws and answers. Long operations of
    torch and numpy run without the lock anyway. The work must touch neither MRML nor Qt; both belong to the main
    thread.

    Args:
        work: Called in the thread with ``progress(fraction)`` and ``cancelled() -> bool``.
        on_progress: Called with the newest fraction.
        on_done: Called with what ``work`` returned.
        on_failed: Called with what ``work`` raised; :class:`ReCoKDLib.errors.Cancelled` after a cancel.
    """

    def __init__(
        self,
        work: Work[Result],
        *,
        on_progress: Callable[[float], None],
        on_done: Callable[[Result], None],
        on_failed: Callable[[BaseException], None],
    ) -> None:
        self._work = work
        self._on_progress = on_progress
        self._on_done = on_done
        self._on_failed = on_failed
        self._messages: queue.Queue[tuple[str, Any]] = queue.Queue()
        self._cancelled = threading.Event()
        self._abandoned = False
        # A daemon: closing Slicer does not wait for the end of a long operation.
        self._thread = threading.Thread(target=self._run, name="ReCoKD", daemon=True)
        self._timer = qt.QTimer()
        self._timer.setInterval(_TICK_MILLISECONDS)
        self._timer.connect("timeout()", self._tick)

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread.start()
        self._timer.start()

    def cancel(self) -> None:
        """Ask the work to stop; ``on_failed`` or, when it was just ready, ``on_done`` still follows."""
        self._cancelled.set()

    def abandon(self) -> None:
        """Stop the work and report nothing any more: the scene is closed, or the module goes away."""
        self._abandoned = True
        self._cancelled.set()
        self._timer.stop()
        # Without the timer the thread has no turns of its own; joining gives it one, to come to its end.
        self._thread.join(_GOODBYE_SECONDS)

    def _run(self) -> None:
        try:
            result = self._work(lambda fraction: self._messages.put(("progress", fraction)), self._cancelled.is_set)
        except BaseException as error:  # every error is the interface's to show
            self._messages.put(("failed", error))
        else:
            self._messages.put(("done", result))

    def _tick(self) -> None:
        """In the main thread: lend the thread some time, then pass its newest messages on."""
        fraction = None
        last = None
        try:
            message = self._messages.get(timeout=_SHARE_SECONDS)
            while True:
                if message[0] == "progress":
                    fraction = message[1]
                else:
                    last = message
                message = self._messages.get_nowait()
        except queue.Empty:
            pass
        if self._abandoned:
            return
        if fraction is not None:
            self._on_progress(fraction)
        if last is not None:
            # First the timer: what follows may open a dialog, whose event loop would tick again.
            self._timer.stop()
            kind, content = last
            (self._on_done if kind == "done" else self._on_failed)(content)
