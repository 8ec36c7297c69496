"""The `esd` command in a process and a home of its own, with everything embedded; and concept lists to give it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from infra.local_stack import embedded_s3
from tasks.settings import Settings

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

PROJECT = Path(__file__).parents[2]
FOREIGN = ("ESD_", "PREFECT_", "MLFLOW_", "AWS_")  # settings of whoever runs the tests
BUCKET = "esd-releases"


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def refusal(self) -> str:
        """What a refused command says: one line, after nothing but the announcements of what it is doing."""
        *before, last = self.err.splitlines() or [""]
        assert self.code == 2, self.err
        assert last.startswith("esd: ")
        assert all(line.endswith(" ...") for line in before), self.err
        return last


@dataclass(frozen=True)
class Esd:
    """`settings` are environment variables besides ESD_HOME."""

    home: Path
    settings: tuple[tuple[str, str], ...] = ()

    def having(self, **settings: object) -> Esd:
        return Esd(self.home, (*self.settings, *((name, str(value)) for name, value in settings.items())))

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
        return subprocess.Popen(
            [sys.executable, "-m", "flows.cli", *map(str, arguments)],
            env={**inherited, "ESD_HOME": str(self.home), "PYTHONPATH": str(PROJECT), **dict(self.settings)},
            cwd=self.home.parent,  # no command may need the project's folder
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ended(self, *arguments: object) -> Ended:
        """Run to the end, whatever that is; a traceback is none."""
        process = self.start(*arguments)
        try:
            out, err = process.communicate(timeout=600)
        finally:
            process.kill()
        assert "Traceback" not in err
        return Ended(process.returncode, out, err)

    def __call__(self, *arguments: object) -> Ended:
        """Run to the end, which must be good."""
        ended = self.ended(*arguments)
        assert ended.code == 0, ended.err
        return ended

    @property
    def left_running(self) -> list[str]:
        """Command lines of processes that mention this home."""
        lines = subprocess.run(["ps", "-ewwo", "args"], check=True, capture_output=True, text=True).stdout.splitlines()
        return [line for line in lines if str(self.home) in line]

    @contextmanager
    def s3(self) -> Iterator[S3Client]:
        """The AWS SDK, connected to this home's embedded S3."""
        import boto3

        with embedded_s3(Settings(home=self.home)) as address:
            yield boto3.client(
                "s3",
                endpoint_url=address,
                region_name="us-east-1",
                aws_access_key_id="any",
                aws_secret_access_key="any",
            )

    @property
    def versions(self) -> dict[tuple[str, int], dict[str, str]]:
        """Tags of every registered version, by concept and version, as MLflow itself tells them."""
        from mlflow import MlflowClient

        found = MlflowClient(f"sqlite:///{self.home}/mlflow.db").search_model_versions()
        return {(version.tags["esd.concept"], int(version.version)): version.tags for version in found}


def objects(s3: S3Client) -> set[str]:
    """Every key of the release bucket."""
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
    return {item["Key"] for page in pages for item in page.get("Contents", [])}


def wait_for(condition: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.02)


def write_list(path: Path, base: Path, suite: Path, approval: str, *concepts: dict[str, object]) -> Path:
    """A concept list whose gates let everything pass."""
    whole = {
        "base": str(base),
        "suite": str(suite),
        "images_per_probe": 2,
        "gates": {"erased_at_most": 1.0, "others_drop_at_most": 1.0},
        "approval": approval,
        "concepts": list(concepts),
    }
    path.write_text(yaml.safe_dump(whole), encoding="utf-8")
    return path
