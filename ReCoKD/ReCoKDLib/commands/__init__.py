"""The subcommands of ``recokd``, one file each: its arguments, and what it prints."""

from __future__ import annotations
