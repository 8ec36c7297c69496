"""Hostile records in S3: any bytes as an entry of the log or as a pointer are read, or refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from esd_core.errors import ReleaseError
from tasks.approvals.approval_log import read_log
from tasks.records.registry import RegisteredVersion
from tasks.releases.layout import pointer_key
from tasks.releases.pointer import read_pointer
from tasks.releases.release import publish
from tasks.s3.storage import MOST_BYTES, Bucket
from tasks.settings import Settings, get_settings
from tests.hostile.refusals import JSON, QUICK, refused_in_one_line

MODEL = "esd-miniature-sun"
ENTRY, POINTER = "approvals/000002.json", pointer_key(MODEL)
READERS: dict[str, Callable[[Bucket], object]] = {ENTRY: read_log, POINTER: lambda bucket: read_pointer(bucket, MODEL)}
OVER_HTTP = settings(QUICK, max_examples=60)


@pytest.fixture
def published(approved: RegisteredVersion, bucket: Bucket) -> Bucket:
    publish(approved.model, 1)
    return bucket


@contextmanager
def holding(bucket: Bucket, key: str, content: bytes) -> Iterator[None]:
    """Something else in an object's place."""
    before = bucket.get(key)
    assert before
    bucket.put(key, content)
    try:
        yield
    finally:
        bucket.put(key, before)


@pytest.mark.parametrize("key", READERS)
@OVER_HTTP
@given(content=st.binary(max_size=200))
@example(content=b"[" * 100_000)
def test_no_bytes_make_reading_a_record_fail(published: Bucket, key: str, content: bytes) -> None:
    with holding(published, key, content), refused_in_one_line():
        READERS[key](published)
        pytest.fail("read as if it were one of ours")


@pytest.mark.parametrize("key", READERS)
@OVER_HTTP
@given(place=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255))
def test_no_byte_of_a_record_makes_reading_it_fail(published: Bucket, key: str, place: float, byte: int) -> None:
    content = published.get(key) or b""
    at = int(place * len(content))
    with holding(published, key, content[:at] + bytes([byte]) + content[at + 1 :]), refused_in_one_line():
        READERS[key](published)


@pytest.mark.parametrize("key", READERS)
@OVER_HTTP
@given(data=st.data(), value=JSON)
def test_no_value_in_a_record_makes_reading_it_fail(
    published: Bucket, key: str, data: st.DataObject, value: Any
) -> None:
    record = json.loads(published.get(key) or b"")
    record[data.draw(st.sampled_from(sorted(record)))] = value
    with holding(published, key, json.dumps(record).encode()), refused_in_one_line():
        READERS[key](published)


def test_what_is_too_large_for_a_record_is_not_read(published: Bucket) -> None:
    refusal = pytest.raises(ReleaseError, match=f"latest.json is none of ours: {MOST_BYTES + 1} bytes")
    with holding(published, POINTER, b" " * (MOST_BYTES + 1)), refusal:
        read_pointer(published, MODEL)


@QUICK
@given(
    name=st.sampled_from(sorted(Settings.model_fields)),
    value=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40),
)
def test_no_value_of_a_variable_makes_reading_the_settings_fail(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as variables:
        variables.setenv(f"ESD_{name.upper()}", value)
        get_settings.cache_clear()
        with refused_in_one_line():
            get_settings()
    get_settings.cache_clear()
