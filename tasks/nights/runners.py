"""Runners: flow runs of the deployment `erase` on the GPU work pool, started, watched and called back by the night.

What a runner did is told by the states of its concepts' own runs, and lies in the registry and in S3; nothing is
handed back on a disk.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar
from uuid import UUID

from httpx import HTTPStatusError, TransportError
from prefect import runtime
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterId,
    FlowRunFilterParentFlowRunId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound, TerminationSignal
from prefect.states import Cancelling

from esd_core.concept_list import ListMode
from esd_core.errors import InvalidInput, ServiceUnavailable
from tasks.nights.concept_runs import end_orphans
from tasks.nights.plan import PlannedJob
from tasks.nights.shares import deal

log = logging.getLogger(__name__)

DEPLOYMENT = "erase/erase"
POLL = 2.0  # seconds between two looks at the runners
PATIENCE = 300.0  # seconds that the Prefect server may be away
DEALT_AGAIN = 2  # times that a concept is dealt again when its runner died
IDLE = 60.0  # seconds after which a share that nobody has taken is spoken of
PAGE = 200  # flow runs that Prefect tells in one answer
ALIVE = [
    StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING, StateType.PAUSED, StateType.CANCELLING
]  # fmt: skip
Answer = TypeVar("Answer")


@dataclass
class Share:
    """A runner's jobs. `again`: how often they were dealt again. done, failed: concept slugs, and why they failed."""

    jobs: tuple[PlannedJob, ...]
    again: int = 0
    since: float = field(default_factory=time.monotonic)
    spoken_of: bool = False
    done: frozenset[str] = frozenset()
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def left(self) -> tuple[PlannedJob, ...]:
        return tuple(p for p in self.jobs if p.slug not in self.done and p.slug not in self.failed)


class Runners:
    """The runners of one night, at most `at_once` at a time."""

    def __init__(self, at_once: int, parameters: Callable[[Sequence[PlannedJob]], dict[str, Any]]) -> None:
        """parameters: of the deployment, for some jobs."""
        self.at_once, self.parameters = at_once, parameters
        self.shares: dict[UUID, Share] = {}
        self.ended: list[Share] = []

    def erase(self, jobs: Sequence[PlannedJob], advance: Callable[[int], None]) -> dict[str, str]:
        """Have the jobs done; returns why concepts failed, by slug. advance: is told how many are at their end.

        What runners of a dead night are still at is waited for instead of being done twice. When a runner dies, what
        it had not finished is dealt again.
        """
        self.shares = _of_dead_nights(jobs)
        taken = {planned.slug for share in self.shares.values() for planned in share.jobs}
        for share in deal([planned for planned in jobs if planned.slug not in taken], self.at_once):
            self._start(Share(share))
        with _called_back_if_cancelled():
            while self.shares:
                time.sleep(POLL)
                for run in patiently(lambda: find_runs(id=FlowRunFilterId(any_=list(self.shares)))):
                    self._look(run)
                advance(sum(len(share.jobs) - len(share.left) for share in (*self.ended, *self.shares.values())))
        return {slug: why for share in self.ended for slug, why in share.failed.items()}

    def _start(self, share: Share) -> None:
        parameters = self.parameters(share.jobs)
        try:
            run: Any = patiently(lambda: run_deployment(DEPLOYMENT, parameters=parameters, timeout=0))
        except ObjectNotFound as e:
            raise InvalidInput(
                f"there is no deployment {DEPLOYMENT} on this Prefect server: `make up` or `prefect deploy --all` "
                "makes it; or run with one runner, in this process"
            ) from e
        log.info("%s: %s", run.name, ", ".join(planned.job.name for planned in share.jobs))
        self.shares[run.id] = share

    def _look(self, run: FlowRun) -> None:
        """Note how far a runner is. When it ended, its share is at its end; when it died, the rest is dealt again."""
        share = self.shares[run.id]
        share.done, share.failed = patiently(lambda: _told_by_concepts(run.id))
        if run.state is None or not run.state.is_final():
            _speak_of_idle(run, share)
            return
        del self.shares[run.id]
        self.ended.append(share)
        patiently(end_orphans)
        left = share.left
        if left and run.state.is_crashed() and share.again < DEALT_AGAIN:
            log.warning("%s died, dealt again: %s", run.name, ", ".join(planned.job.name for planned in left))
            share.jobs = tuple(planned for planned in share.jobs if planned not in left)
            self._start(Share(left, share.again + 1))
        else:
            share.failed |= dict.fromkeys((planned.slug for planned in left), _why(run))


