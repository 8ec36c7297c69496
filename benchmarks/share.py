"""Where a share's time goes: eight concepts erased one after the other, as a runner does, with a clock on the U-Net.

`python -m benchmarks.night` starts it with the settings of its servers; it prints JSON.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass, field
from datetime import datetime
from http.client import HTTPConnection
from typing import Any
from unittest.mock import patch
from urllib.parse import urlsplit

NAMES = ("car", "house", "tree", "sun", "boat", "fish", "star", "church")
RECIPE = {"iterations": 4, "learning_rate": 1e-4, "negative_guidance": 2.0, "batch_size": 1, "rollout_steps": 4}
GATES = {"erased_at_most": 1.0, "others_drop_at_most": 1.0}


@dataclass
class UnetClock:
    """When the U-Net was at work, forwards and backwards: (begin, end) in seconds since the epoch."""

    spells: list[tuple[float, float]] = field(default_factory=list)

    def start(self) -> None:
        """From now on, in this process."""
        import torch
        from diffusers import UNet2DConditionModel
        from torch.nn.modules import module

        began: list[float] = []

        def before(called: torch.nn.Module, _: Any) -> None:
            if isinstance(called, UNet2DConditionModel):
                began.append(time.time())

        def after(called: torch.nn.Module, _: Any, __: Any) -> None:
            if isinstance(called, UNet2DConditionModel):
                self.spells.append((began.pop(), time.time()))

        module.register_module_forward_pre_hook(before)
        module.register_module_forward_hook(after)
        backward = torch.autograd.backward

        def timed(*arguments: Any, **options: Any) -> None:
            begin = time.time()
            backward(*arguments, **options)
            self.spells.append((begin, time.time()))

        torch.autograd.backward = timed

    def within(self, begin: float, end: float) -> float:
        """Seconds of U-Net work between two moments."""
        return sum(last - first for first, last in self.spells if begin <= first and last <= end)


@dataclass
class Requests:
    """What was asked of servers, and when: (seconds since the epoch, port)."""

    sent: list[tuple[float, int]] = field(default_factory=list)

    def start(self) -> None:
        """From now on, in this process. MLflow and boto3 send theirs by the standard library, Prefect does not."""
        send = HTTPConnection.putrequest

        def noted(connection: HTTPConnection, *arguments: Any, **options: Any) -> None:
            self.sent.append((time.time(), connection.port))
            send(connection, *arguments, **options)

        patch.object(HTTPConnection, "putrequest", noted).start()

    def within(self, begin: float, end: float, address: str) -> int:
        """How many went to a server between two moments."""
        return sum(port == urlsplit(address).port and begin <= at < end for at, port in self.sent)


@dataclass(frozen=True)
class Spent:
    """Seconds of one concept. erasing, evaluating: what of these steps no U-Net took; elsewhere: of all other steps.

    mlflow, s3: requests.
    """

    unet: float
    erasing: float
    evaluating: float
    elsewhere: float
    mlflow: int
    s3: int

    @property
    def overhead(self) -> float:
        return self.erasing + self.evaluating + self.elsewhere


def spent(clock: UnetClock, requests: Requests, begin: float, end: float, tasks: list[dict[str, Any]]) -> Spent:
    """begin, end: until the next concept began. tasks: the concept's, as Prefect's API tells them."""
    from tasks.settings import get_settings

    servers = get_settings()

    def of(name: str) -> tuple[float, float]:
        """Seconds of a step, and of the U-Net in it."""
        spans = [tuple(map(_moment, (t["start_time"], t["end_time"]))) for t in tasks if t["name"].startswith(name)]
        return sum(end - begin for begin, end in spans), sum(clock.within(*span) for span in spans)

    (erasing, taught), (evaluating, drawn) = of("erase "), of("evaluate ")
    return Spent(
        unet=taught + drawn,
        erasing=erasing - taught,
        evaluating=evaluating - drawn,
        elsewhere=end - begin - erasing - evaluating,
        mlflow=requests.within(begin, end, servers.mlflow_tracking_uri),
        s3=requests.within(begin, end, servers.s3_endpoint_url or ""),
    )


def _moment(told: str) -> float:
    return datetime.fromisoformat(told).timestamp()


def run(seed: int) -> list[Spent]:
    """Erase all, and tell where the time of each went, in the order they were done."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterParentFlowRunId
    from prefect.events.worker import EventsWorker

    from esd_core.concept_list import ApprovalPolicy
    from esd_core.concepts import ConceptEntry
    from flows.erase import erase

    clock, requests = UnetClock(), Requests()
    clock.start()
    requests.start()
    rows = tuple(ConceptEntry.model_validate({"name": n, "kind": "object", "seed": seed, **RECIPE}) for n in NAMES)
    state = erase(concepts=rows, images_per_probe=1, approval=ApprovalPolicy.GATES, **GATES, return_state=True)
    assert state.is_completed(), state.message
    EventsWorker.drain_all(timeout=10)  # states of tasks travel as events
    time.sleep(5)
    with get_client(sync_client=True) as client:
        share = FlowRunFilterParentFlowRunId(any_=[state.state_details.flow_run_id])
        concepts = client.read_flow_runs(flow_run_filter=FlowRunFilter(parent_flow_run_id=share))
        found = []
        ordered = sorted(concepts, key=lambda run: str(run.start_time))
        ends = [concept.start_time for concept in ordered[1:]] + [ordered[-1].end_time]
        for concept, end in zip(ordered, ends, strict=True):
            wanted = {"flow_runs": {"id": {"any_": [str(concept.id)]}}}
            tasks = client.request("POST", "/task_runs/filter", json=wanted).json()
            assert concept.start_time
            assert end
            found.append(spent(clock, requests, concept.start_time.timestamp(), end.timestamp(), tasks))
    return found


if __name__ == "__main__":
    print(json.dumps([{**asdict(one), "overhead": one.overhead} for one in run(int(sys.argv[1]))]))
