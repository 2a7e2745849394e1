"""Fixtures of the training tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from raw_dataset import make_raw_dataset


@pytest.fixture(scope="session")
def raw_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six cases of two labels in one channel, oblique ones among them; not to be changed by a test."""
    return make_raw_dataset(tmp_path_factory.mktemp("raw data, größer") / "Dataset901_Blobs")
