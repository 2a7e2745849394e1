"""What all sections of the panel have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .panel import Panel

# Each state that a section shows is told from these by `update`; none is kept twice.


class Section:
    """A part of the panel: connects its widgets to what the logic does, and shows what the parameter node says.

    Args:
        panel: What it belongs to.
    """

    def __init__(self, panel: Panel) -> None:
        self.panel = panel
        self.ui: Any = panel.ui
        self.logic: Any = panel.logic
        self.connect()

    def connect(self) -> None:
        """Connect the widgets; called once."""

    def update(self) -> None:
        """Show what parameter node, students and run say."""

    def entered(self) -> None:
        """The user opened the module."""

    def left(self) -> None:
        """The user opened another module; a run goes on."""

    def scene_closing(self) -> None:
        """All nodes go away."""

    def cleanup(self) -> None:
        """The panel goes away."""

    def say(self, label: Any, text: str) -> None:
        """Show a text; an empty one takes no room."""
        label.text = text
        label.visible = bool(text)

    def set_icon(self, widget: Any, name: str) -> None:
        """Give a button its icon."""
        widget.setIcon(self.panel.icon(name))

    def clicked(self, button: Any, action: Callable[[], None], wait: bool = False) -> None:
        """Connect a button; errors that the action raises are shown. ``wait`` for what takes a second or more."""
        button.connect("clicked(bool)", lambda checked=False: self.panel.report(action, wait))
