"""S3: objects with checked SHA-256, conditional writes, and errors that say what to do.

What is large goes by tasks/s3/upload.py and tasks/s3/download.py.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from esd_core import digest
from esd_core.errors import InvalidInput, ReleaseError, ServiceUnavailable
from tasks.s3.connection import connect, server_address
from tasks.s3.object_rules import Rules
from tasks.settings import EMBEDDED, Settings, get_settings

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

ABSENT = ("404", "NoSuchKey", "NotFound")
TAKEN = ("412", "PreconditionFailed", "409", "ConditionalRequestConflict")
_MAY_PASS = ("BadDigest", "SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "500", "502", "503")
JSON = "application/json"
BINARY = "application/octet-stream"
MOST_BYTES = 16 << 20  # of what is read whole: manifests, signatures, pointers, entries of the log, lists


class Listed(NamedTuple):
    """An object as a listing tells it; size in bytes."""

    etag: str
    size: int


class Fetched(NamedTuple):
    content: bytes
    etag: str


@dataclass(frozen=True)
class Bucket:
    """One bucket on one S3 server. part_size: bytes; what is larger is sent in parts of so many."""

    name: str
    server: str  # its address, for people
    client: S3Client
    rules: Rules = field(default=Rules())
    part_size: int = 16 << 20

    def uri(self, key: str) -> str:
        return f"s3://{self.name}/{key}"

    def put(self, key: str, content: bytes, content_type: str = BINARY, *, locked: bool = True) -> None:
        """Write an object; S3 refuses it unless what arrives has the SHA-256 of `content`."""
        with self.errors():
            self.client.put_object(Body=content, **self._checked(key, content, content_type, locked))

    def put_new(self, key: str, content: bytes, content_type: str = JSON) -> bool:
        """Write an object on the condition that `key` is free. False: something else is there.

        A write whose answer got lost is retried by the client and then finds itself there: that is a success.
        """
        return self._put_if(key, content, content_type, {"IfNoneMatch": "*"}, locked=True)

    def put_over(self, key: str, content: bytes, etag: str | None) -> bool:
        """Move a pointer: write an object on the condition that it is still `etag`, or still absent (None)."""
        condition = {"IfMatch": etag} if etag else {"IfNoneMatch": "*"}
        return self._put_if(key, content, JSON, condition, locked=False)

    def _put_if(self, key: str, content: bytes, content_type: str, condition: dict[str, Any], *, locked: bool) -> bool:
        from botocore.exceptions import ClientError

        request = self._checked(key, content, content_type, locked) | condition
        with self.errors():
            try:
                self.client.put_object(Body=content, **request)
            except ClientError as e:
                if code_of(e) not in (*TAKEN, *ABSENT):  # If-Match on what is gone
                    raise
                found = self.fetch(key)
                return found is not None and found.content == content
        return True

    def remove(self, key: str, etag: str) -> bool:
        """Remove an object on the condition that it is still `etag`. False: it is another by now."""
        from botocore.exceptions import ClientError

        with self.errors():
            try:
                self.client.delete_object(Bucket=self.name, Key=key, IfMatch=etag)
            except ClientError as e:
                if code_of(e) not in TAKEN:
                    raise
                return False
        return True

    def _checked(self, key: str, content: bytes, content_type: str, locked: bool) -> dict[str, Any]:
        """Arguments of a PUT that S3 checks: the algorithm is named too, since some servers look only then."""
        sha256 = base64.b64encode(bytes.fromhex(digest.of_bytes(content))).decode()
        place = {"Bucket": self.name, "Key": key, "ContentType": content_type}
        return {**place, "ChecksumAlgorithm": "SHA256", "ChecksumSHA256": sha256, **self.rules.arguments(locked=locked)}

    def get(self, key: str) -> bytes | None:
        """An object's bytes, or None when there is none."""
        found = self.fetch(key)
        return found.content if found else None

    def fetch(self, key: str) -> Fetched | None:
        """An object's bytes and ETag, or None when there is none.

        Raises ReleaseError for what is too large to be read whole: it is none of ours, and is not read.
        """
        from botocore.exceptions import ClientError

        with self.errors():
            try:
                answer = self.client.get_object(Bucket=self.name, Key=key)
                if answer["ContentLength"] > MOST_BYTES:
                    answer["Body"].close()
                    raise ReleaseError(f"{self.uri(key)} is none of ours: {answer['ContentLength']} bytes")
                return Fetched(answer["Body"].read(), answer["ETag"])
            except ClientError as e:
                if code_of(e) in ABSENT:
                    return None
                raise

    def listing(self, prefix: str = "") -> dict[str, Listed]:
        """Every object whose key starts with `prefix`, in order of the keys."""
        with self.errors():
            pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix)
            items = (item for page in pages for item in page.get("Contents", []))
            found = {item["Key"]: Listed(item["ETag"], item["Size"]) for item in items}
        return dict(sorted(found.items()))

    def create(self) -> None:
        """Make the bucket unless it is there. For the embedded server; production buckets are made by their owners."""
        from botocore.exceptions import ClientError

        with self.errors():
            try:
                self.client.head_bucket(Bucket=self.name)
            except ClientError as e:
                if code_of(e) not in (*ABSENT, "NoSuchBucket"):
                    raise
                self.client.create_bucket(Bucket=self.name)

    def check(self) -> None:
        """Raise unless the bucket is there and answers: before a night's work rather than after it."""
        with self.errors():
            self.client.head_bucket(Bucket=self.name)

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn what botocore raises into one line with a remedy."""
        from boto3.exceptions import Boto3Error
        from botocore import exceptions as aws

        try:
            yield
        except (aws.NoCredentialsError, aws.PartialCredentialsError, aws.ProfileNotFound) as e:
            raise InvalidInput(f"no AWS credentials for {self.server}: set AWS_PROFILE or a role ({e})") from e
        except aws.ClientError as e:
            raise self._refusal(e) from e
        except (aws.BotoCoreError, Boto3Error) as e:
            raise ServiceUnavailable(f"S3 at {self.server} does not answer: {_one_line(e)}") from e

    def _refusal(self, error: Any) -> InvalidInput | ServiceUnavailable:
        code, operation = code_of(error), error.operation_name
        of_bucket = ("HeadBucket", "ListObjectsV2", "PutObject", "ListMultipartUploads", "CreateMultipartUpload")
        if code == "NoSuchBucket" or (code in ABSENT and operation in of_bucket):
            return InvalidInput(
                f"bucket {self.name!r} does not exist on {self.server}: create it, or set ESD_S3_BUCKET"
            )
        if code in _MAY_PASS:
            return ServiceUnavailable(f"S3 at {self.server} cannot serve {operation} now: {_one_line(error)}")
        return InvalidInput(
            f"S3 at {self.server} refuses {operation} on bucket {self.name!r} ({code}): "
            "check the credentials, their policy and ESD_S3_REGION"
        )


def open_bucket(name: str | None = None, settings: Settings | None = None) -> Bucket:
    """The release bucket of the settings, or another bucket on the same server. Asks the server nothing yet."""
    settings = settings or get_settings()
    address = server_address(settings)
    client = connect(address, settings.s3_region, settings.s3_endpoint_url == EMBEDDED, settings.service_timeout)
    server = address or f"AWS ({settings.s3_region})"
    return Bucket(name or settings.s3_bucket, server, client, Rules.of(settings), settings.s3_part_mib << 20)


def parse_uri(uri: str) -> tuple[str, str]:
    """Bucket and prefix of s3://BUCKET/PREFIX; the prefix ends with a slash."""
    parts = urlsplit(uri)
    if parts.scheme != "s3" or not parts.netloc or not parts.path.strip("/"):
        raise InvalidInput(f"not an S3 folder: {uri!r}; expected s3://BUCKET/FOLDER")
    return parts.netloc, f"{parts.path.strip('/')}/"


def code_of(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
