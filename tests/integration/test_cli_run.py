"""`esd run` as people run it: embedded parts, killed in the middle, run again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from esd_core import digest
from tests.integration.tiny import write_list, write_suite

PROJECT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def esd(home: Path, *arguments: str) -> list[str]:
    """The command line, and nothing from this machine's environment but what programs need."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("ESD_", "PREFECT_", "MLFLOW_"))}
    os.environ.clear()
    os.environ.update({**environment, "ESD_HOME": str(home), "PYTHONPATH": str(PROJECT)})
    return [sys.executable, "-m", "flows.cli", *arguments]


@pytest.fixture(autouse=True)
def same_environment_afterwards() -> object:
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)
