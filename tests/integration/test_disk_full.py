"""No room on the disk: one line that names the file, and the same command continues when there is room."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
QUICK = ("--kind", "object", "--iterations", "6", "--lr", "2e-4", "--negative-guidance", "2", "--rollout-steps", "4")
LARGEST = 50_000  # bytes of a file: less than the weights have


@pytest.mark.slow
def test_a_full_disk_is_named_in_one_line_and_the_same_command_continues(tiny_base: Path, tmp_path: Path) -> None:
    out = tmp_path / "house.safetensors"
    command = [sys.executable, "-m", "flows.cli", "erase", "house", "--base", str(tiny_base), "--out", str(out), *QUICK]
    environment = {**os.environ, "ESD_HOME": str(tmp_path / "home"), "PYTHONPATH": str(PROJECT)}

    def full() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST, LARGEST))

    refused = subprocess.run(command, env=environment, check=False, capture_output=True, text=True, preexec_fn=full)
    assert refused.returncode == 2, refused.stderr
    (line,) = (line for line in refused.stderr.splitlines() if line.startswith("esd: "))
    assert re.match(rf"esd: no room to write {tmp_path}/home/\S+: File too large; free some, or work on another", line)
    assert "Traceback" not in refused.stderr
    assert not out.exists()
    assert not list(tmp_path.rglob("*.partial"))

    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert out.stat().st_size > LARGEST