@contextmanager
def _called_back_if_cancelled() -> Iterator[None]:
    """Call the runners back at once when this night is cancelled: the flow's hook, a process later, would be slow."""
    try:
        yield
    except TerminationSignal:
        night = UUID(str(runtime.flow_run.id))
        (own,) = find_runs(id=FlowRunFilterId(any_=[night]))
        if own.state and own.state.is_cancelling():
            call_back(night)
        raise


def call_back(night: UUID) -> None:
    """Cancel the runners of a night."""
    for run in find_runs(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[night]), state=_in(ALIVE)):
        if run.deployment_id and run.state_type is not StateType.CANCELLING:
            with get_client(sync_client=True) as client:
                client.set_flow_run_state(run.id, Cancelling(message="its night was cancelled"))


def find_runs(**conditions: Any) -> list[FlowRun]:
    """All flow runs that meet the conditions."""
    found: list[FlowRun] = []
    with get_client(sync_client=True) as client:
        while True:
            page = client.read_flow_runs(flow_run_filter=FlowRunFilter(**conditions), limit=PAGE, offset=len(found))
            found += page
            if len(page) < PAGE:
                return found


def patiently(ask: Callable[[], Answer]) -> Answer:
    """Ask the Prefect server, again and again while it is away; raises ServiceUnavailable in the end."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return ask()
        except (TransportError, HTTPStatusError) as e:
            refused = isinstance(e, HTTPStatusError) and e.response.status_code < 500
            if refused:
                raise
            if time.monotonic() > until:
                raise ServiceUnavailable(f"Prefect has not answered for {PATIENCE:.0f} s: {e}; start it again") from e
        time.sleep(POLL)


def _in(kinds: list[StateType]) -> FlowRunFilterState:
    return FlowRunFilterState(type=FlowRunFilterStateType(any_=kinds))


def _of_dead_nights(jobs: Sequence[PlannedJob]) -> dict[UUID, Share]:
    """Runners that are still at some of these jobs, by their flow run."""
    with get_client(sync_client=True) as client:
        try:
            deployment = patiently(lambda: client.read_deployment_by_name(DEPLOYMENT))
        except ObjectNotFound:
            return {}
    by_concepts = {tuple(concept.name for concept in planned.job.concepts): planned for planned in jobs}
    shares = {}
    for run in find_runs(deployment_id=FlowRunFilterDeploymentId(any_=[deployment.id]), state=_in(ALIVE)):
        names = [row["name"] for row in run.parameters.get("concepts", [])]
        mode = run.parameters.get("mode", ListMode.SEPARATE)
        groups = [(name,) for name in names] if mode == ListMode.SEPARATE else [tuple(names)]
        found = tuple(by_concepts.pop(group) for group in groups if group in by_concepts)
        if found:
            log.info("%s is still at %s", run.name, ", ".join(planned.job.name for planned in found))
            shares[run.id] = Share(found)
    return shares


def _told_by_concepts(run: UUID) -> tuple[frozenset[str], dict[str, str]]:
    """Slugs of a runner's concepts that are done, and why others failed, by their own runs' states."""
    own = find_runs(
        parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[run]),
        state=_in([StateType.COMPLETED, StateType.FAILED]),
    )
    done = frozenset(concept.name for concept in own if concept.state_type is StateType.COMPLETED)
    failed = {c.name: message_of(c) for c in own if c.state_type is StateType.FAILED}
    return done, failed


def message_of(run: FlowRun) -> str:
    """What a run's last state says, without Prefect's own words."""
    said = " ".join(str(run.state.message if run.state else "").split())
    return said.removeprefix("Flow run encountered an exception: ").removeprefix("Crash details: ")[:500]


def _why(run: FlowRun) -> str:
    """Why a runner's concepts were not reached."""
    assert run.state is not None
    return f"its runner {run.name} ended {run.state.name}: {message_of(run)}"


def _speak_of_idle(run: FlowRun, share: Share) -> None:
    if run.state and run.state.is_scheduled() and not share.spoken_of and time.monotonic() > share.since + IDLE:
        share.spoken_of = True
        log.warning("no worker has taken %s: is one serving its work pool %s?", run.name, run.work_pool_name)
