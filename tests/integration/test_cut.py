"""The connection to S3 is cut at every request of a publication in turn, while readers look on.

What they see is the release before or the new one, each whole; and the next attempt completes what was cut.
"""

from __future__ import annotations

import hashlib
import json
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from esd_core.errors import ServiceUnavailable
from tasks.approvals import approval, lifecycle
from tasks.approvals.audit import audit
from tasks.releases.pointer import read_pointer
from tasks.releases.release import publish
from tasks.releases.verifying import verify
from tasks.s3.storage import Bucket, open_bucket
from tasks.settings import Settings
from tests.integration.conftest import Made
from tests.integration.cutting_proxy import cutting_proxy

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

Make = Callable[..., Made]
MODEL = "esd-miniature-sun"
LATEST = f"releases/{MODEL}/latest.json"


class Reader(threading.Thread):
    """Someone who follows latest.json again and again. seen: versions it named; faults: half releases."""

    def __init__(self, bucket: Bucket) -> None:
        super().__init__(daemon=True)
        self.bucket, self.seen, self.faults, self.done = bucket, list[int](), list[str](), threading.Event()

    def run(self) -> None:
        while not self.done.is_set():
            self.look()

    def look(self) -> None:
        pointer = self._json(LATEST)
        if pointer is None:
            self.faults.append("there is no pointer")
            return
        self.seen.append(pointer["version"])
        for number in (1, 2):
            manifest = self._json(f"releases/{MODEL}/{number}/manifest.json")
            if manifest is None:
                if pointer["version"] == number:
                    self.faults.append(f"the pointer names {number}, which has no manifest")
                continue
            for name, file in manifest["files"].items():
                content = self.bucket.get(file["key"])
                if content is None or hashlib.sha256(content).hexdigest() != file["sha256"]:
                    self.faults.append(f"{name} of {number} is missing or half")

    def _json(self, key: str) -> Any:
        content = self.bucket.get(key)
        return None if content is None else json.loads(content)


@contextmanager
def reading(bucket: Bucket) -> Iterator[Reader]:
    reader = Reader(bucket)
    reader.start()
    yield reader
    reader.done.set()
    reader.join()
    reader.look()


@pytest.fixture
def template(settings: Settings, fresh_settings: Callable[..., Settings], make: Make) -> Bucket:
    """A bucket in which version 1 is released and 2 approved; its weights are two parts long."""
    assert settings.s3_part_mib > fresh_settings(s3_part_mib="5").s3_part_mib
    for seed in (1, 2):
        version = make(seed=seed, rows=450_000).register().version
        approval.approve(MODEL, version, "Ada", f"look {seed}")
        if seed == 1:
            publish(MODEL, version)
    return open_bucket()


@pytest.fixture
def fresh(template: Bucket, settings: Settings, fresh_settings: Callable[..., Settings]) -> Callable[..., Bucket]:
    """A copy of the template: what a publication finds. The registry's tags only mirror it."""

    def copy() -> Bucket:
        fresh_settings(s3_endpoint_url=str(settings.s3_endpoint_url), s3_bucket=f"cut-{uuid.uuid4().hex[:12]}")
        bucket = open_bucket()
        bucket.create()
        for key in template.listing():
            bucket.put(key, template.get(key) or b"")
        return bucket

    return copy


def _through(fresh_settings: Callable[..., Settings], address: str) -> None:
    fresh_settings(s3_endpoint_url=address)


@pytest.mark.parametrize("answer_lost", [False, True], ids=["request lost", "answer lost"])
@pytest.mark.parametrize("deed", ["publish", "rollback"])
def test_no_cut_shows_half_a_release_and_the_next_attempt_completes_it(
    settings: Settings,
    fresh: Callable[[], Bucket],
    fresh_settings: Callable[..., Settings],
    answer_lost: bool,
    deed: str,
) -> None:
    direct = str(settings.s3_endpoint_url)

    def prepare() -> Bucket:
        bucket = fresh()
        if deed == "rollback":
            publish(MODEL, 2)
        return bucket

    def act() -> None:
        if deed == "publish":
            publish(MODEL, 2)
        else:
            lifecycle.rollback(MODEL, 1, "Grace", "grey skies")

    wanted = 2 if deed == "publish" else 1
    prepare()
    with cutting_proxy(direct) as whole:
        _through(fresh_settings, whole.address)
        act()
    assert len(whole.passed) > 15
    for number in range(1, len(whole.passed) + 1):
        bucket = prepare()
        with reading(bucket) as reader:
            with cutting_proxy(direct, cut_at=number, answer_lost=answer_lost) as proxy:
                _through(fresh_settings, proxy.address)
                with suppress(ServiceUnavailable):  # not raised when only the last answer was lost
                    act()
            _through(fresh_settings, direct)
            act()
        assert reader.faults == [], f"cut at request {number}: {whole.passed[number - 1]}"
        assert set(reader.seen) <= {1, 2}
        pointer = read_pointer(bucket, MODEL)
        assert pointer
        assert pointer.version == reader.seen[-1] == wanted
        assert verify(bucket.uri(f"releases/{MODEL}/{wanted}/")) == []
    assert audit().disagreements == ()
