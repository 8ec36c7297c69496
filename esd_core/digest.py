"""Digests that name content (SHA-256 of files, folders, canonical JSON), and files that appear whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from esd_core.errors import DiskFull

CHUNK = 1 << 20
SETTLED = 2.0  # seconds after which a change shows in a file's times
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def of_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def of_file(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def of_json(value: Any) -> str:
    """Digest of a JSON value in canonical form: sorted keys, no spaces."""
    return of_bytes(json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode())


def of_files(root: Path, files: list[Path]) -> str:
    """Digest of names and contents of `files`, which lie under `root`.

    A process reads a file again only if it has changed.
    """
    return of_json({path.relative_to(root).as_posix(): _of_model_file(path) for path in files})


def _of_model_file(path: Path) -> str:
    """What is gigabytes is asked for many times; the system tells when it was last changed, but not finely enough for
    what was changed just now."""
    known = path.stat()
    if time.time() - known.st_ctime < SETTLED:
        return of_file(path)
    return _of_unchanged(path, known.st_dev, known.st_ino, known.st_size, known.st_mtime_ns, known.st_ctime_ns)


@lru_cache(maxsize=10_000)
def _of_unchanged(path: Path, *_: int) -> str:
    return of_file(path)


@contextmanager
def whole_file(path: Path, *, flush: bool = True) -> Iterator[Path]:
    """Yield a path beside `path` to write to; on success it is flushed to disk and takes `path`'s name at once.

    flush: not needed for what is checked when it is read, and made again. Raises DiskFull where there is no room.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        if flush:
            with partial.open("rb") as f:
                os.fsync(f.fileno())
        partial.chmod(0o644)
        partial.replace(path)
    except OSError as e:
        if e.errno not in NO_ROOM:
            raise
        raise DiskFull(
            f"no room to write {path}: {os.strerror(e.errno)}; free some, or work on another disk (ESD_HOME); what was "
            "done is kept, the same command continues"
        ) from e
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str, *, flush: bool = True) -> None:
    """Write a text file whole or not at all."""
    with whole_file(path, flush=flush) as partial:
        partial.write_text(text, encoding="utf-8")
