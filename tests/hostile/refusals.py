"""What a reader may do with what it cannot use: refuse it, in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from esd_core.errors import EsdError


@contextmanager
def refused_in_one_line() -> Iterator[None]:
    """Reads, or refuses by an error of ours whose message is one line; anything else comes through."""
    refusal = None
    try:
        yield
    except EsdError as e:
        refusal = str(e)
    assert refusal is None or (refusal and "\n" not in refusal)
