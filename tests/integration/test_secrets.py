"""Secrets stay where they belong: nowhere in artifacts, objects, databases, caches, logs or output."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.cli import main
from tasks import lifecycle, storage
from tasks.settings import Settings
from tasks.storage import Bucket, open_bucket
from tests.integration.conftest import Made

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
    storage._client.cache_clear()  # one with the marked secrets
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
    storage._client.cache_clear()
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
