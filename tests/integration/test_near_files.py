"""A machine publishes what it made itself without fetching it again, as long as it still is what was registered."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.approvals import approval
from tasks.nights.jobs import JobFiles
from tasks.records.registry import RegisteredVersion
from tasks.releases.release import publish, verify
from tasks.s3.storage import Bucket
from tasks.settings import Settings
from tests.integration.conftest import Made

Make = Callable[..., Made]


@pytest.fixture
def here(settings: Settings, bucket: Bucket, make: Make) -> tuple[RegisteredVersion, Path]:
    """An approved version, and the folder in which this machine has its files."""
    assert bucket.listing() == {}
    made = make()
    version = made.register()
    folder = JobFiles.of(settings.jobs_folder, made.job).folder
    folder.mkdir(parents=True)
    for name, path in made.files.items():
        shutil.copyfile(path, folder / name)
    approval.approve(version.model, 1, "Ada", "fine")
    return version, folder


def stored(version: RegisteredVersion, name: str) -> Path:
    return Path(version.artifacts.removeprefix("file://")) / name


def test_what_lies_here_is_not_fetched(here: tuple[RegisteredVersion, Path]) -> None:
    version, folder = here
    for path in folder.iterdir():
        stored(version, path.name).unlink()
    assert verify(publish(version.model, 1).uri) == []


def test_what_was_altered_here_is_fetched(here: tuple[RegisteredVersion, Path]) -> None:
    version, folder = here
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert verify(publish(version.model, 1).uri) == []
    assert (folder / "weights.safetensors").read_bytes().endswith(b"!")
