"""Options of the browser tests, and what they need: Debian's chromium and the whole stack of `make up`."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from infra.processes import free_port
from tests.postgres import NoPostgres, private_cluster

PROJECT = Path(__file__).parents[2]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("browser")
    group.addoption("--pictures", type=Path, help="folder for the screenshots, e.g. docs/pictures (default: temporary)")
    group.addoption("--home", type=Path, help="show the last night of this home, e.g. var, instead of a tiny one")


@dataclass(frozen=True)
class Stack:
    """Addresses of a running `make up`, and the home it works on."""

    home: Path
    prefect: str
    mlflow: str


@pytest.fixture(scope="module")  # ends with these tests: an open Playwright keeps an event loop running
def browser() -> Iterator[Browser]:
    executable = shutil.which("chromium")
    if executable is None:
        pytest.skip("no chromium on this machine: apt-get install chromium")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def pictures(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = request.config.getoption("pictures", default=None) or tmp_path_factory.mktemp("pictures")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def shown_home(request: pytest.FixtureRequest) -> Path | None:
    home: Path | None = request.config.getoption("home", default=None)
    return home.resolve() if home else None


@pytest.fixture(scope="module")
def database(shown_home: Path | None) -> Iterator[dict[str, str]]:
    """PostgreSQL behind Prefect where there is one: SQLite knows the nights of a home, but stalls on a busy machine."""
    if shown_home:
        yield {}
        return
    try:
        with private_cluster("prefect") as address:
            behind = f"{address.replace('postgresql:', 'postgresql+asyncpg:')}/prefect"
            yield {"PREFECT_SERVER_DATABASE_CONNECTION_URL": behind}
    except NoPostgres:
        yield {}


@pytest.fixture(scope="module")
def stack(
    browser: Browser, shown_home: Path | None, database: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """`make up`, started for these tests and stopped with Ctrl-C. Not started at all where there is no browser."""
    assert browser.is_connected()
    home = shown_home or tmp_path_factory.mktemp("up")
    ports = {name: str(free_port()) for name in ("ESD_S3_PORT", "ESD_MLFLOW_PORT", "ESD_PREFECT_PORT")}
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("ESD_", "PREFECT_", "MLFLOW_", "AWS_"))}
    process = subprocess.Popen(
        [sys.executable, "-m", "infra.local_stack"],
        cwd=PROJECT,
        env={**inherited, **database, **ports, "ESD_HOME": str(home)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield _announced(process, home)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    finally:
        process.kill()


def _announced(process: subprocess.Popen[str], home: Path) -> Stack:
    """The addresses that `make up` prints once everything runs."""
    assert process.stdout
    said = ""
    for line in process.stdout:
        said += line
        if "Ctrl-C" in line:
            break
    addresses = dict(re.findall(r"^(Prefect|MLflow) +(http://\S+)$", said, re.MULTILINE))
    return Stack(home, addresses["Prefect"], addresses["MLflow"])
