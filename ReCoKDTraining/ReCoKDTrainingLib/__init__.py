"""ReCoKD training: datasets, losses, distiller, trainer and evaluation."""

from __future__ import annotations
