"""S3: whole objects with checked SHA-256, conditional writes, and errors that say what to do.

Credentials come from the default AWS chain. Only the embedded server, which checks none, is given made-up ones.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict
from urllib.parse import urlsplit

from esd_core import digest
from esd_core.errors import InvalidInput, ServiceUnavailable
from tasks.settings import EMBEDDED, Settings, get_settings

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_ABSENT = ("404", "NoSuchKey", "NotFound")
_TAKEN = ("412", "PreconditionFailed", "409", "ConditionalRequestConflict")
_MAY_PASS = ("BadDigest", "SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "500", "502", "503")


class CheckedPut(TypedDict):
    """Arguments of a PUT that S3 checks: the algorithm is named too, since some servers look only then."""

    Bucket: str
    Key: str
    ContentType: str
    ChecksumAlgorithm: Literal["SHA256"]
    ChecksumSHA256: str


@dataclass(frozen=True)
class Bucket:
    """One bucket on one S3 server. Objects are small enough for one PUT (at most 5 GiB, S3's own limit)."""

    name: str
    server: str  # its address, for people
    client: S3Client

    def uri(self, key: str) -> str:
        return f"s3://{self.name}/{key}"

    def put(self, key: str, content: bytes | Path, content_type: str = "application/octet-stream") -> None:
        """Write an object; S3 refuses it unless what arrives has the SHA-256 of `content`."""
        with self._errors():
            if isinstance(content, bytes):
                self.client.put_object(Body=content, **self._checked(key, digest.of_bytes(content), content_type))
                return
            with content.open("rb") as body:
                self.client.put_object(Body=body, **self._checked(key, digest.of_file(content), content_type))

    def put_new(self, key: str, content: bytes, content_type: str = "application/json") -> bool:
        """Write an object on the condition that `key` is free. False: something else is there.

        A write whose answer got lost is retried by the client and then finds itself there: that is a success.
        """
        from botocore.exceptions import ClientError

        request = self._checked(key, digest.of_bytes(content), content_type)
        with self._errors():
            try:
                self.client.put_object(Body=content, IfNoneMatch="*", **request)
            except ClientError as e:
                if _code(e) not in _TAKEN:
                    raise
                return self.get(key) == content
        return True

    def _checked(self, key: str, sha256: str, content_type: str) -> CheckedPut:
        return {
            "Bucket": self.name,
            "Key": key,
            "ContentType": content_type,
            "ChecksumAlgorithm": "SHA256",
            "ChecksumSHA256": base64.b64encode(bytes.fromhex(sha256)).decode(),
        }

    def get(self, key: str) -> bytes | None:
        """An object's bytes, or None when there is none."""
        from botocore.exceptions import ClientError

        with self._errors():
            try:
                return self.client.get_object(Bucket=self.name, Key=key)["Body"].read()
            except ClientError as e:
                if _code(e) in _ABSENT:
                    return None
                raise

    def download(self, key: str, path: Path) -> None:
        """Fetch an object to `path`, which appears whole or not at all."""
        with self._errors(), digest.whole_file(path) as partial, partial.open("wb") as f:
            self.client.download_fileobj(self.name, key, f)

    def listing(self, prefix: str = "") -> dict[str, str]:
        """ETag of every object whose key starts with `prefix`, in order of the keys."""
        with self._errors():
            pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix)
            found = {item["Key"]: item["ETag"] for page in pages for item in page.get("Contents", [])}
        return dict(sorted(found.items()))

    def create(self) -> None:
        """Make the bucket unless it is there. For the embedded server; production buckets are made by their owners."""
        from botocore.exceptions import ClientError

        with self._errors():
            try:
                self.client.head_bucket(Bucket=self.name)
            except ClientError as e:
                if _code(e) not in (*_ABSENT, "NoSuchBucket"):
                    raise
                self.client.create_bucket(Bucket=self.name)

    def check(self) -> None:
        """Raise unless the bucket is there and answers: before a night's work rather than after it."""
        with self._errors():
            self.client.head_bucket(Bucket=self.name)

    @contextmanager
    def _errors(self) -> Iterator[None]:
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
        code, operation = _code(error), error.operation_name
        if code == "NoSuchBucket" or (code in _ABSENT and operation in ("HeadBucket", "ListObjectsV2", "PutObject")):
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
    client = _client(address, settings.s3_region, settings.s3_endpoint_url == EMBEDDED, settings.service_timeout)
    return Bucket(name=name or settings.s3_bucket, server=address or f"AWS ({settings.s3_region})", client=client)


def server_address(settings: Settings) -> str | None:
    """Address of the S3 server; None is AWS itself. The embedded one is found through the home it serves."""
    if settings.s3_endpoint_url != EMBEDDED:
        return settings.s3_endpoint_url
    try:
        return settings.s3_address_file.read_text(encoding="utf-8").strip()
    except OSError as e:
        raise ServiceUnavailable(
            f"the embedded S3 server of {settings.home} is not running: start it with `make up`, "
            "or set ESD_S3_ENDPOINT_URL to a server of your own"
        ) from e


@lru_cache(maxsize=8)
def _client(address: str | None, region: str, embedded: bool, timeout: float) -> S3Client:
    import boto3
    from botocore.config import Config

    config = Config(
        connect_timeout=timeout,
        read_timeout=max(60.0, timeout),
        retries={"total_max_attempts": 3, "mode": "standard"},
        s3={"addressing_style": "path"} if address else None,
        proxies={} if embedded else None,  # a proxy cannot reach this machine's loopback address
    )
    made_up = EMBEDDED if embedded else None  # None: the default chain
    return boto3.session.Session().client(
        "s3",
        endpoint_url=address,
        region_name=region,
        aws_access_key_id=made_up,
        aws_secret_access_key=made_up,
        config=config,
    )


def parse_uri(uri: str) -> tuple[str, str]:
    """Bucket and prefix of s3://BUCKET/PREFIX; the prefix ends with a slash."""
    parts = urlsplit(uri)
    if parts.scheme != "s3" or not parts.netloc or not parts.path.strip("/"):
        raise InvalidInput(f"not an S3 folder: {uri!r}; expected s3://BUCKET/FOLDER")
    return parts.netloc, f"{parts.path.strip('/')}/"


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
