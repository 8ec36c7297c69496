"""A version's page in the MLflow UI, in a real browser: all that an auditor asks, without opening anything else."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from infra.processes import free_port, locked, start, stop, wait_until_healthy
from infra.servers import mlflow_server
from tasks.approvals import approval
from tasks.records.runs import code_version
from tasks.releases.release import publish
from tasks.settings import Settings
from tests.integration.conftest import Made

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: apt-get install chromium"),
]

Make = Callable[..., Made]
MODEL = "esd-miniature-sun"


@pytest.fixture
def mlflow_of_the_home(settings: Settings) -> Iterator[str]:
    server = mlflow_server(settings.model_copy(update={"mlflow_port": free_port()}))
    lock, log = settings.home / "ui.lock", settings.home / "ui.log"
    with locked(lock):
        process = start(server, lock, log)
        try:
            wait_until_healthy(server, process, log, 240)
            yield server.address
        finally:
            stop(process)


@pytest.mark.usefixtures("bucket")
def test_a_versions_page_answers_everything(make: Make, mlflow_of_the_home: str, tmp_path: Path) -> None:
    first, second = make(seed=1).register(), make(seed=2, after=15).register()
    approval.approve(MODEL, 1, "Ada Lovelace", "looked at the grid")
    publish(MODEL, 1, by="night")
    approval.reject(MODEL, 2, "Grace Hopper", "towers lost")
    approval.approve(MODEL, 2, "Ada Lovelace", "for the study only", override=True)
    uri = publish(MODEL, 2, by="night").uri
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 1800})
        page.goto(f"{mlflow_of_the_home}/#/models/{MODEL}/versions/2")
        page.get_by_role("table").filter(has_text="who").first.wait_for(timeout=60_000)  # Markdown that is rendered
        text = page.inner_text("body")
        page.screenshot(path=tmp_path / "version.png")
        browser.close()
    expected = {
        "what, from which base": "sun erased from miniature with esd-u",
        "base digest": second.job.base_digest,
        "weights": second.weights_digest,
        "recipe": "negative_guidance",
        "code": f"esd-pipeline {code_version()}",
        "cost": "95.0%",
        "gates": "FAILED",
        "who rejected and why": "towers lost",
        "who approved, and how": "approved against its gates",
        "why": "for the study only",
        "where": uri,
        "what it replaced": f"in place of version {first.version}",
    }
    assert {name: wanted for name, wanted in expected.items() if wanted not in text} == {}
