"""`esd run` as people run it, with embedded parts: interrupted, killed, and run again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from esd_core import digest
from esd_core.base_model import resolve_base
from esd_core.concepts import load_concept_list
from esd_core.erasure import erase
from tasks.jobs import JobFiles, job_of
from tests.tiny_night import write_list, write_suite

PROJECT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


class Command:
    """The `esd` command with a home of its own."""

    def __init__(self, home: Path) -> None:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("ESD_", "PREFECT_", "MLFLOW_", "AWS_"))}
        self.home = home
        self.environment = {**inherited, "ESD_HOME": str(home), "PYTHONPATH": str(PROJECT)}

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "flows.cli", *arguments]
        return subprocess.Popen(
            command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def __call__(self, *arguments: str) -> str:
        """Run to the end, which must be good; returns what was printed."""
        process = self.start(*arguments)
        out, err = process.communicate()
        assert process.returncode == 0, err
        assert "Traceback" not in err
        return out

    @property
    def left_running(self) -> list[str]:
        """Processes that mention this home."""
        lines = subprocess.run(["ps", "-eo", "args"], check=True, capture_output=True, text=True).stdout.splitlines()
        return [line for line in lines if str(self.home) in line]


def wait_for(condition: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.02)


def test_interrupted_and_killed_it_continues_and_ends_with_the_same_weights(tiny_base: Path, tmp_path: Path) -> None:
    esd = Command(tmp_path / "home")
    concept_list = write_list(tmp_path, tiny_base, write_suite(tmp_path), iterations=2000, points_per_rollout=4)
    entry = load_concept_list(concept_list).concepts[0]
    base = resolve_base(str(tiny_base))
    job = job_of(entry, base)
    folder = JobFiles.of(esd.home / "jobs", job).folder
    checkpoint = folder / "checkpoint.safetensors"

    interrupted = esd.start("run", str(concept_list))
    wait_for(checkpoint.exists, 300)
    interrupted.send_signal(signal.SIGINT)
    _, err = interrupted.communicate(timeout=60)
    assert interrupted.returncode == 130
    assert "Traceback" not in err
    assert "continues where it stopped" in err
    assert not esd.left_running

    reached = checkpoint.stat().st_mtime_ns
    killed = esd.start("run", str(concept_list))
    wait_for(lambda: checkpoint.stat().st_mtime_ns > reached, 300)
    killed.kill()
    killed.communicate()
    wait_for(lambda: not esd.left_running, 30)
    assert not (folder / "weights.safetensors").exists()

    assert "2 concepts: 2 published" in esd("run", str(concept_list))
    assert not esd.left_running
    never_stopped = erase(job, base, tmp_path / "never stopped", progress=False)
    assert digest.of_file(folder / "weights.safetensors") == never_stopped.weights_digest

    assert "everything unchanged" in esd("run", str(concept_list), "--dry-run")
    status = esd("status")
    assert status.count("s3://esd-releases/releases/") == 2
    release = next(word for word in status.split() if word.startswith("s3://"))
    assert "whole and unaltered" in esd("verify", release)
