"""A selector of volumes for each channel of a student after the first, by its name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import qt

from ..mrml.selectors import volume_selector
from ..mrml.texts import _


class ChannelSelectors:
    """Rows of a form, as many as the chosen student needs.

    Args:
        form: ``QFormLayout``.
        row: The first selector's row in it.
        chosen: Gives the volume node that was chosen for a channel (1 is the second); None for none.
        choose: Told what the user chooses for a channel.
    """

    def __init__(self, form: Any, row: int, chosen: Callable[[int], Any], choose: Callable[[int, Any], None]) -> None:
        self._form = form
        self._row = row
        self._chosen = chosen
        self._choose = choose
        self._filling = False
        self.rows: list[tuple[Any, Any]] = []  # label and selector

    def show(self, names: Sequence[str]) -> None:
        """Show the selectors of these channels, the first aside, with what was chosen."""
        while len(self.rows) > max(0, len(names) - 1):
            for widget in self.rows.pop():
                self._form.removeWidget(widget)
                widget.hide()
                widget.deleteLater()
        while len(self.rows) < len(names) - 1:
            self._add(len(self.rows) + 1)
        for number, ((label, selector), name) in enumerate(zip(self.rows, names[1:], strict=True), 1):
            label.text = _("{name}:").format(name=name)
            selector.toolTip = _("The volume with the channel {name}, on the same grid.").format(name=name)
            self._filling = True
            selector.setCurrentNode(self._chosen(number))
            self._filling = False

    def nodes(self) -> list[Any]:
        """What was chosen, a channel each; None where nothing was."""
        return [self._chosen(number + 1) for number in range(len(self.rows))]

    def _add(self, number: int) -> None:
        selector = volume_selector()
        label = qt.QLabel()
        label.setBuddy(selector)
        self._form.insertRow(self._row + number - 1, label, selector)
        selector.connect("currentNodeChanged(vtkMRMLNode*)", lambda node, number=number: self._told(number, node))
        self.rows.append((label, selector))

    def _told(self, number: int, node: Any) -> None:
        if not self._filling:
            self._choose(number, node)
