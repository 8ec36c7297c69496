"""The audit: all is well after honest work, and every tampering is named."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from sqlite3 import connect

import pytest

from flows.cli import main
from tasks.approvals import approval, lifecycle
from tasks.approvals.audit import audit
from tasks.releases.release import publish
from tasks.s3.storage import Bucket, open_bucket
from tasks.settings import Settings
from tests.integration.conftest import Made
from tests.integration.mischief import MODEL
from tests.integration.tamperings import TAMPERINGS

pytestmark = pytest.mark.slow

Make = Callable[..., Made]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("history")


@pytest.fixture
def history(
    kept: Path, settings: Settings, fresh_settings: Callable[..., Settings], empty_database: Path, make: Make
) -> Bucket:
    """1 superseded, 2 released, 3 approved, 4 rejected, 5 a candidate: made once, then as it was for each test."""
    assert settings.s3_endpoint_url
    fresh_settings(home=str(kept / "home"), s3_bucket="audited")
    bucket = open_bucket()
    if (kept / "objects").exists():
        _restore(kept, bucket)
        return bucket
    (kept / "home").mkdir()
    shutil.copy(empty_database, kept / "home" / "mlflow.db")
    bucket.create()
    for seed in (1, 2, 3, 4, 5):
        make(seed=seed).register()
    for version in (1, 2, 3):
        approval.approve(MODEL, version, "Ada", "fine")
    approval.reject(MODEL, 4, "Grace", "towers lost")
    publish(MODEL, 1)
    publish(MODEL, 2)
    _keep(kept, bucket)
    return bucket


def _keep(kept: Path, bucket: Bucket) -> None:
    shutil.copytree(kept / "home", kept / "as it was")
    for key in bucket.listing():
        path = kept / "objects" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bucket.get(key) or b"")


def _restore(kept: Path, bucket: Bucket) -> None:
    """Artifacts, objects and database as they were; the database is written into, since it is open."""
    shutil.rmtree(kept / "home" / "mlartifacts")
    shutil.copytree(kept / "as it was" / "mlartifacts", kept / "home" / "mlartifacts")
    was, now = (connect(kept / folder / "mlflow.db") for folder in ("as it was", "home"))
    with closing(was), closing(now):
        was.backup(now)
    for key in bucket.listing():
        bucket.client.delete_object(Bucket=bucket.name, Key=key)
    for path in (kept / "objects").rglob("*"):
        if path.is_file():
            bucket.put(path.relative_to(kept / "objects").as_posix(), path.read_bytes())


def found() -> list[str]:
    return [disagreement.sentence for disagreement in audit().disagreements]


def test_honest_work_agrees(history: Bucket, capsys: pytest.CaptureFixture[str]) -> None:
    assert history.name
    assert found() == []
    assert main(["audit"]) == 0
    looked_at = "5 versions, 2 releases (2 not signed) and 7 entries of the approval log"
    assert capsys.readouterr().out == f"looked at {looked_at}: everything agrees\n"
    lifecycle.rollback(MODEL, 1, "Grace", "grey skies")
    lifecycle.withdraw(MODEL, 1, "Grace", "grey, too")
    assert found() == []


@pytest.mark.parametrize("tampering", TAMPERINGS)
def test_every_tampering_is_named(history: Bucket, tampering: str, capsys: pytest.CaptureFixture[str]) -> None:
    tamper, sentence = TAMPERINGS[tampering]
    tamper(history)
    assert main(["audit"]) == 1
    told = capsys.readouterr()
    named = [line for line in told.err.splitlines() if re.search(sentence, line)]
    assert named, told.err
    assert re.search(r": \d+ disagreements?$", told.out)
    assert all(len(line) < 400 for line in told.err.splitlines())
