"""Large files to S3 and back, over HTTP: in checked parts, continued where they were cut, never altered unseen."""

from __future__ import annotations

import base64
import hashlib
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from esd_core import digest
from esd_core.errors import InvalidInput, ReleaseError
from tasks.s3.download import download
from tasks.s3.parts import parts_of
from tasks.s3.storage import Bucket, open_bucket
from tasks.s3.upload import upload_once
from tasks.settings import Settings
from tests.integration.s3_calls import recorded

KEY = "weights/file.safetensors"
MIB = 1 << 20


@pytest.fixture
def bucket(settings: Settings, fresh_settings: Callable[..., Settings]) -> Bucket:
    assert settings.s3_part_mib == 16
    return open_bucket(settings=fresh_settings(s3_part_mib="5"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """13 MiB: three parts of which the last is shorter."""
    path = tmp_path / "file"
    path.write_bytes(random.Random(0).randbytes(13 * MIB))
    return path


def test_every_part_carries_its_sha256(bucket: Bucket, file: Path) -> None:
    with recorded(bucket) as calls:
        assert upload_once(bucket, KEY, file)
    content = file.read_bytes()
    expected = {
        base64.b64encode(hashlib.sha256(content[i : i + 5 * MIB]).digest()).decode() for i in (0, 5 * MIB, 10 * MIB)
    }
    assert {headers["x-amz-checksum-sha256"] for headers in calls.named("UploadPart")} == expected
    assert [headers["if-none-match"] for headers in calls.named("CompleteMultipartUpload")] == ["*"]
    assert bucket.get(KEY) == content


def test_an_interrupted_upload_goes_on_where_it_was_cut(bucket: Bucket, file: Path) -> None:
    with recorded(bucket, cut_at=("UploadPart", 3)) as calls, pytest.raises(ConnectionAbortedError):
        upload_once(bucket, KEY, file)
    assert len(calls.named("UploadPart")) == 2
    assert bucket.get(KEY) is None
    with recorded(bucket) as calls:
        assert upload_once(bucket, KEY, file)
    assert len(calls.named("UploadPart")) == 1
    assert not calls.named("CreateMultipartUpload")
    assert bucket.get(KEY) == file.read_bytes()


def test_parts_of_another_file_are_not_taken_over(bucket: Bucket, file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(random.Random(1).randbytes(13 * MIB))
    with recorded(bucket, cut_at=("UploadPart", 3)), pytest.raises(ConnectionAbortedError):
        upload_once(bucket, KEY, other)
    upload_once(bucket, KEY, file)
    assert bucket.get(KEY) == file.read_bytes()


@pytest.mark.parametrize("size", [13 * MIB, 1 * MIB, 0])
def test_what_is_there_is_not_sent_again(bucket: Bucket, tmp_path: Path, size: int) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(size))
    assert upload_once(bucket, KEY, file)
    with recorded(bucket) as calls:
        assert not upload_once(bucket, KEY, file)
    assert [name for name, *_ in calls.sent] == ["HeadObject"]


@pytest.mark.parametrize("size", [13 * MIB, 12 * MIB, 10])
def test_other_content_under_the_same_key_is_refused(bucket: Bucket, file: Path, tmp_path: Path, size: int) -> None:
    other = tmp_path / "other"
    other.write_bytes(random.Random(1).randbytes(size))
    upload_once(bucket, KEY, other)
    with pytest.raises(ReleaseError, match="is not what its name says"):
        upload_once(bucket, KEY, file)
    assert bucket.get(KEY) == other.read_bytes()


def test_more_parts_than_s3_takes_are_made_larger() -> None:
    parts = parts_of(10_001 * 5 * MIB, 5 * MIB)
    assert len(parts) <= 10_000
    assert [part.start for part in parts[1:]] == [part.end for part in parts[:-1]]
    assert parts[-1].end == 10_001 * 5 * MIB
    assert parts_of(0, 5 * MIB) == []


def test_a_download_cut_short_goes_on_and_ends_whole(bucket: Bucket, file: Path, tmp_path: Path) -> None:
    upload_once(bucket, KEY, file)
    target, size, sha256 = tmp_path / "new" / "target", file.stat().st_size, digest.of_file(file)
    with recorded(bucket, cut_at=("GetObject", 3)), pytest.raises(ConnectionAbortedError):
        download(bucket, KEY, target, size=size, sha256=sha256)
    assert not target.exists()
    with recorded(bucket) as calls:
        download(bucket, KEY, target, size=size, sha256=sha256)
    assert len(calls.named("GetObject")) == 1
    assert target.read_bytes() == file.read_bytes()
    assert list(target.parent.iterdir()) == [target]
    with recorded(bucket) as calls:
        download(bucket, KEY, target, size=size, sha256=sha256)
    assert calls.sent == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content[:-1], "another size|truncated"),
        (lambda content: content + b"!", "another size"),
        (lambda _content: b"", "truncated"),
        (lambda content: content[:-1] + bytes([content[-1] ^ 1]), "was altered"),
        (None, "is missing"),
    ],
)
def test_a_download_of_something_else_leaves_nothing(
    bucket: Bucket, file: Path, tmp_path: Path, change: Callable[[bytes], bytes] | None, message: str
) -> None:
    if change:
        bucket.put(KEY, change(file.read_bytes()))
    target = tmp_path / "new" / "target"
    with pytest.raises(ReleaseError, match=message):
        download(bucket, KEY, target, size=file.stat().st_size, sha256=digest.of_file(file))
    assert not target.exists()
    bucket.put(KEY, file.read_bytes())
    download(bucket, KEY, target, size=file.stat().st_size, sha256=digest.of_file(file))
    assert target.read_bytes() == file.read_bytes()


