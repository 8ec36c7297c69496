"""What is asked of S3, as boto3 sends it: recorded, and cut short where a test wants it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tasks.s3.storage import Bucket


@dataclass
class Calls:
    """Operations in the order they were sent, with their headers and addresses."""

    sent: list[tuple[str, dict[str, str], str]] = field(default_factory=list)

    def named(self, operation: str) -> list[dict[str, str]]:
        """Headers of each call of an operation, names in lower case."""
        return [headers for name, headers, _ in self.sent if name == operation]


@contextmanager
def recorded(bucket: Bucket, *, cut_at: tuple[str, int] | None = None) -> Iterator[Calls]:
    """Record calls; cut_at: the operation, and which call of it raises instead of being sent."""
    calls, counts = Calls(), itertools.count(1)

    def note(model: Any, params: dict[str, Any], **_: Any) -> None:
        if cut_at and model.name == cut_at[0] and next(counts) >= cut_at[1]:
            raise ConnectionAbortedError("cut by the test")
        headers = {name.lower(): str(value) for name, value in params["headers"].items()}
        calls.sent.append((model.name, headers, params["url_path"]))

    bucket.client.meta.events.register("before-call.s3", note)
    try:
        yield calls
    finally:
        bucket.client.meta.events.unregister("before-call.s3", note)
