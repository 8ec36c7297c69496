"""Ctrl-C in the middle of `esd run`: one line, no traceback, and nothing left running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.tiny_night import write_list, write_suite

PROJECT = Path(__file__).parents[2]
FOREIGN = ("ESD_", "PREFECT_", "MLFLOW_", "AWS_")  # settings of whoever runs the tests


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ctrl_c_ends_a_night_with_one_line_and_leaves_nothing_running(tiny_base: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    concept_list = write_list(tmp_path, tiny_base, write_suite(tmp_path), iterations=2000, points_per_rollout=4)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    night = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "run", str(concept_list)],
        env={**inherited, "ESD_HOME": str(home), "PYTHONPATH": str(PROJECT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 300
        while not list(home.glob("jobs/*/checkpoint.safetensors")):
            assert night.poll() is None, night.communicate()
            assert time.monotonic() < deadline, "no checkpoint"
            time.sleep(0.05)
        night.send_signal(signal.SIGINT)
        _, err = night.communicate(timeout=60)
    finally:
        night.kill()

    assert night.returncode == 130
    assert "Traceback" not in err
    assert err.splitlines()[-1] == "esd: interrupted; the same command continues where it stopped"
    running = subprocess.run(["ps", "-eo", "args"], check=True, capture_output=True, text=True).stdout
    assert str(home) not in running
