"""Put onto a Prefect server what this project needs there: work pools, automations, deployments. Again: no change.

    PREFECT_API_URL=https://prefect.example.org/api python -m infra.deploy

A work pool that is there stays as it is, so that `esd-gpu` may be one of Kubernetes or Docker (infra/work_pools).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import yaml

from esd_core.errors import EsdError, InvalidInput, ServiceUnavailable
from infra.processes import child_environment
from tasks.settings import Settings, get_settings

PROJECT = Path(__file__).resolve().parent.parent
AUTOMATIONS = PROJECT / "infra" / "automations"
QUIET = {"PREFECT_CLI_PROMPT": "false", "PREFECT_CLI_COLORS": "false"}


def put_work_pools(settings: Settings) -> None:
    """Make the pools that are missing, of type process: one for nights, one for runners."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectNotFound
    from prefect.workers.process import ProcessWorker

    template = ProcessWorker.get_default_base_job_template()
    with get_client(sync_client=True) as client:
        for name in (settings.work_pool, settings.gpu_work_pool):
            try:
                client.read_work_pool(name)
            except ObjectNotFound:
                client.create_work_pool(WorkPoolCreate(name=name, type="process", base_job_template=template))


def put_automations() -> None:
    """Make the automations of infra/automations, or make them again as the files say."""
    from prefect.client.orchestration import get_client
    from prefect.events.schemas.automations import AutomationCore

    with get_client(sync_client=True) as client:
        for path in sorted(AUTOMATIONS.glob("*.yaml")):
            wanted = AutomationCore.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
            there = client.read_automations_by_name(wanted.name)
            if there:
                client.update_automation(there[0].id, wanted)
            else:
                client.create_automation(wanted)


def put_deployments() -> None:
    """Register the deployments of prefect.yaml."""
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "deploy", "--all"],
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=child_environment(QUIET),
        cwd=PROJECT,
    )
    if done.returncode:
        said = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise ServiceUnavailable(f"`prefect deploy --all` failed: {said[-1] if said else 'it said nothing'}")


def main() -> int:
    settings = get_settings()
    try:
        if not settings.prefect_api_url:
            raise InvalidInput("set PREFECT_API_URL to the Prefect server that shall have the deployments")
        put_work_pools(settings)
        put_automations()
        put_deployments()
    except EsdError as e:
        sys.stderr.write(f"error: {e}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
