"""What lands on an empty Prefect server in one go, and stays the same when it is done again."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.settings import PREFECT_API_URL
from prefect.testing.utilities import prefect_test_harness

from infra.processes import child_environment

pytestmark = pytest.mark.slow
PROJECT = Path(__file__).parents[2]
WRITTEN = yaml.safe_load((PROJECT / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]


@pytest.fixture(scope="module")
def client() -> Iterator[SyncPrefectClient]:
    with prefect_test_harness(server_startup_timeout=120), get_client(sync_client=True) as client:
        yield client


@pytest.fixture(scope="module", params=["first", "second"])
def landed(request: pytest.FixtureRequest, client: SyncPrefectClient) -> dict[str, Any]:
    """Deployments by name, on a server that was empty, and once more."""
    done = subprocess.run(
        [sys.executable, "-m", "infra.deploy"],
        check=False,
        capture_output=True,
        text=True,
        env=child_environment({"PREFECT_API_URL": str(PREFECT_API_URL.value())}),
        cwd=PROJECT,
    )
    assert done.returncode == 0, done.stderr
    assert request.param
    found = client.request("POST", "/deployments/filter", json={}).json()
    return {deployment["name"]: deployment for deployment in found}


def test_every_deployment_lands_once(landed: dict[str, Any], client: SyncPrefectClient) -> None:
    assert sorted(landed) == sorted(row["name"] for row in WRITTEN)
    assert client.request("POST", "/deployments/count", json={}).json() == len(WRITTEN)
    assert {"nightly-erasure", "erase", "evaluate", "approve", "publish", "rollback", "withdraw"} <= set(landed)
    for row in WRITTEN:
        there = landed[row["name"]]
        assert there["entrypoint"] == row["entrypoint"]
        assert there["work_pool_name"] == row["work_pool"]["name"]
        assert there["tags"] == row["tags"]
        assert there["parameters"] == row.get("parameters", {})


def test_nights_have_a_schedule_and_do_not_run_over_each_other(landed: dict[str, Any]) -> None:
    night = landed["nightly-erasure"]
    assert [row["schedule"]["cron"] for row in night["schedules"]] == ["0 2 * * *"]
    assert night["global_concurrency_limit"]["limit"] == 1
    assert night["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"


@pytest.mark.usefixtures("landed")
def test_two_work_pools_and_the_end_of_silent_runs_are_there_once(client: SyncPrefectClient) -> None:
    pools = {pool["name"] for pool in client.request("POST", "/work_pools/filter", json={}).json()}
    assert pools == {"esd", "esd-gpu"}
    names = [automation.name for automation in client.read_automations()]
    assert names == ["esd silent runs have crashed"]
