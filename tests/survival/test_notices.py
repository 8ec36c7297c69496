"""Notices: what a Slack-compatible webhook is told of nights."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.survival.watching import wait_for
from tests.survival.yard import Yard

pytestmark = [pytest.mark.survival, pytest.mark.timeout(1800)]
Parameters = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def received() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Address of a local receiver, and what it was told."""
    told: list[dict[str, Any]] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.headers["Content-Type"] == "application/json"
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/hook", told
        server.shutdown()


@pytest.fixture(scope="module", autouse=True)
def runner(yard: Yard, received: tuple[str, list[dict[str, Any]]]) -> None:
    yard.deploy(ESD_NOTICE_WEBHOOK=received[0])
    yard.deploy(ESD_NOTICE_WEBHOOK=received[0])
    yard.start_worker("runner-1", "esd-gpu")


@pytest.mark.parametrize(
    ("concept", "settings", "words"),
    [
        ("house", {"approval": "manual"}, ["1 concepts passed the gates and wait for approval: house (esd-tiny-"]),
        ("sun", {"erased_at_most": 0.5}, ["1 concepts did not pass the gates: sun (esd-tiny-"]),
        ("tree", {"learning_rate": 1.0}, ["Failed. 1 concepts: 1 failed"]),
    ],
)
def test_a_night_is_told_once(
    yard: Yard,
    parameters: Parameters,
    received: tuple[str, list[dict[str, Any]]],
    concept: str,
    settings: dict[str, Any],
    words: list[str],
) -> None:
    rows = {name: value for name, value in settings.items() if name == "learning_rate"}
    night = parameters(concept, **rows, **({"iterations": 60} if rows else {}))
    received[1].clear()
    run = yard.end_of(yard.start_night({**night, **{k: v for k, v in settings.items() if k not in rows}}))
    wait_for(lambda: received[1], 30, lambda: yard.story(run.id))
    (notice,) = received[1]
    for word in [*words, "night of ", f"/runs/flow-run/{run.id}"]:
        assert word in notice["text"]
