"""Slicer's translation, for the widgets: ``from ..mrml.texts import _``."""

from __future__ import annotations

# Not wrapped: it finds the context of a text by the file that calls it.
from slicer.i18n import tr as _

__all__ = ["_"]
