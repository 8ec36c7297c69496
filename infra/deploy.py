"""Put onto a Prefect server what this project needs there: work pools, automations, deployments. Again: no change.

    PREFECT_API_URL=https://prefect.example.org/api python -m infra.deploy

A work pool that is there stays as it is, so that `esd-gpu` may be one of Kubernetes or Docker (infra/work_pools).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from esd_core.errors import EsdError, InvalidInput, ServiceUnavailable
from infra.processes import child_environment
from tasks.settings import Settings, get_settings

PROJECT = Path(__file__).resolve().parent.parent
AUTOMATIONS = PROJECT / "infra" / "automations"
WEBHOOK = "esd-notices"  # name of the block
QUIET = {"PREFECT_CLI_PROMPT": "false", "PREFECT_CLI_COLORS": "false"}


def require_prefect(url: str) -> None:
    """Raise ServiceUnavailable where no Prefect server answers, InvalidInput where it wants another password."""
    from httpx import HTTPStatusError
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        fault = client.api_healthcheck()
        if fault:
            raise ServiceUnavailable(f"Prefect at {url} does not answer: {fault}; start it, or unset PREFECT_API_URL")
        try:
            client.hello()
        except HTTPStatusError as e:
            told = f"Prefect at {url} refuses us ({e.response.status_code} {e.response.reason_phrase})"
            raise InvalidInput(f"{told}: set PREFECT_API_AUTH_STRING to user:password") from e


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


def put_automations(settings: Settings) -> None:
    """Make the automations of infra/automations, or make them again as the files say; notices if there is a webhook."""
    from prefect.client.orchestration import get_client
    from prefect.events.schemas.automations import AutomationCore

    wanted = [_read(path) for path in sorted(AUTOMATIONS.glob("*.yaml"))]
    if settings.notice_webhook:
        webhook = _put_webhook(settings.notice_webhook.get_secret_value())
        wanted += [_calling(_read(path), webhook) for path in sorted(AUTOMATIONS.glob("notices/*.yaml"))]
    with get_client(sync_client=True) as client:
        for automation in map(AutomationCore.model_validate, wanted):
            there = client.read_automations_by_name(automation.name)
            if there:
                client.update_automation(there[0].id, automation)
            else:
                client.create_automation(automation)


def _read(path: Path) -> dict[str, Any]:
    automation: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return automation


def _put_webhook(url: str) -> str:
    """Keep the webhook's address in a block of the server; returns the block's id."""
    from prefect.blocks.webhook import Webhook

    headers = {"Content-Type": "application/json"}
    block: Any = Webhook(method="POST", url=url, headers=headers)
    return str(block.save(WEBHOOK, overwrite=True))


def _calling(automation: dict[str, Any], webhook: str) -> dict[str, Any]:
    return {**automation, "actions": [{**action, "block_document_id": webhook} for action in automation["actions"]]}


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
        require_prefect(settings.prefect_api_url)
        put_work_pools(settings)
        put_automations(settings)
        put_deployments()
    except EsdError as e:
        sys.stderr.write(f"error: {e}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
