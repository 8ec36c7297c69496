"""Events that automations make notices of: what of a night a person must look at. infra/automations/notices."""

from __future__ import annotations

from prefect import runtime
from prefect.events import emit_event

from tasks.nights.night import Night, Settled

GATES_NOT_PASSED, APPROVAL_WAITING = "esd.gates.not-passed", "esd.approval.waiting"
NAMED = 20  # concepts that a notice names


def tell(night: Night) -> None:
    """Emit an event for what was made tonight and did not pass, and one for what waits for a person."""
    made = [row for row in night.settled if row.tonight == "done"]
    _emit(GATES_NOT_PASSED, "did not pass the gates", [row for row in made if row.outcome == "gates not passed"])
    _emit(
        APPROVAL_WAITING,
        "passed the gates and wait for approval",
        [r for r in made if r.outcome == "waits for approval"],
    )


def _emit(event: str, what: str, rows: list[Settled]) -> None:
    if not rows:
        return
    names = ", ".join(f"{row.concept} ({row.version})" for row in rows[:NAMED])
    more = f" and {len(rows) - NAMED} more" if len(rows) > NAMED else ""
    resource = {
        "prefect.resource.id": f"prefect.flow-run.{runtime.flow_run.id}",
        "prefect.resource.name": str(runtime.flow_run.name),
    }
    emit_event(event, resource=resource, payload={"text": f"{len(rows)} concepts {what}: {names}{more}"})
