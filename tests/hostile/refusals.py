"""What a reader may do with what it cannot use: refuse it, in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from esd_core.errors import EsdError

QUICK = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)


@contextmanager
def refused_in_one_line() -> Iterator[None]:
    """Reads, or refuses by an error of ours whose message is one line; anything else comes through."""
    refusal = None
    try:
        yield
    except EsdError as e:
        refusal = str(e)
    assert refusal is None or (refusal and "\n" not in refusal)
