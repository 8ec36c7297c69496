"""What people see: the night in the Prefect UI, its version in the MLflow UI.

    pytest tests/browser --pictures docs/pictures --home var      pictures of a real night, after `make demo`

takes the screenshots of the README; without options, the worker of `make up` runs a tiny night first.
"""

from __future__ import annotations

import json
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import Stack
from tests.tiny_night import write_list, write_suite

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(900)]
DEPLOYMENT = "nightly-erasure/nightly-erasure"
PATIENCE = 60_000  # milliseconds; a page's first view compiles half of a web application


def ask(url: str, body: dict[str, Any] | None = None) -> Any:
    """A request to a JSON API of this machine, past any proxy."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
        return json.load(answer)


def start_tiny_night(stack: Stack, base: Path, folder: Path) -> str:
    """Have the worker run a tiny night; returns the run's id."""
    wanted = yaml.safe_load(write_list(folder, base, write_suite(folder)).read_text(encoding="utf-8"))
    parameters = {**wanted, **wanted["gates"]}
    del parameters["gates"]
    deployment = ask(f"{stack.prefect}/api/deployments/name/{DEPLOYMENT}")
    run = ask(
        f"{stack.prefect}/api/deployments/{deployment['id']}/create_flow_run",
        {"parameters": parameters, "state": {"type": "SCHEDULED"}},
    )
    return str(run["id"])


def wait_until_completed(stack: Stack, run: str) -> None:
    deadline = time.monotonic() + 600
    while (state := ask(f"{stack.prefect}/api/flow_runs/{run}")["state"])["type"] != "COMPLETED":
        assert state["type"] in ("SCHEDULED", "PENDING", "RUNNING"), state["message"]
        assert time.monotonic() < deadline, f"the run is still {state['name']}"
        time.sleep(1)


def last_night(stack: Stack) -> str:
    """Id of the latest night of the home that is shown."""
    nights = {
        "flows": {"name": {"any_": ["nightly-erasure"]}},
        "flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}},
        "sort": "END_TIME_DESC",
        "limit": 1,
    }
    return str(ask(f"{stack.prefect}/api/flow_runs/filter", nights)[0]["id"])


@pytest.fixture(scope="module")
def night(stack: Stack, shown_home: Path | None, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    if shown_home:
        return last_night(stack)
    run = start_tiny_night(stack, tiny_base, tmp_path_factory.mktemp("night"))
    wait_until_completed(stack, run)
    return run


@pytest.fixture
def page(browser: Browser) -> Page:
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.set_default_timeout(PATIENCE)
    expect.set_options(timeout=PATIENCE)
    return page


def test_the_night_is_seen_in_the_prefect_ui(page: Page, stack: Stack, night: str, pictures: Path) -> None:
    page.goto(f"{stack.prefect}/runs/flow-run/{night}")
    expect(page.get_by_text("Completed").first).to_be_visible()
    expect(page.get_by_text("write report").first).to_be_visible()  # the last step, in the graph or the log
    page.screenshot(path=pictures / "prefect-run.png")


@pytest.mark.usefixtures("night")
@pytest.mark.parametrize(("key", "seen"), [("night", "published"), ("plan", "Base model"), ("grid", "gates")])
def test_the_nights_artifacts_are_seen_in_the_prefect_ui(
    page: Page, stack: Stack, pictures: Path, key: str, seen: str
) -> None:
    found = ask(f"{stack.prefect}/api/artifacts/latest/filter", {"artifacts": {"key": {"like_": f"{key}%"}}})
    page.goto(f"{stack.prefect}/artifacts/artifact/{found[0]['latest_id']}")
    expect(page.get_by_text(seen).first).to_be_visible()
    if key == "grid":
        loaded = "() => [...document.images].some(image => image.src.startsWith('data:') && image.naturalWidth > 0)"
        page.wait_for_function(loaded)
    page.screenshot(path=pictures / f"prefect-{key}.png")


@pytest.mark.usefixtures("night")
def test_the_version_is_seen_in_the_mlflow_ui(page: Page, stack: Stack, pictures: Path) -> None:
    models = ask(f"{stack.mlflow}/api/2.0/mlflow/registered-models/search")["registered_models"]
    name = min(model["name"] for model in models)
    page.goto(f"{stack.mlflow}/#/models/{name}/versions/1")
    expect(page.get_by_text(name).first).to_be_visible()
    expect(page.get_by_text("esd.job_digest").first).to_be_visible()
    page.get_by_role("button", name="Close").click()  # the assistant beside it
    page.screenshot(path=pictures / "mlflow-version.png")
