"""The runs of single concepts inside a runner's: each begins when its concept is measured, and says how it ended.

They have no heartbeat of their own: each would wait for half a second for its thread to end. So no automation notices
when their runner dies, and they are ended here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.runtime import flow_run
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.states import Crashed

FLOW = "finish-concept"
_NIGHT: ContextVar[str] = ContextVar("night")


@contextmanager
def of_one_share() -> Iterator[None]:
    """Runs that begin within this block do not beat, and know their night without asking for it."""
    token = _NIGHT.set(night())
    try:
        with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
            yield
    finally:
        _NIGHT.reset(token)


def night() -> str:
    """Id of the run that all of this is part of; empty outside of runs."""
    return _NIGHT.get("") or str(flow_run.root_flow_run_id or flow_run.id or "")


def end_orphans() -> None:
    """Mark the concepts' runs whose runner has ended without them as crashed."""
    running = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING]))
    with get_client(sync_client=True) as client:
        concepts = client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=[FLOW])), flow_run_filter=FlowRunFilter(state=running)
        )
        for concept in concepts:
            if _has_lost_its_runner(client, concept):
                client.set_flow_run_state(concept.id, Crashed(message="its runner has ended"), force=True)


def _has_lost_its_runner(client: SyncPrefectClient, concept: FlowRun) -> bool:
    if concept.parent_task_run_id is None:
        return False
    runner = client.read_task_run(concept.parent_task_run_id).flow_run_id
    state = client.read_flow_run(runner).state if runner else None
    return state is not None and state.is_final()
