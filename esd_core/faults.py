"""What is wrong with values that people gave, in their words."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError


def faults_of(error: ValidationError) -> list[tuple[tuple[str | int, ...], str]]:
    """All faults of a validation: where, what is wrong and what was given."""

    def describe(fault: Any) -> str:
        given = f" (given: {fault['input']!r})" if fault["type"] not in ("missing", "value_error") else ""
        return f"{fault['msg']}{given[:120]}"

    told = error.errors()
    within = {fault["loc"][:-depth] for fault in told for depth in range(1, len(fault["loc"]))}
    # a list counts as too short when one of its rows is refused: the row's own fault says what is wrong
    told = [fault for fault in told if fault["type"] != "too_short" or fault["loc"] not in within]
    return [(fault["loc"], describe(fault)) for fault in told]


def describe_faults(error: ValidationError) -> str:
    """All faults of a validation in one line; names that would break it, or steer a terminal, are spelt out."""

    def spelt(place: str | int) -> str:
        return str(place) if str(place).isprintable() else repr(place)

    return "; ".join(f"{'.'.join(map(spelt, loc))}: {what}" if loc else what for loc, what in faults_of(error))
