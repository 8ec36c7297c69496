"""Hostile concept lists and suites: refused with one line that names the file, at once, and without a trace."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esd_core.concepts import slug_of
from esd_core.errors import EsdError, InvalidInput
from esd_core.evaluation.suite import load_suite
from esd_core.list_file import load_concept_list
from tasks.releases.layout import is_plain_name
from tests.hostile.refusals import QUICK, refused_in_one_line


def rows(*written: str) -> str:
    return "".join(["concepts:\n", *(f"- {row}\n" for row in written)])


def car(more: str) -> str:
    return rows(f"{{name: car, kind: object, {more}}}")


LETTERS = "abcdefghi"
LAUGHS = "".join(f"{c}: &{c} [{', '.join([f'*{p}'] * 9)}]\n" for p, c in itertools.pairwise(LETTERS))
# what is written, and what the refusal says of it
BAD_LISTS: dict[str, tuple[str | bytes, str]] = {
    "a billion laughs": (f"a: &a [x]\n{LAUGHS}", "more than 1000000 values"),
    "an alias of itself": ("concepts: &a [*a]\n", r"line 1: \*a stands for itself"),
    "an alias of nothing": ("concepts: [*a]\n", r"line 1: \*a stands for itself, or for nothing"),
    "an alias within a later anchor": ("base: &a x\nconcepts: &a [*a]\n", r"line 2: \*a stands for itself"),
    "an alias of a row": (rows("&x {name: car, kind: object}", "*x"), "line 2: .* listed before"),
    "brackets without end": ("concepts: " + "[" * 5000, "nested more than"),
    "a hundred thousand brackets": ("concepts: " + "[" * 100_000 + "]" * 100_000, "nested more than"),
    "braces without end": ("concepts: " + "{a: " * 3000, "nested more than"),
    "five megabytes": ("#" * (5 << 20), "5242880 bytes"),
    "too many concepts": (rows(*(f"{{name: t{n}, kind: object}}" for n in range(10_001))), "line 1: .* at most 10000"),
    "a call": ("concepts: !!python/object/apply:os.system [touch run]\n", "constructor for the tag"),
    "a module": ("!!python/module:antigravity x\n", "constructor for the tag"),
    "a new object": ("concepts: !!python/object/new:subprocess.Popen [touch]\n", "constructor for the tag"),
    "a bell in quotes": (rows('{name: "a\\x07b", kind: object}'), "line 2: concepts.0.name"),
    "a bell as it is": (rows("{name: a\x07b, kind: object}"), "control characters"),
    "an escape sequence": (rows('{name: "\\e[31mred", kind: object}'), "line 2: concepts.0.name"),
    "a NUL": (rows('{name: "a\\0b", kind: object}'), "line 2: concepts.0.name"),
    "two lines in a name": (rows('{name: "a\\nb", kind: object}'), "line 2: concepts.0.name"),
    "right to left": (rows('{name: "\u202etac", kind: object}'), "line 2: concepts.0.name"),
    "a zero-width space": (rows('{name: "c\u200bar", kind: object}'), "line 2: concepts.0.name"),
    "a byte order mark in a name": (rows('{name: "\ufeffcar", kind: object}'), "line 2: concepts.0.name"),
    "blank": (rows('{name: "   ", kind: object}'), "line 2: concepts.0.name"),
    "10,000 characters": (rows(f"{{name: {'x' * 10_000}, kind: object}}"), "at most 200 characters"),
    "10,000 characters twice": (rows(*[f"{{name: {'x' * 10_000}, kind: object}}"] * 2), "listed before"),
    "10,000 characters of a key": (f"? {'x' * 10_000}\n: 1\n", "line 1: x{400}"),
    "a key twice": ("base: miniature\nbase: elsewhere\n" + car("seed: 1"), "line 1: base: 'base' is said 2 times"),
    "a row's key twice": (rows("{name: car, kind: object, kind: style}"), "line 2: .* said 2 times"),
    "a list as a key": ("? [a, b]\n: 1\n", "unhashable key"),
    "a number as a key": ("1: 2\n" + car("seed: 1"), "Keys should be strings"),
    "a list": ("- car\n", "not a concept list"),
    "a word": ("car", "not a concept list"),
    "nothing": ("", "not a concept list"),
    "two documents": (rows("{name: car, kind: object}") + "---\n" + rows(), "single document"),
    "a name that is a number": (rows("{name: 5, kind: object}"), "valid string"),
    "a name that is a date": (rows("{name: 2020-01-01, kind: object}"), "valid string"),
    "a name that is yes": (rows("{name: yes, kind: object}"), "valid string"),
    "a date that is none": (rows("{name: 2020-99-99, kind: object}"), "not YAML"),
    "bytes": (rows("{name: !!binary aGVsbG8gd29ybGQ=, kind: object, base: x}"), "Extra inputs"),
    "synonyms that are a word": (car("also_known_as: boat"), "also_known_as: .* valid tuple"),
    "synonyms that are a number": (car("also_known_as: 5"), "also_known_as: .* valid tuple"),
    "a hundred synonyms": (car(f"also_known_as: [{', '.join(f's{n}' for n in range(100))}]"), "at most 20 items"),
    "5,000 digits": (car(f"seed: {'9' * 5000}"), "not YAML"),
    "infinite": (car("learning_rate: .inf"), "learning_rate"),
    "not a number": (car("learning_rate: .nan"), "learning_rate"),
    "less than none": (car("iterations: -1"), "iterations"),
    "concepts that are a mapping": ("concepts: {name: car}\n", "concepts: "),
    "gates that are a list": ("gates: [1]\n" + car("seed: 1"), "gates: "),
    "a suite with a NUL": ('suite: "a\\0b"\n' + car("seed: 1"), "line 1: suite: cannot read"),
    "a suite that is a folder": ("suite: /\n" + car("seed: 1"), "line 1: suite: cannot read"),
    "a suite that is no suite": ("suite: /etc/passwd\n" + car("seed: 1"), "line 1: suite: "),
    "a suite of 10,000 characters": (f"suite: {'a' * 10_000}\n" + car("seed: 1"), "line 1: suite: cannot read"),
    "not UTF-8": (b"concepts: [{name: \xff\xfe, kind: object}]\n", "no text in UTF-8"),
    "UTF-16": ("concepts: []\n".encode("utf-16"), "no text in UTF-8"),
    "a picture": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "no text in UTF-8"),
}


@pytest.mark.parametrize("name", BAD_LISTS)
def test_a_bad_list_is_refused_in_one_line(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content, says = BAD_LISTS[name]
    path = tmp_path / "list.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InvalidInput, match=says) as refusal:
        load_concept_list(path, measured=True)
    told = str(refusal.value)
    assert told.startswith(str(path))
    assert told.isprintable()
    assert len(told) < 1500
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["a billion laughs", "a hundred thousand brackets", "a call", "not UTF-8", "nothing"])
def test_a_bad_suite_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    content, path = BAD_LISTS[name][0], tmp_path / "suite.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InvalidInput, match=str(path)) as refusal:
        load_suite(str(path))
    assert str(refusal.value).isprintable()


@pytest.mark.parametrize("place", ["/dev/zero", "/", "nowhere.yaml"])
def test_what_is_no_file_is_not_read(place: str) -> None:
    with pytest.raises(InvalidInput, match=f"cannot read concept list {place}"):
        load_concept_list(Path(place))


TRICKS = ["../../etc/passwd", "..", "/", "C:\\car", "~root", ".hidden", "a/b", "con", "$(touch run)", "'; drop", "…/…"]


@pytest.mark.parametrize("name", TRICKS)
def test_a_name_with_path_tricks_stays_in_its_folder(name: str) -> None:
    """AC/DC is a name: it is taken as it is, and files are called by its slug."""
    assert is_plain_name(slug_of(name))


@QUICK
@given(name=st.text(min_size=1, max_size=200))
def test_no_name_leaves_its_folder(name: str) -> None:
    assert is_plain_name(slug_of(name))


@QUICK
@given(
    content=st.binary(max_size=300) | st.text(alphabet="&*[]{}!?:-,|>'\"# \n\tab01.%@<~", max_size=120).map(str.encode)
)
def test_no_bytes_make_reading_a_list_fail(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "list.yaml"
    path.write_bytes(content)
    for read in (load_concept_list, lambda path: load_suite(str(path))):
        with pytest.raises(EsdError) as refusal:
            read(path)
        assert "\n" not in str(refusal.value)


SCALARS = st.sampled_from(
    ["1", "-1", ".nan", "1e999", "yes", "~", "2020-02-30", "[]", "{}", "[[]]", "x", '"\\0"', "0x"]
)
FIELDS = (
    "name",
    "kind",
    "also_known_as",
    "retain",
    "erase_from",
    "recipe",
    "seed",
    "iterations",
    "learning_rate",
    "keep",
)


@QUICK
@given(given_values=st.dictionaries(st.sampled_from(FIELDS), SCALARS, max_size=4))
def test_no_value_of_a_row_makes_reading_a_list_fail(tmp_path: Path, given_values: dict[str, str]) -> None:
    row = {"name": "car", "kind": "object", **given_values}
    path = tmp_path / "list.yaml"
    path.write_text(rows("{" + ", ".join(f"{key}: {value}" for key, value in row.items()) + "}"))
    with refused_in_one_line():
        load_concept_list(path, measured=True)
