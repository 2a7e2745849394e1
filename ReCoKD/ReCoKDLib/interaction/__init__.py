"""From a first result to a correct one in a few clicks: the numbers, without Slicer and without Qt."""

from __future__ import annotations
