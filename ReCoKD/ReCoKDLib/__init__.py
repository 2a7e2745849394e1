"""ReCoKD: run distilled segmentation networks on volumes (the numbers, the Slicer bridge and the screens)."""

from __future__ import annotations

__version__ = "0.1.0"
