"""YAML that people wrote, before anything is made of it: what could exhaust memory or the stack is refused first.

Aliases let a few lines stand for billions of values, and thousands of brackets overflow the parser's own stack.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from esd_core.errors import InvalidInput

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # a list of thousands is read in a moment
MOST_BYTES = 4 << 20
MOST_DEPTH = 20  # of values in values
MOST_VALUES = 1_000_000  # with aliases written out
_OPENING, _CLOSING = (yaml.SequenceStartEvent, yaml.MappingStartEvent), (yaml.SequenceEndEvent, yaml.MappingEndEvent)


def read_text(path: Path, what: str) -> str:
    """The text of a file that a person named; raises InvalidInput for what is none, or is too large to be one."""
    shown = printable(str(path)[:200])
    try:
        if not path.is_file():
            raise InvalidInput(f"cannot read {what} {shown}: {'it is no file' if path.exists() else 'it is not there'}")
        if path.stat().st_size > MOST_BYTES:
            raise InvalidInput(f"{shown} has {path.stat().st_size} bytes, a {what} has at most {MOST_BYTES}")
        return path.read_text(encoding="utf-8")
    except OSError as e:
        raise InvalidInput(f"cannot read {what} {shown}: {e.strerror}") from e
    except UnicodeDecodeError as e:
        raise InvalidInput(f"{shown} is not YAML: it is no text in UTF-8") from e


def printable(text: str) -> str:
    """The text with a question mark for each character that would move a cursor, or hide or turn others."""
    return "".join(c if c.isprintable() else "?" for c in text)


def parse(text: str, name: str) -> tuple[yaml.Node | None, Any]:
    """The nodes of a YAML text, and its plain values; raises InvalidInput for what is no YAML, or is refused."""
    if len(text) > MOST_BYTES:
        raise InvalidInput(f"{name} has {len(text)} characters, {MOST_BYTES} are the most that are read")
    try:
        _refuse_tricks(text, name)
        loader = LOADER(text)
        tree = loader.get_single_node()
        return tree, loader.construct_document(tree) if tree else None
    except (yaml.YAMLError, ValueError, OverflowError, TypeError) as e:  # of dates and numbers that are none
        raise InvalidInput(f"{name} is not YAML: {' '.join(str(e).split())[:300]}") from e


def _refuse_tricks(text: str, name: str) -> None:
    """Raise InvalidInput for values that are nested too deep, contain themselves, or are too many once written out."""
    open_: list[tuple[str | None, int]] = [(None, 0)]  # collections around: their anchor, and how many values they have
    sizes: dict[str, int] = {}  # values that each anchor stands for
    loader = LOADER(text)
    while loader.check_event():
        event, line = loader.peek_event(), f"{name}: line {loader.peek_event().start_mark.line + 1}"
        loader.get_event()
        if isinstance(event, _OPENING):
            sizes.pop(str(event.anchor), 0)
            open_.append((event.anchor, 1))
            if len(open_) > MOST_DEPTH:
                raise InvalidInput(f"{line}: values are nested more than {MOST_DEPTH} deep")
            continue
        if isinstance(event, yaml.AliasEvent):
            if str(event.anchor) not in sizes:
                raise InvalidInput(f"{line}: *{str(event.anchor)[:40]} stands for itself, or for nothing: write it out")
            anchor, count = None, sizes[str(event.anchor)]
        elif isinstance(event, _CLOSING):
            anchor, count = open_.pop()
        elif isinstance(event, yaml.ScalarEvent):
            anchor, count = event.anchor, 1
        else:
            continue
        if anchor:
            sizes[anchor] = count
        open_[-1] = (open_[-1][0], open_[-1][1] + count)
        if open_[-1][1] > MOST_VALUES:
            raise InvalidInput(f"{line}: with aliases written out these are more than {MOST_VALUES} values")
