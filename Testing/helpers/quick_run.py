"""A run as :class:`ReCoKDLib.widgets.process.BackgroundRun`, here and at once: a process loads torch for seconds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from ReCoKDLib.errors import Cancelled
from ReCoKDLib.package import ModelPackage
from ReCoKDLib.volume import Volume


class QuickRun:
    """Works when the interface is idle, unless it is held back.

    ``hold`` keeps all runs at a quarter until :meth:`release`; ``started`` are those of the test.
    """

    hold: ClassVar[bool] = False
    started: ClassVar[list[QuickRun]] = []

    def __init__(
        self,
        volume: Volume,
        package: ModelPackage,
        options: Mapping[str, Any],
        *,
        on_progress: Callable[[float], None],
        on_line: Callable[[str], None],
        on_done: Callable[[Any], None],
        on_failed: Callable[[BaseException], None],
        on_preview: Callable[[Any], None] | None = None,
    ) -> None:
        import qt

        self.volume, self.package, self.options = volume, package, options
        self.on_progress, self.on_line, self.on_done, self.on_failed = on_progress, on_line, on_done, on_failed
        self.on_preview = on_preview
        self.over = False
        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.connect("timeout()", self._begin)
        QuickRun.started.append(self)

    def start(self) -> None:
        self._timer.start(0)

    def cancel(self) -> None:
        if not self.over:
            self.over = True
            self.on_failed(Cancelled("Cancelled. The scene is as it was."))

    def abandon(self) -> None:
        self.over = True

    def fail(self, error: BaseException) -> None:
        """End with an error."""
        self.over = True
        self.on_failed(error)

    def release(self) -> None:
        """Go on."""
        if not self.over:
            self._work()

    def _begin(self) -> None:
        if self.over:
            return
        self.on_line(f"{self.package.card.name} from {self.package.path}")
        self.on_progress(0.25)
        if not QuickRun.hold:
            self._work()

    def _work(self) -> None:
        from ReCoKDLib.errors import ReCoKDError
        from ReCoKDLib.segment import segment

        try:
            result = segment(
                self.volume, self.package, progress=self.on_progress, preview=self.on_preview, **self.options
            )
        except ReCoKDError as error:
            self.fail(error)
            return
        self.over = True
        self.on_done(result)
