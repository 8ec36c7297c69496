"""S3 over HTTP: whole objects, conditional writes, and one clear line when something is wrong."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from esd_core.errors import InvalidInput, ServiceUnavailable
from infra.processes import free_port
from tasks.s3.storage import Bucket, open_bucket, parse_uri
from tasks.settings import Settings


def test_what_is_put_comes_back(bucket: Bucket) -> None:
    bucket.put("a/file", bytes(range(256)) * 5000)
    bucket.put("a/bytes", b"content", "text/plain")
    assert bucket.get("a/file") == bytes(range(256)) * 5000
    assert bucket.get("a/bytes") == b"content"
    assert bucket.get("a/nothing") is None
    assert {key: found.size for key, found in bucket.listing("a/").items()} == {"a/bytes": 7, "a/file": 1_280_000}


def test_a_pointer_moves_only_from_where_it_was_seen(bucket: Bucket) -> None:
    assert bucket.put_over("p", b"first", None)
    assert not bucket.put_over("p", b"second", None)
    seen = bucket.fetch("p")
    assert seen
    assert bucket.put_over("p", b"second", seen.etag)
    assert not bucket.put_over("p", b"third", seen.etag)
    assert not bucket.remove("p", seen.etag)
    assert bucket.get("p") == b"second"
    seen = bucket.fetch("p")
    assert seen
    assert bucket.remove("p", seen.etag)
    assert not bucket.put_over("p", b"fourth", seen.etag)
    assert bucket.get("p") is None


def test_the_server_refuses_content_that_is_not_what_was_announced(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("esd_core.digest.of_bytes", lambda _content: "0" * 64)
    with pytest.raises(ServiceUnavailable, match=r"cannot serve PutObject now: .*BadDigest"):
        bucket.put("a", b"altered on its way")
    assert bucket.get("a") is None


def test_a_conditional_write_never_replaces(bucket: Bucket) -> None:
    assert bucket.put_new("entry", b"first")
    assert not bucket.put_new("entry", b"second")
    assert bucket.get("entry") == b"first"


def test_a_conditional_write_whose_answer_was_lost_counts(bucket: Bucket) -> None:
    assert bucket.put_new("entry", b"mine")
    assert bucket.put_new("entry", b"mine")


def test_of_many_conditional_writes_at_once_one_wins(bucket: Bucket) -> None:
    contents = [f"writer {i}".encode() for i in range(12)]
    with ThreadPoolExecutor(12) as writers:
        won = [c for c, ok in zip(contents, writers.map(lambda c: bucket.put_new("k", c), contents), strict=True) if ok]
    assert won == [bucket.get("k")]


@pytest.mark.usefixtures("settings")
@pytest.mark.parametrize(
    "ask", [Bucket.listing, lambda b: b.get("a"), lambda b: b.put("a", b""), lambda b: b.put_new("a", b"")]
)
def test_a_missing_bucket_is_named_with_its_remedy(ask: Callable[[Bucket], object]) -> None:
    with pytest.raises(InvalidInput, match=r"bucket 'not-there' does not exist on http.*set ESD_S3_BUCKET") as caught:
        ask(open_bucket("not-there"))
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("settings")
def test_a_server_that_is_down_is_named(fresh_settings: Callable[..., Settings]) -> None:
    fresh_settings(s3_endpoint_url=f"http://127.0.0.1:{free_port()}")
    with pytest.raises(ServiceUnavailable, match=r"S3 at http://127.0.0.1:\d+ does not answer: ") as caught:
        open_bucket().listing()
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("settings")
def test_no_credentials_is_one_line(fresh_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    fresh_settings(s3_region="eu-north-1")  # no client of another test
    with pytest.raises(InvalidInput, match=r"no AWS credentials for .*: set AWS_PROFILE or a role"):
        open_bucket().listing()


def test_the_embedded_server_is_not_guessed(fresh_settings: Callable[..., Settings]) -> None:
    fresh_settings(s3_endpoint_url="embedded")
    with pytest.raises(ServiceUnavailable, match="is not running: start it with `make up`"):
        open_bucket()


@pytest.mark.parametrize("uri", ["https://host/a", "s3://bucket", "s3:///a", "releases/x"])
def test_what_is_no_s3_folder_is_refused(uri: str) -> None:
    with pytest.raises(InvalidInput, match="expected s3://BUCKET/FOLDER"):
        parse_uri(uri)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("s3_endpoint_url", "minio:9000"),
        ("s3_bucket", "Not A Bucket"),
        ("device", "gpu"),
        ("mlflow_tracking_uri", "./mlruns"),
        ("s3_port", "0"),
    ],
)
def test_a_bad_setting_is_one_line_that_names_it(
    fresh_settings: Callable[..., Settings], name: str, value: str
) -> None:
    with pytest.raises(InvalidInput, match=name) as caught:
        fresh_settings(**{name: value})
    assert "\n" not in str(caught.value)


def test_aws_itself_is_a_setting(fresh_settings: Callable[..., Settings]) -> None:
    assert fresh_settings(s3_endpoint_url="aws").s3_endpoint_url is None
    assert open_bucket().server == "AWS (us-east-1)"
