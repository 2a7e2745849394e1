"""Input: a volume for each channel, a region, and whether they fit the student."""

from __future__ import annotations

from typing import Any

import qt

from ..mrml.checking import Fit, check_nodes
from ..mrml.texts import _
from ..mrml.views import region_around, show_volume
from .channels import ChannelSelectors
from .section import Section

_WAIT_MILLISECONDS = 100


class InputSection(Section):
    """One selector for each channel of the chosen student, named by its card."""

    def connect(self) -> None:
        """Connect the widgets."""
        self.fit = Fit()
        self._checked: Any = None
        self.further = ChannelSelectors(
            self.ui.inputCollapsibleButton.layout(), 1, self._further_volume, self._further_chosen
        )
        self.set_icon(self.ui.drawRoiButton, "region")
        self.clicked(self.ui.drawRoiButton, self._draw_region)
        # Scenes are changed by dozens of events at once; one look afterwards is enough.
        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.setInterval(_WAIT_MILLISECONDS)
        self._timer.connect("timeout()", self._check)

    def nodes(self) -> list[Any]:
        """The chosen volumes, one for each channel; None where nothing is chosen."""
        parameters = self.panel.parameters
        if not parameters:
            return []
        return [parameters.inputVolume, *self.further.nodes()]

    def choose(self, nodes: list[Any]) -> None:
        """Choose volumes, one for each channel, and show the first."""
        self.panel.parameters.inputVolume = nodes[0]
        for number, node in enumerate(nodes[1:], 1):
            self.logic.setFurtherVolume(number, node)
        show_volume(nodes[0])
        self.panel.update()

    def problem(self) -> str:
        """Why these volumes cannot be segmented; empty if they can."""
        if not all(self.nodes()) or not self.nodes():
            return str(_("Choose the volume to segment"))
        return self.fit.problem

    def update(self) -> None:
        """Show the channels and look at the volumes, if anything changed."""
        entry = self.panel.entry
        channels = entry.package.card.channels if entry and entry.package else ()
        names = [channel.name for channel in channels]
        self.ui.inputVolumeLabel.text = _("&Volume:") if len(names) < 2 else _("{name}:").format(name=names[0])
        self.further.show(names)
        parameters = self.panel.parameters
        self.ui.drawRoiButton.enabled = bool(parameters and parameters.inputVolume)
        if self._state() != self._checked:
            self._timer.start()

    def scene_closing(self) -> None:
        """Forget the volumes."""
        self._timer.stop()
        self._checked = None
        self._show(Fit(), False)

    def cleanup(self) -> None:
        """Look no more."""
        self._timer.stop()

    def _further_volume(self, number: int) -> Any:
        return self.logic.furtherVolume(number) if self.panel.parameters else None

    def _further_chosen(self, number: int, node: Any) -> None:
        if self.panel.parameters:
            self.logic.setFurtherVolume(number, node)
            self.panel.update()

    def _draw_region(self) -> None:
        self.panel.parameters.roi = region_around(self.panel.parameters.inputVolume)

    # The check

    def _state(self) -> Any:
        """What the answer of the check depends on."""
        entry = self.panel.entry
        package = entry.package if entry else None
        roi = self.panel.parameters.roi if self.panel.parameters else None
        nodes = self.nodes()
        stamps = tuple((node.GetID(), node.GetMTime()) if node else None for node in (*nodes, roi))
        return (package.checksum if package else "", stamps)

    def _check(self) -> None:
        entry, nodes = self.panel.entry, self.nodes()
        self._checked = self._state()
        if not entry or not entry.package or not nodes or not all(nodes):
            self._show(Fit(), False)
        else:
            self._show(check_nodes(nodes, entry.package, self.panel.parameters.roi), True)
        self.panel.update()

    def _show(self, fit: Fit, looked: bool) -> None:
        self.fit = fit
        icon, text = "fits", _("The volume is like those that the student was made from.")
        if fit.problem:
            icon, text = "problem", fit.problem
        elif fit.warnings:
            icon, text = "warning", "\n".join(fit.warnings)
        self.ui.checkIconLabel.visible = self.ui.checkLabel.visible = looked
        self.ui.checkIconLabel.setPixmap(self.panel.icon(icon).pixmap(16, 16))
        self.ui.checkLabel.text = text
