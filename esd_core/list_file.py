"""Concept lists as people write them: read whole, and refused with every fault at once, each with its line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from esd_core.concept_list import ConceptList
from esd_core.concepts import MINIATURE, ConceptEntry
from esd_core.errors import EsdError, InvalidInput
from esd_core.evaluation.suite import load_suite
from esd_core.faults import faults_of
from esd_core.yaml_text import parse, printable, read_text

Place = tuple[str | int, ...]  # keys and row numbers that lead to a value
Fault = tuple[Place, str]  # where, and what is wrong
MOST_ROWS = 10_000
MOST_TOLD = 50  # faults in one message
TWICE = "concept listed more than once"


@dataclass(frozen=True)
class Written:
    """A list's plain values. lines: of each of them, from 1; none where the list is no file."""

    name: str
    raw: dict[str, Any]
    lines: Mapping[Place, int] = field(default_factory=dict)

    def line_of(self, place: Place) -> int:
        """The line of a value, or of what it is missing from; 0 where the list is no file."""
        known = (place[:length] for length in range(len(place), 0, -1))
        return next((self.lines[shorter] for shorter in known if shorter in self.lines), 0)

    def refuse(self, faults: Sequence[Fault]) -> None:
        """Raise InvalidInput if there are faults, telling all of them in the order of their lines."""
        if not faults:
            return
        told = []
        for place, what in sorted(faults, key=lambda fault: self.line_of(fault[0])):
            line = f"line {self.line_of(place)}: " if self.line_of(place) else ""
            where = f"{'.'.join(map(str, place))}: " if place else ""
            told.append(printable(f"{line}{where}{what}"[:500]))
        if len(told) > MOST_TOLD:
            told[MOST_TOLD:] = [f"and {len(told) - MOST_TOLD} more"]
        raise InvalidInput(f"{self.name}: {'; '.join(told)}")


def load_concept_list(path: Path, *, measured: bool = False) -> ConceptList:
    """Read a YAML concept list; see `checked_list`."""
    return checked_list(read_yaml(read_text(path, "concept list"), str(path)), measured=measured)


def read_yaml(text: str, name: str) -> Written:
    """The values of a YAML list and their lines; raises InvalidInput for what is no YAML, or says a thing twice."""
    tree, raw = parse(text, name)
    if not isinstance(raw, dict) or not isinstance(tree, yaml.MappingNode):
        raise InvalidInput(f"{name} is not a concept list: expected a mapping with the key 'concepts'")
    values = list(_values(tree, ()))
    written = Written(name, raw, dict(reversed(values)))
    again = Counter(place for place, _ in values)
    written.refuse([(place, f"{place[-1]!r} is said {count} times") for place, count in again.items() if count > 1])
    return written


def _values(node: yaml.Node, place: Place) -> Iterator[tuple[Place, int]]:
    """Every value below a node with the line where it, or its key, begins."""
    children: list[tuple[str | int, yaml.Node, yaml.Node]] = []
    if isinstance(node, yaml.MappingNode):
        children = [(str(key.value), key, value) for key, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        children = [(number, value, value) for number, value in enumerate(node.value)]
    for step, beginning, value in children:
        yield (*place, step), beginning.start_mark.line + 1
        yield from _values(value, (*place, step))


def checked_list(written: Written, *, measured: bool = False) -> ConceptList:
    """The list; raises InvalidInput naming every fault with its line. measured: its suite must measure each concept."""
    if len(_rows(written)) > MOST_ROWS:
        written.refuse([(("concepts",), f"{len(_rows(written))} concepts; a list has at most {MOST_ROWS}")])
    faults = [*_listed_twice(written), *(_not_measured(written) if measured else ())]
    try:
        wanted = ConceptList.model_validate(written.raw)
    except ValidationError as e:
        faults += [(place, what) for place, what in faults_of(e) if TWICE not in what]
    written.refuse(faults)
    return wanted


def _rows(written: Written) -> list[Any]:
    rows = written.raw.get("concepts")
    return list(rows) if isinstance(rows, list | tuple) else []


def _listed_twice(written: Written) -> Iterator[Fault]:
    """Names that stand in the list before, as concepts or synonyms."""
    first: dict[str, Place] = {}
    for number, row in enumerate(_rows(written)):
        told = dict(row) if isinstance(row, Mapping | ConceptEntry) else {}
        synonyms = told.get("also_known_as")
        synonyms = synonyms if isinstance(synonyms, list | tuple) else ()
        names = [("name", told.get("name")), *(("also_known_as", name) for name in synonyms)]
        for key, name in names:
            place: Place = ("concepts", number, key)
            if not isinstance(name, str):
                continue
            known = first.setdefault(name.strip().casefold(), place)
            if known is not place:
                line = written.line_of(known)
                yield (
                    place,
                    f"{name[:200]!r} is listed before, " + (f"on line {line}" if line else f"as {known[0]}.{known[1]}"),
                )


def _not_measured(written: Written) -> Iterator[Fault]:
    """Concepts that no probe of the list's suite measures; or that there is no such suite."""
    try:
        suite = load_suite(written.raw.get("suite", MINIATURE))
    except EsdError as e:
        yield ("suite",), str(e)
        return
    for number, row in enumerate(_rows(written)):
        try:
            suite.probes_of(ConceptEntry.model_validate(row).erasure.concept)
        except ValidationError:
            continue  # told as a fault of the row
        except EsdError as e:
            yield ("concepts", number, "name"), str(e)
