"""Shared fixtures."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import setuptools  # noqa: F401  (before anything imports the standard library's distutils, which it would refuse to replace)
import torch
from hypothesis import settings

# Nothing here is timed: the machine may have other work.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="session", autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory) -> None:
    # NNI writes lists of experiments into the home folder.
    os.environ["HOME"] = str(tmp_path_factory.mktemp("home"))
    # Tests run side by side; threads that wait for each other on busy cores cost more than they bring.
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    os.environ["NNI_CONFIG_DIR"] = str(tmp_path_factory.mktemp("nni"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real image sets; tests that need it are skipped where NASBENCH_DATA is not set."""
    root = os.environ.get("NASBENCH_DATA")
    if not root:
        pytest.skip("NASBENCH_DATA is not set: the real image sets are absent")
    return Path(root)
