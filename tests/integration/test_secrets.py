"""Secrets stay where they belong: nowhere in artifacts, objects, databases, caches, logs or output."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.cli import main
from tasks.approvals import lifecycle
from tasks.releases.signing import make_key
from tasks.s3 import connection
from tasks.s3.storage import Bucket, open_bucket
from tasks.settings import Settings
from tests.integration.conftest import Made
from tests.tiny_night import write_list, write_suite

SECRETS = {"AWS_SECRET_ACCESS_KEY": "marked-aws-secret", "AWS_SESSION_TOKEN": "marked-session-token"}
PASSWORD = "marked-key-password"


def test_no_secret_is_written_or_said(
    bucket: Bucket,
    settings: Settings,
    fresh_settings: Callable[..., Settings],
    make: Callable[..., Made],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    key, public = tmp_path / "keys" / "team.pem", tmp_path / "keys" / "team.pem.pub"
    fresh_settings(signing="required", signing_password=PASSWORD, signing_key=str(key), verifying_key=str(public))
    connection.connect.cache_clear()  # one with the marked secrets
    caplog.set_level(logging.INFO)
    model = make().register().model
    uri = open_bucket().uri(f"releases/{model}/1")
    commands = [
        ("keygen", str(key)),
        ("approve", model, "1", "--by", "Ada", "--reason", "fine"),
        ("publish", model, "1"),
        ("verify", uri),
        ("fetch", model),
        ("audit",),
        ("status",),
        ("keygen", str(key)),  # refused
        ("publish", model, "7"),  # refused
    ]
    assert [main(list(command)) for command in commands] == [0, 0, 0, 0, 0, 0, 0, 2, 2]
    lifecycle.withdraw(model, 1, "Grace", "to see that, too")
    connection.connect.cache_clear()
    private = key.read_bytes()
    marks = [value.encode() for value in (*SECRETS.values(), PASSWORD)] + [private.splitlines()[1]]
    captured = capfd.readouterr()
    said = [captured.out.encode(), captured.err.encode(), caplog.text.encode(), repr(fresh_settings()).encode()]
    objects = [bucket.get(object_key) or b"" for object_key in bucket.listing()]
    written = [path.read_bytes() for path in settings.home.rglob("*") if path.is_file()]
    assert len(objects) > 10
    assert len(written) > 10
    for content in (*said, *objects, *written, public.read_bytes()):
        assert not [mark for mark in marks if mark in content]


@pytest.mark.slow
def test_no_secret_of_a_nights_environment_is_written_or_said(
    s3_address: str, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prefect's database with parameters, logs and artifacts, MLflow's, what lies in S3, and what is printed."""
    home, key = tmp_path / "home", tmp_path / "keys" / "team.pem"
    make_key(key, PASSWORD)
    hook = "http://127.0.0.1:9/marked-webhook"
    own = {
        **SECRETS,
        "AWS_ACCESS_KEY_ID": "marked-access-key",
        "MLFLOW_TRACKING_PASSWORD": "marked-mlflow-password",
        "ESD_SIGNING_TOKEN": "marked-token",
        "ESD_SIGNING_PASSWORD": PASSWORD,
        "ESD_NOTICE_WEBHOOK": hook,
    }
    bucket_name = f"test-{uuid.uuid4().hex[:12]}"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    bucket = open_bucket(bucket_name, Settings.model_validate({"s3_endpoint_url": s3_address}))
    bucket.create()
    plain = {
        "ESD_HOME": str(home),
        "ESD_SIGNING_KEY": str(key),
        "ESD_S3_ENDPOINT_URL": s3_address,
        "ESD_S3_BUCKET": bucket_name,
    }
    concepts = write_list(tmp_path, tiny_base, write_suite(tmp_path))
    command = [str(Path(sys.executable).with_name("esd")), "run", str(concepts)]
    done = subprocess.run(
        command, env={**os.environ, **plain, **own}, check=False, capture_output=True, timeout=280, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr.decode()
    written = [path.read_bytes() for path in home.rglob("*") if path.is_file()]
    objects = {name: bucket.get(name) or b"" for name in bucket.listing()}
    assert any(b"nightly-erasure" in content for content in written)  # Prefect's database is among them
    assert sum(name.endswith("/manifest.sig") for name in objects) == 2
    marks = [value.encode() for value in own.values()] + [key.read_bytes().splitlines()[1]]
    for content in (done.stdout, done.stderr, *written, *objects.values()):
        assert not [mark for mark in marks if mark in content]
