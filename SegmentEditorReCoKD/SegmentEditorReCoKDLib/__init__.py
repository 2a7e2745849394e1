"""The effect ReCoKD of Slicer's Segment Editor."""

from __future__ import annotations
