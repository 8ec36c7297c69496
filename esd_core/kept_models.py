"""Models that stay in host memory from one concept to the next, so that a runner loads each of them once.

What is kept is as its files say and is never changed: whoever trains or edits a model is given a copy.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

Model = TypeVar("Model")
_KEPT: ContextVar[dict[Hashable, Any] | None] = ContextVar("kept_models", default=None)


@contextmanager
def keeping() -> Iterator[None]:
    """Within this block what is loaded is kept; at its end all of it is let go."""
    token = _KEPT.set({})
    try:
        yield
    finally:
        _KEPT.reset(token)


def is_keeping() -> bool:
    return _KEPT.get() is not None


def at_work(model: Any, device: Any) -> Any:
    """A loaded module on the device where it works; a copy if it is kept, and does not work in host memory."""
    return (copy.deepcopy(model) if is_keeping() and str(device) != "cpu" else model).to(device)


def kept(key: Hashable, load: Callable[[], Model]) -> Model:
    """What was loaded under this key before, or is now. key: names the content, with a digest."""
    models = _KEPT.get()
    if models is None:
        return load()
    if key not in models:
        models[key] = load()
    found: Model = models[key]
    return found