def test_objects_are_written_as_the_settings_ask(
    bucket: Bucket, fresh_settings: Callable[..., Settings], file: Path, tmp_path: Path
) -> None:
    bucket.client.create_bucket(Bucket="locked", ObjectLockEnabledForBucket=True)
    rules = {"s3_encryption": "aws:kms", "s3_kms_key": "key-1", "s3_storage_class": "STANDARD_IA", "s3_tags": "team=ml"}
    fresh_settings(**rules, s3_lock_days="7", s3_lock_mode="COMPLIANCE")
    asked, small = open_bucket("locked"), tmp_path / "small"
    small.write_bytes(b"small")
    with recorded(asked) as calls:
        upload_once(asked, "weights/large", file)
        upload_once(asked, "weights/small", small)
        asked.put_over("pointer", b"{}", None)
    for headers in (*calls.named("CreateMultipartUpload"), calls.named("PutObject")[0]):
        assert headers["x-amz-server-side-encryption"] == "aws:kms"
        assert headers["x-amz-server-side-encryption-aws-kms-key-id"] == "key-1"
        assert headers["x-amz-storage-class"] == "STANDARD_IA"
        assert headers["x-amz-tagging"] == "team=ml"
        assert headers["x-amz-object-lock-mode"] == "COMPLIANCE"
    stored = asked.client.head_object(Bucket="locked", Key="weights/small")
    assert (stored["StorageClass"], stored["ObjectLockMode"]) == ("STANDARD_IA", "COMPLIANCE")
    assert asked.client.get_object_tagging(Bucket="locked", Key="weights/small")["TagSet"] == [
        {"Key": "team", "Value": "ml"}
    ]
    assert "ObjectLockMode" not in asked.client.head_object(Bucket="locked", Key="pointer")  # it has to move


def test_a_key_of_kms_goes_only_with_kms(fresh_settings: Callable[..., Settings]) -> None:
    with pytest.raises(InvalidInput, match=r"s3_kms_key: .* is used only with ESD_S3_ENCRYPTION=aws:kms"):
        fresh_settings(s3_kms_key="key-1")
