"""Files to S3 in parts, each with its SHA-256, several at a time, continued where an attempt was interrupted.

Memory is a few parts, however large the file. Nothing here decides what may be published;
see tasks/releases/release.py.
"""

from __future__ import annotations

import hashlib
import os
from base64 import b64decode
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

from esd_core import digest
from esd_core.errors import ReleaseError
from tasks.s3.parts import Advance, Buffers, Part, bar, base64_of, parts_of, side_by_side
from tasks.s3.storage import ABSENT, BINARY, TAKEN, Bucket, code_of

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

PART_SIZE = "esd-part-size"  # metadata of an object that was sent in parts


def upload_once(bucket: Bucket, key: str, path: Path, *, progress: bool = False) -> bool:
    """Put a file under a key that names its content; False when it is there already.

    Raises ReleaseError when the key holds something else.
    """
    if _is_there(bucket, key, path):
        return False
    sent = None
    if path.stat().st_size <= bucket.part_size:
        bucket.put_new(key, path.read_bytes(), BINARY)
    else:
        sent = _send_in_parts(bucket, key, path, progress)
    if not _is_there(bucket, key, path, sent):
        raise ReleaseError(f"{bucket.uri(key)} disappeared while it was published: publish again")
    return True


def _is_there(bucket: Bucket, key: str, path: Path, sent: _Sent | None = None) -> bool:
    """Whether `key` holds exactly this file, by its size and the checksum that S3 keeps; nothing is downloaded.

    sent: what was just sent of it; where S3 has the parts of that, the file is not read again.
    """
    from botocore.exceptions import ClientError

    with bucket.errors():
        try:
            found = bucket.client.head_object(Bucket=bucket.name, Key=key, ChecksumMode="ENABLED")
        except ClientError as e:
            if code_of(e) in ABSENT:
                return False
            raise
    size = path.stat().st_size
    told = found["Metadata"].get(PART_SIZE, "")
    part_size = max(int(told), 1) if told.isdecimal() else max(size, 1)
    expected = sent.checksum if sent and sent.part_size == part_size else checksum_of(path, part_size)
    if found["ContentLength"] != size or found.get("ChecksumSHA256") != expected:
        raise ReleaseError(
            f"{bucket.uri(key)} is not what its name says (size or SHA-256 differ): remove it and publish again"
        )
    return True


def checksum_of(path: Path, part_size: int) -> str:
    """The checksum S3 keeps of a file: of its bytes, or of its parts' checksums, with their number behind a dash."""
    size = path.stat().st_size
    if part_size >= size:
        return base64_of(bytes.fromhex(digest.of_file(path)))
    parts = parts_of(size, part_size)
    with path.open("rb") as f:
        of_parts = [base64_of(hashlib.sha256(os.pread(f.fileno(), part.size, part.start)).digest()) for part in parts]
    return _composite(of_parts)


def _composite(of_parts: Sequence[str]) -> str:
    """The checksum S3 keeps of an object that was made of parts with these checksums."""
    return f"{base64_of(hashlib.sha256(b''.join(map(b64decode, of_parts))).digest())}-{len(of_parts)}"


class _Sent(NamedTuple):
    part_size: int
    checksum: str  # of the parts, as they were read and sent


def _send_in_parts(bucket: Bucket, key: str, path: Path, progress: bool) -> _Sent | None:
    """Send a file in parts, those excepted that an interrupted attempt has sent. The key must be free at the end.

    None: somebody else finished the same file first, and the caller looks what is there.
    """
    from botocore.exceptions import ClientError

    size = path.stat().st_size
    parts = parts_of(size, bucket.part_size)
    with bucket.errors(), bar(path.name, size, progress) as advance, path.open("rb") as f:
        upload = _Upload.begun(bucket, key) or _Upload.new(bucket, key, parts[0].size)
        try:
            buffers = Buffers(parts[0].size)
            done = list(side_by_side(lambda part: upload.send(part, f.fileno(), buffers, advance), parts))
            upload.complete(done)
        except ClientError as e:
            if code_of(e) not in (*TAKEN, "NoSuchUpload"):
                raise
            return None
    return _Sent(parts[0].size, _composite([part["ChecksumSHA256"] for part in done]))


@dataclass(frozen=True)
class _Upload:
    """A multipart upload. sent: ETag by number and SHA-256 of the parts that S3 has already."""

    bucket: Bucket
    key: str
    id: str
    sent: dict[tuple[int, str], str]

    @classmethod
    def begun(cls, bucket: Bucket, key: str) -> _Upload | None:
        """The newest upload of this key that was begun and never finished, if there is one."""
        pages = bucket.client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket.name, Prefix=key)
        begun = [upload for page in pages for upload in page.get("Uploads", []) if upload["Key"] == key]
        if not begun:
            return None
        upload_id = max(begun, key=lambda upload: upload["Initiated"])["UploadId"]
        listed = bucket.client.get_paginator("list_parts").paginate(Bucket=bucket.name, Key=key, UploadId=upload_id)
        found = [part for page in listed for part in page.get("Parts", [])]
        sent = {(part["PartNumber"], part.get("ChecksumSHA256", "")): part["ETag"] for part in found}
        return cls(bucket, key, upload_id, sent)

    @classmethod
    def new(cls, bucket: Bucket, key: str, part_size: int) -> _Upload:
        answer = bucket.client.create_multipart_upload(
            Bucket=bucket.name,
            Key=key,
            ContentType=BINARY,
            ChecksumAlgorithm="SHA256",
            Metadata={PART_SIZE: str(part_size)},
            **bucket.rules.arguments(locked=True),
        )
        return cls(bucket, key, answer["UploadId"], {})

    def send(self, part: Part, file: int, buffers: Buffers, advance: Advance) -> CompletedPartTypeDef:
        """Send a part of an open file unless S3 has it."""
        with buffers.taken(part.size) as data:
            os.preadv(file, [data], part.start)
            sha256 = base64_of(hashlib.sha256(data).digest())
            etag = self.sent.get((part.number, sha256))
            if etag is None:
                etag = self.bucket.client.upload_part(
                    Bucket=self.bucket.name,
                    Key=self.key,
                    UploadId=self.id,
                    PartNumber=part.number,
                    Body=cast(bytes, data),  # a bytearray is sent as it is, where bytes are sent in small pieces
                    ChecksumAlgorithm="SHA256",
                    ChecksumSHA256=sha256,
                )["ETag"]
        advance(part.size)
        return {"PartNumber": part.number, "ETag": etag, "ChecksumSHA256": sha256}

    def complete(self, parts: list[CompletedPartTypeDef]) -> None:
        """Make an object of the parts, on the condition that its key is still free."""
        self.bucket.client.complete_multipart_upload(
            Bucket=self.bucket.name,
            Key=self.key,
            UploadId=self.id,
            MultipartUpload={"Parts": parts},
            IfNoneMatch="*",
        )
