"""Where a share's time goes: eight concepts erased one after the other, as a runner does, with a clock on the U-Net.

The U-Net's work is told in the processor's seconds, on one thread: what it waits for others, counts as theirs.

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
    """Forwards and backwards of the U-Net: (end, seconds it was at work, seconds it took)."""

    spells: list[tuple[float, float, float]] = field(default_factory=list)

    def start(self) -> None:
        """From now on, in this process."""
        import torch
        from diffusers import UNet2DConditionModel
        from torch.nn.modules import module

        began: list[tuple[float, float]] = []

        def before(called: torch.nn.Module, _: Any) -> None:
            if isinstance(called, UNet2DConditionModel):
                began.append((time.thread_time(), time.time()))

        def after(called: torch.nn.Module, _: Any, __: Any) -> None:
            if isinstance(called, UNet2DConditionModel):
                self._note(*began.pop())

        module.register_module_forward_pre_hook(before)
        module.register_module_forward_hook(after)
        backward = torch.autograd.backward

        def timed(*arguments: Any, **options: Any) -> None:
            begin = time.thread_time(), time.time()
            backward(*arguments, **options)
            self._note(*begin)

        torch.autograd.backward = timed

    def _note(self, worked: float, begun: float) -> None:
        now = time.time()
        self.spells.append((now, time.thread_time() - worked, now - begun))

    def within(self, begin: float, end: float) -> tuple[float, float]:
        """Seconds that the U-Net was at work between two moments, and seconds that it took."""
        found = [spell for spell in self.spells if begin <= spell[0] <= end]
        return sum(worked for _, worked, _ in found), sum(took for _, _, took in found)


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
    """Seconds from the beginning of one concept to that of the next; of the last, to the end of all.

    unet: at work; waiting: for the processor or the interpreter, in the middle of it. erasing, evaluating: what of
    these steps no U-Net took; elsewhere: between them. mlflow, s3: requests meanwhile, nearly all of them by the
    concept before, which is finished beside.
    """

    unet: float
    waiting: float
    erasing: float
    evaluating: float
    elsewhere: float
    mlflow: int
    s3: int

    @property
    def overhead(self) -> float:
        return self.waiting + self.erasing + self.evaluating + self.elsewhere


Span = tuple[float, float]  # begin and end, seconds since the epoch


def spent(clock: UnetClock, requests: Requests, erase: Span, evaluate: Span, end: float) -> Spent:
    """erase, evaluate: a concept's steps. end: when the next one began."""
    from tasks.settings import get_settings

    servers, (begin, erased), (drawn, evaluated) = get_settings(), erase, evaluate
    (work, taught), (more, shown) = clock.within(*erase), clock.within(*evaluate)
    return Spent(
        unet=work + more,
        waiting=taught + shown - work - more,
        erasing=erased - begin - taught,
        evaluating=evaluated - drawn - shown,
        elsewhere=end - begin - (erased - begin) - (evaluated - drawn),
        mlflow=requests.within(begin, end, servers.mlflow_tracking_uri),
        s3=requests.within(begin, end, servers.s3_endpoint_url or ""),
    )


def _moment(told: str) -> float:
    return datetime.fromisoformat(told).timestamp()


def run(seed: int) -> list[Spent]:
    """Erase all, and tell where the time of each went, in the order they were done."""
    from prefect.client.orchestration import get_client
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
        wanted = {"flow_runs": {"id": {"any_": [str(state.state_details.flow_run_id)]}}}
        tasks = client.request("POST", "/task_runs/filter", json=wanted).json()

    def spans(step: str) -> list[Span]:
        found = [(t["start_time"], t["end_time"]) for t in tasks if t["name"].startswith(step)]
        return sorted((_moment(begin), _moment(end)) for begin, end in found)

    erased, evaluated, (settled,) = spans("erase "), spans("evaluate "), spans("settle")
    ends = [begin for begin, _ in erased[1:]] + [settled[0]]
    return [spent(clock, requests, *steps) for steps in zip(erased, evaluated, ends, strict=True)]


if __name__ == "__main__":
    print(json.dumps([{**asdict(one), "overhead": one.overhead} for one in run(int(sys.argv[1]))]))
