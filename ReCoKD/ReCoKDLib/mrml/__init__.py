"""Slicer's MRML: volumes and segmentations in and out. The only part of the library that imports slicer."""

from __future__ import annotations
