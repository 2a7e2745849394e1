"""Qt widgets and helpers. The only part of the library that imports qt and ctk."""

from __future__ import annotations
