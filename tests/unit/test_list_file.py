"""A list is refused whole: every fault at once, each with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from esd_core.errors import InvalidInput
from esd_core.list_file import Written, checked_list, load_concept_list, read_yaml

FAULTY = """\
base: miniature
images_per_probe: 0
gates:
  erased_at_most: 2
concepts:
  - name: Van Gogh
    kind: style
    etas: 3

  - name: boat
    kind: object
  - kind: global
  - name: car
    kind: mood
  - name: VAN GOGH
    kind: style
  - {name: sun, kind: global, also_known_as: [boat]}
"""


def test_every_fault_of_a_list_is_told_at_once_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "list.yaml"
    path.write_text(FAULTY)
    with pytest.raises(InvalidInput) as refusal:
        load_concept_list(path, measured=True)
    told = str(refusal.value).removeprefix(f"{path}: ").split("; line ")
    assert [fault.removeprefix("line ").partition(": ")[0] for fault in told] == ["2", "4", "8", "12", "14", "15", "17"]
    for fault, words in zip(
        told,
        (
            "images_per_probe: Input should be greater than or equal to 1 (given: 0)",
            "gates.erased_at_most: Input should be less than or equal to 1 (given: 2)",
            "concepts.0.etas: Extra inputs are not permitted",
            "concepts.2.name: Field required",
            "concepts.3.kind: Input should be 'style', 'object' or 'global'",
            "concepts.4.name: 'VAN GOGH' is listed before, on line 6",
            "concepts.5.also_known_as: 'boat' is listed before, on line 10",
        ),
        strict=True,
    ):
        assert words in fault


def test_what_the_suite_does_not_measure_has_a_line_too(tmp_path: Path) -> None:
    path = tmp_path / "list.yaml"
    path.write_text("concepts:\n- {name: car, kind: object}\n- {name: zeppelin, kind: object}\n")
    with pytest.raises(InvalidInput, match=r"line 3: concepts\.1\.name: no probe of the suite measures 'zeppelin'"):
        load_concept_list(path, measured=True)
    assert len(load_concept_list(path).concepts) == 2
    path.write_text("suite: nowhere.yaml\nconcepts:\n- {name: car, kind: mood}\n")
    with pytest.raises(InvalidInput, match=r"line 1: suite: cannot read .*; line 3: concepts\.0\.kind: "):
        load_concept_list(path, measured=True)


def test_a_thing_said_twice_is_refused_instead_of_half_forgotten() -> None:
    with pytest.raises(InvalidInput, match=r"l: line 1: base: 'base' is said 2 times"):
        read_yaml("base: a\nbase: b\nconcepts: []", "l")


def test_what_is_no_file_has_no_lines() -> None:
    rows = [{"name": "car", "kind": "object"}, {"name": "Car", "kind": "style", "seed": -1}]
    with pytest.raises(
        InvalidInput, match=r"^parameters: concepts.1.name: 'Car' is listed before, as concepts.0; conc"
    ):
        checked_list(Written("parameters", {"concepts": rows}))


def test_a_refused_row_does_not_make_the_list_look_empty() -> None:
    with pytest.raises(InvalidInput) as refusal:
        checked_list(read_yaml("concepts:\n  - {name: house, kind: mood}\n", "a.yaml"))
    expected = "a.yaml: line 2: concepts.0.kind: Input should be 'style', 'object' or 'global' (given: 'mood')"
    assert str(refusal.value) == expected
    with pytest.raises(InvalidInput, match="at least 1 item"):
        checked_list(read_yaml("concepts: []\n", "a.yaml"))
