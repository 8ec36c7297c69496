"""Releases out of S3: verified, or refused with everything that is wrong. Needs neither torch nor MLflow."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from esd_core import digest
from esd_core.errors import DiskFull, InvalidInput, ReleaseError
from tasks.approvals.approval_log import Decision, read_log
from tasks.approvals.standing import Standing, State, current_release, standing_of
from tasks.releases.layout import is_model_name, release_at
from tasks.releases.pointer import Pointer, read_pointer
from tasks.releases.trust import Trust
from tasks.releases.verifying import comparable_base, download_found, faults_of_content, faults_of_log, look
from tasks.s3.storage import Bucket, open_bucket, parse_uri
from tasks.settings import get_settings


def fetch(reference: str, out: Path | None = None, trust: Trust | None = None, *, progress: bool = False) -> Path:
    """Fetch a release, verified, to `out` or into the cache; what is there already is not fetched again.

    reference: MODEL (its current release), MODEL@VERSION, or the release's address in S3. Raises ReleaseError when it
    was withdrawn, was never released, or is not whole and unaltered.
    """
    bucket, model, version = _resolve(reference)
    found = look(bucket, model, version, trust or Trust.of_settings())
    log = read_log(bucket)
    standing = standing_of(log, model, version)
    _refuse_withdrawn(standing)
    if standing.state not in (State.RELEASED, State.SUPERSEDED):
        stands = f"is {standing.state.value}" if standing.entries else "is one that nobody has decided on"
        raise ReleaseError(f"{model} version {version} {stands}, not released: see `esd status`")
    faults = found.faults or faults_of_log(found, log)
    if found.manifest is None or faults:
        raise ReleaseError(f"{model} version {version} is not fetched: {'; '.join(faults)}")
    folder = out or get_settings().releases_folder / digest.of_bytes(found.content)
    with _writing(folder):
        faults = download_found(found, found.manifest, folder, progress=progress)
    faults = faults or faults_of_content(folder, found.manifest, comparable_base(found.manifest, None))
    if faults:
        raise ReleaseError(f"{folder} does not hold {model} version {version}: {'; '.join(faults)}")
    return folder


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Turn what a folder that cannot be written to raises into one line."""
    try:
        yield
    except OSError as e:
        told = f"{folder} cannot be written to: {e.strerror or e}"
        if e.errno in digest.NO_ROOM:
            raise DiskFull(f"{told}; free some room, the same command continues") from e
        raise InvalidInput(f"{told}; choose another with --out, or ESD_HOME") from e


def _resolve(reference: str) -> tuple[Bucket, str, int]:
    """Bucket, model and version that a reference names."""
    if "://" in reference:
        name, prefix = parse_uri(reference)
        named = release_at(prefix)
        if named is None:
            raise InvalidInput(f"{reference} is not where a release lies: expected s3://BUCKET/releases/MODEL/VERSION")
        return open_bucket(name), *named
    model, at, number = reference.partition("@")
    if not is_model_name(model) or (at and not re.fullmatch("[0-9]{1,9}", number)):
        raise InvalidInput(f"{reference[:200]!r} names no release: expected MODEL, MODEL@VERSION or s3://...")
    bucket = open_bucket()
    return bucket, model, int(number) if at else _current(bucket, model)


def _current(bucket: Bucket, model: str) -> int:
    """The version that a model's pointer names, provided that the log released it."""
    pointer, log = read_pointer(bucket, model), read_log(bucket)
    current = current_release(log, model)
    if pointer is None:
        withdrawn = next((e for e in reversed(log) if e.model == model and e.decision is Decision.WITHDRAWN), None)
        if withdrawn:
            _refuse_withdrawn(Standing((withdrawn,)))
        raise ReleaseError(f"{model} has no release: see `esd status`")
    if current is None or pointer != Pointer.of(current):
        raise ReleaseError(f"the pointer of {model} was moved without a record: see `esd audit`, or give MODEL@VERSION")
    return pointer.version


def _refuse_withdrawn(standing: Standing) -> None:
    last = standing.last
    if last and standing.state is State.WITHDRAWN:
        raise ReleaseError(
            f"{last.model} version {last.version} was withdrawn by {last.by} on {last.at:%Y-%m-%d}: {last.reason}"
        )
