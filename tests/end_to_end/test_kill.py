"""SIGKILL in the middle of an erasure: the same command goes on from there, and ends with the same bits."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from safetensors import safe_open

from esd_core.base_model import resolve_base
from esd_core.list_file import load_concept_list
from tasks.nights.jobs import JobFiles, job_of
from tests.end_to_end.command import Esd, objects, wait_for
from tests.end_to_end.conftest import SUN, Night

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def job_files(esd: Esd, concept_list: Path, concept: str) -> JobFiles:
    wanted = load_concept_list(concept_list)
    (entry,) = (entry for entry in wanted.concepts if entry.name == concept)
    return JobFiles.of(esd.home / "jobs", job_of([entry], resolve_base(wanted.base)))


def steps_done(checkpoint: Path) -> int:
    with safe_open(checkpoint, framework="numpy") as f:
        return len(json.loads(f.metadata()["progress"])["losses"])


def finished_releases(esd: Esd) -> set[str]:
    """Models with a manifest; a release without one would be half a release."""
    with esd.s3() as s3:
        released = {key.split("/")[1]: key for key in sorted(objects(s3)) if key.startswith("releases/")}
        manifests = {key.split("/")[1] for key in objects(s3) if key.endswith("/1/manifest.json")}
    assert set(released) == manifests
    return {model.rpartition("-")[2] for model in manifests}


def test_a_killed_night_continues_and_ends_with_the_same_bits(
    first_night: Night, concept_list: Path, tmp_path: Path
) -> None:
    esd = Esd(tmp_path / "home")
    sun = job_files(esd, concept_list, "sun")
    checkpoint = sun.folder / "checkpoint.safetensors"

    killed = esd.start("run", concept_list)
    wait_for(lambda: checkpoint.exists() or killed.poll() is not None, 600)
    killed.kill()  # the engine alone, by its own process id
    killed.communicate()
    assert killed.returncode == -9
    reached = steps_done(checkpoint)
    assert 0 < reached < int(str(SUN["iterations"]))
    assert not sun.weights.exists()
    wait_for(lambda: not esd.left_running, 60)
    assert set(esd.versions) == {("house", 1), ("tree", 1)}  # the cheapest come first
    assert finished_releases(esd) == {"house", "tree"}

    again = esd("run", concept_list)
    assert "3 concepts: 3 published" in again.out
    assert re.search(r"house\W+unchanged", again.out)
    assert f"continuing sun from step {reached}" in again.err
    assert not esd.left_running
    assert not checkpoint.exists()

    whole = first_night.esd
    first_versions = {("house", 1), ("sun", 1), ("tree", 1)}
    assert set(esd.versions) == first_versions
    for key in first_versions:
        for tag in ("esd.job_digest", "esd.weights_digest"):
            assert esd.versions[key][tag] == whole.versions[key][tag], (key, tag)
    assert sun.history.read_bytes() == job_files(whole, concept_list, "sun").history.read_bytes()
    assert finished_releases(esd) == {"house", "sun", "tree"}
