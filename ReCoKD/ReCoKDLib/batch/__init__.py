"""Many cases at once: finding them, the work of one, running them here or on a cluster, and the records of it all."""

from __future__ import annotations
