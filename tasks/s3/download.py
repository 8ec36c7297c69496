"""Files from S3 in parts, several at a time, continued where an attempt was interrupted, whole or not at all."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from esd_core import digest
from esd_core.errors import ReleaseError, ServiceUnavailable
from tasks.s3.parts import Part, bar, parts_of, side_by_side
from tasks.s3.storage import ABSENT, Bucket, code_of

UNREADABLE = ("AccessDenied", "InvalidObjectState", "KMS.DisabledException")  # of this object: key, archive
CHUNK = 1 << 18  # bytes read at once of what arrives; larger ones are mapped anew each time, which takes thrice as long


def download(bucket: Bucket, key: str, path: Path, *, size: int, sha256: str, progress: bool = False) -> None:
    """Fetch an object of known size and digest to `path`, which appears whole or not at all.

    What an interrupted attempt has fetched lies beside `path` and is not fetched again; nor is a file that is whole.
    Raises ReleaseError when the object is missing, or not what was to be fetched.
    """
    if path.is_file() and not path.is_symlink() and path.stat().st_size == size and digest.of_file(path) == sha256:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _Partial(path.with_name(f".{path.name}.{sha256[:16]}.partial"))
    have = partial.begin(size)
    hashed = hashlib.sha256()
    with bucket.errors(), bar(path.name, size, progress) as advance, partial.path.open("r+b") as f:

        def receive(part: Part) -> Part:
            if part not in have:
                _receive(bucket, key, part, size, f.fileno())
                partial.note(part)
            return part

        for part in side_by_side(receive, parts_of(size, bucket.part_size)):
            _add(hashed, f.fileno(), part)  # while the next ones arrive
            _begin_writing(f.fileno(), part)
            advance(part.size)
    partial.become(path, intact=hashed.hexdigest() == sha256)


def _add(hashed: hashlib._Hash, file: int, part: Part) -> None:
    """Add a part of an open file, as it is on disk, to its digest."""
    for start in range(part.start, part.end, CHUNK):
        hashed.update(os.pread(file, min(CHUNK, part.end - start), start))


def _begin_writing(file: int, part: Part) -> None:
    """Have the system write out what it will not need soon: the flush at the end then finds little left to wait for."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file, part.start, part.size, os.POSIX_FADV_DONTNEED)


def _receive(bucket: Bucket, key: str, part: Part, size: int, file: int) -> None:
    """Fetch one part into its place in an open file; `size` is what the whole object must have."""
    from botocore.exceptions import ClientError

    name = key.rpartition("/")[2]
    try:
        answer = bucket.client.get_object(Bucket=bucket.name, Key=key, Range=f"bytes={part.start}-{part.end - 1}")
    except ClientError as e:
        if code_of(e) in ABSENT:
            raise ReleaseError(f"{name} is missing") from e
        if code_of(e) in UNREADABLE:
            raise ReleaseError(f"{name} cannot be read ({code_of(e)})") from e
        if code_of(e) == "InvalidRange":
            raise ReleaseError(f"{name} is truncated: expected {size} bytes") from e
        raise
    if answer["ContentRange"].rpartition("/")[2] != str(size):
        raise ReleaseError(f"{name} has another size than the {size} bytes expected: {answer['ContentRange']}")
    position = part.start
    for chunk in answer["Body"].iter_chunks(CHUNK):
        os.pwrite(file, chunk[: part.end - position], position)
        position += len(chunk)
    if position != part.end:
        raise ServiceUnavailable(f"S3 at {bucket.server} broke off while sending {name}: fetch it again")


@dataclass(frozen=True)
class _Partial:
    """A file that is being fetched, and beside it a list of the parts that are in it."""

    path: Path

    @property
    def _list(self) -> Path:
        return self.path.with_name(f"{self.path.name}.parts")

    def begin(self, size: int) -> set[Part]:
        """The parts that are there already."""
        if not self.path.is_file() or self.path.is_symlink() or self.path.stat().st_size != size:
            self.drop()
            with self.path.open("xb") as f:
                f.truncate(size)
        lines = self._list.read_text(encoding="utf-8").splitlines() if self._list.is_file() else []
        numbers = [line.split() for line in lines]
        return {Part(*map(int, three)) for three in numbers if len(three) == 3 and all(n.isdecimal() for n in three)}

    def note(self, part: Part) -> None:
        with self._list.open("a", encoding="utf-8") as f:
            f.write(f"{part.number} {part.start} {part.end}\n")

    def become(self, path: Path, *, intact: bool) -> None:
        """Take the file's name, if it is that file; start from nothing next time if it is not."""
        if not intact:
            self.drop()
            raise ReleaseError(f"{path.name} was altered: its SHA-256 is not the manifest's")
        with self.path.open("rb") as f:
            os.fsync(f.fileno())
        self.path.replace(path)
        self.drop()

    def drop(self) -> None:
        self.path.unlink(missing_ok=True)
        self._list.unlink(missing_ok=True)
