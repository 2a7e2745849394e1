"""Errors that a user can act on: the message says what is wrong and what to do."""

from __future__ import annotations


class ReCoKDError(Exception):
    """Base of all errors whose message is meant for the user; a door prints it without a traceback."""


class InputError(ReCoKDError):
    """An input volume is missing, unreadable or of the wrong kind."""


class PlanError(ReCoKDError):
    """A plan describes something that cannot be built or run."""


class PackageError(ReCoKDError):
    """A model package is damaged, incomplete, unsafe or of an unknown version."""


class DatasetError(ReCoKDError):
    """A training dataset contradicts itself or its description."""


class OutputError(ReCoKDError):
    """A result cannot be written where it was asked for."""


class MissingDependencyError(ReCoKDError):
    """A Python package that the task needs is not installed."""


class Cancelled(ReCoKDError):  # noqa: N818 - not an error of anybody's
    """The user cancelled; nothing was changed."""
