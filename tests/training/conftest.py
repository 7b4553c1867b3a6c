"""Rows and a vocabulary for the tests of training."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.tiny import make_data


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `make_data` fills, for the tests of one file."""
    return make_data(tmp_path_factory.mktemp("data"))
