"""Hypothesis runs the same examples everywhere: a failure in CI is a failure at the desk."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "fixed", derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
settings.load_profile("fixed")


@pytest.fixture(scope="session")
def models() -> Path:
    """The folder of the models that the repository ships."""
    return Path(__file__).resolve().parent.parent / "models"


@pytest.fixture
def source(tmp_path: Path, models: Path) -> Path:
    """A copy of a small model, alone in a folder."""
    return Path(shutil.copy(models / "digits_gru.onnx", tmp_path / "gru.onnx"))
