"""What people see: the night in the Prefect UI, its version in the MLflow UI.

    pytest tests/browser --pictures docs/pictures --home var      pictures of a real night, after `make demo`

takes the screenshots of the README; without options, the worker of `make up` runs a tiny night first.
"""

from __future__ import annotations

import json
import re
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser.conftest import Stack
from tests.tiny_night import write_list, write_suite

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(900)]
DEPLOYMENT = "nightly-erasure/nightly-erasure"
PATIENCE = 180_000  # milliseconds; a page's first view compiles half of a web application


def ask(url: str, body: dict[str, Any] | None = None) -> Any:
    """A request to a JSON API of this machine, past any proxy."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
        return json.load(answer)


def start_tiny_night(stack: Stack, base: Path, folder: Path) -> str:
    """Have the worker run a tiny night; returns the run's id."""
    wanted = yaml.safe_load(write_list(folder, base, write_suite(folder)).read_text(encoding="utf-8"))
    parameters = {**wanted, **wanted["gates"], "concept_list": ""}
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
def page(browser: Browser) -> Iterator[Page]:
    """Closed after its test: an open page goes on asking the server."""
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.set_default_timeout(PATIENCE)
    expect.set_options(timeout=PATIENCE)
    yield page
    page.close()


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


@pytest.mark.usefixtures("night")
def test_prefect_leads_to_mlflow_and_back(page: Page, stack: Stack, shown_home: Path | None) -> None:
    if shown_home:
        pytest.skip("a night without an MLflow server has no page to lead to")
    artifact_of(page, stack, "grid-sun")
    to_mlflow = page.get_by_role("link", name=re.compile("version 1 in MLflow"))
    expect(to_mlflow).to_be_visible()
    page.goto(str(to_mlflow.get_attribute("href")))
    expect(page.get_by_text("esd.job_digest").first).to_be_visible()
    source = page.get_by_role("link", name=re.compile("^sun [0-9a-f]{8}$")).get_attribute("href")
    page.goto(f"{stack.mlflow}/{source}")
    back = page.get_by_role("link", name="Its run in Prefect")
    expect(back).to_be_visible()
    page.goto(str(back.get_attribute("href")))
    assert page.url.startswith(stack.prefect)
    expect(page.get_by_text("finish-concept").first).to_be_visible()


def field(page: Page, title: str) -> Locator:
    """A field of the run form by its title, the innermost where fields stand in fields."""
    label = f'.schema-form-property__label:text-matches("^{title}( \\\\(Optional\\\\))?$")'
    return page.locator(f".schema-form-property:has(> .p-label__header {label})")


def choose(page: Page, title: str, choice: str) -> None:
    """Pick a value from a field's menu, which must be a menu."""
    field(page, title).locator(".p-select, .p-select-button, .p-base-input").first.click()
    page.keyboard.press("ArrowDown")
    page.get_by_text(choice, exact=True).last.click()


def open_form(page: Page, stack: Stack, deployment: str) -> str:
    """The run form of a deployment; returns the deployment's id."""
    found = str(ask(f"{stack.prefect}/api/deployments/name/{deployment}")["id"])
    page.goto(f"{stack.prefect}/deployments/deployment/{found}/run")
    expect(page.get_by_role("button", name="Submit")).to_be_visible()
    return found


def submit(page: Page, stack: Stack, deployment: str) -> str:
    """Press the button, and wait until the run is completed; returns its id."""
    page.get_by_role("button", name="Submit").click()
    expect(page.get_by_role("button", name="Submit")).not_to_be_visible()
    runs = {"deployments": {"id": {"any_": [deployment]}}, "sort": "EXPECTED_START_TIME_DESC", "limit": 1}
    run = str(ask(f"{stack.prefect}/api/flow_runs/filter", runs)[0]["id"])
    wait_until_completed(stack, run)
    page.goto(f"{stack.prefect}/runs/flow-run/{run}")
    expect(page.get_by_text("Completed").first).to_be_visible()
    return run


def artifact_of(page: Page, stack: Stack, key: str) -> None:
    """Open the latest artifact of a key."""
    found = ask(f"{stack.prefect}/api/artifacts/latest/filter", {"artifacts": {"key": {"any_": [key]}}})
    page.goto(f"{stack.prefect}/artifacts/artifact/{found[0]['latest_id']}")


def test_a_person_fills_the_form_runs_it_sees_the_grid_and_approves(
    page: Page, stack: Stack, pictures: Path, tiny_base: Path, tmp_path: Path
) -> None:
    page.set_viewport_size({"width": 1440, "height": 1300})
    erase = open_form(page, stack, "erase/erase")
    page.get_by_role("button", name="Add item").first.click()
    field(page, "Concept").locator("textarea").fill("tree")
    choose(page, "Kind", "object")
    field(page, "Iterations").get_by_text("int", exact=True).click()
    field(page, "Iterations").locator("input[type=number]").fill("6")
    field(page, "Concept").scroll_into_view_if_needed()
    page.screenshot(path=pictures / "prefect-form.png")
    field(page, "base").locator("textarea").fill(str(tiny_base))
    field(page, "suite").locator("textarea").fill(str(write_suite(tmp_path)))
    for title, number in (("erased_at_most", "1"), ("others_drop_at_most", "1"), ("images_per_probe", "0")):
        field(page, title).locator("input").fill(number)
    page.get_by_role("button", name="Submit").click()
    expect(
        page.get_by_text("'images_per_probe'. Failure reason: 0 is less than the minimum of 1").first
    ).to_be_visible()
    field(page, "images_per_probe").locator("input").fill("2")
    submit(page, stack, erase)

    artifact_of(page, stack, "progress-tree")
    expect(page.get_by_text("tree: erased, measured, registered, settled").first).to_be_visible()
    artifact_of(page, stack, "grid-tree")
    page.wait_for_function("() => [...document.images].some(i => i.src.startsWith('data:') && i.naturalWidth > 0)")
    artifact_of(page, stack, "night")
    expect(page.get_by_text("waits for approval").first).to_be_visible()

    models = ask(f"{stack.mlflow}/api/2.0/mlflow/registered-models/search")["registered_models"]
    (model,) = (model["name"] for model in models if model["name"].endswith("-tree"))
    approve = open_form(page, stack, "approve/approve")
    for title, text in (("model", model), ("by", "Ada Lovelace"), ("reason", "the grid was looked at")):
        field(page, title).locator("textarea").fill(text)
    field(page, "version").locator("input").fill("1")
    choose(page, "decision", "approve")
    submit(page, stack, approve)
    named = ask(f"{stack.mlflow}/api/2.0/mlflow/registered-models/get?name={model}")["registered_model"]["aliases"]
    assert {"alias": "approved", "version": "1"} in named
