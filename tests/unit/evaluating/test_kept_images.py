"""What was measured is found again: base images for all concepts, damaged ones never, nothing done twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from esd_core.base_model import ResolvedBase
from esd_core.concepts import Concept, ConceptKind
from esd_core.evaluation import evaluate as module
from esd_core.evaluation.suite import Suite
from tests.measuring import HOUSE, measured


def test_a_finished_evaluation_is_returned_without_work(
    base: ResolvedBase, edited_weights: Path, tiny_suite: Suite, tmp_path: Path, loads: list[str]
) -> None:
    first = measured(base, edited_weights, tiny_suite, tmp_path)
    assert len(loads) == 2  # the base, and a copy with the edited weights
    assert measured(base, edited_weights, tiny_suite, tmp_path) == first
    assert len(loads) == 2


def test_base_images_are_made_once_for_all_concepts(
    base: ResolvedBase, edited_weights: Path, tiny_suite: Suite, tmp_path: Path, loads: list[str]
) -> None:
    house = measured(base, edited_weights, tiny_suite, tmp_path)
    tree = measured(base, edited_weights, tiny_suite, tmp_path, Concept(name="tree", kind=ConceptKind.OBJECT))
    assert len(loads) == 3
    assert [row.probe for row in tree.others] == ["house", "no tree unasked"]
    assert tree.others[0] == house.erased[0]


@pytest.mark.parametrize("kind", ["npy", "json"])
@pytest.mark.parametrize(
    "damage",
    [lambda whole: whole[: len(whole) // 2], lambda whole: whole[:-9] + bytes(9), lambda _: b"", lambda _: b"\xff{"],
    ids=["cut", "zeros", "empty", "garbage"],
)
def test_damaged_base_images_are_made_again(
    base: ResolvedBase,
    edited_weights: Path,
    tiny_suite: Suite,
    tmp_path: Path,
    loads: list[str],
    kind: str,
    damage: Callable[[bytes], bytes],
) -> None:
    first = measured(base, edited_weights, tiny_suite, tmp_path)
    damaged = min((tmp_path / "cache").rglob(f"*.{kind}"))
    whole = damaged.read_bytes()
    damaged.write_bytes(damage(whole))
    (tmp_path / HOUSE.slug / "evaluation.json").unlink()
    assert measured(base, edited_weights, tiny_suite, tmp_path) == first
    assert damaged.read_bytes() == whole
    assert len(loads) == 4


def test_altered_answers_are_noticed_and_the_images_judged_again(
    base: ResolvedBase, edited_weights: Path, tiny_suite: Suite, tmp_path: Path, loads: list[str]
) -> None:
    first = measured(base, edited_weights, tiny_suite, tmp_path)
    answers = min((tmp_path / "cache").rglob("*.json"))
    told = json.loads(answers.read_text())
    answers.write_text(json.dumps({**told, "seen": [["house", "tree"] for _ in told["seen"]]}))
    (tmp_path / HOUSE.slug / "evaluation.json").unlink()
    assert measured(base, edited_weights, tiny_suite, tmp_path) == first
    assert json.loads(answers.read_text()) == told
    assert len(loads) == 4


def test_an_interrupted_evaluation_continues(
    base: ResolvedBase, edited_weights: Path, tiny_suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = measured(base, edited_weights, tiny_suite, tmp_path)

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    out = tmp_path / HOUSE.slug
    (out / "evaluation.json").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(module, "write_before_after", interrupt)
        with pytest.raises(KeyboardInterrupt):
            measured(base, edited_weights, tiny_suite, tmp_path)
    assert not (out / "evaluation.json").exists()
    monkeypatch.setattr("esd_core.evaluation.artist.generate", interrupt)
    assert measured(base, edited_weights, tiny_suite, tmp_path) == whole


def test_more_images_of_the_base_are_added_to_the_cache(
    base: ResolvedBase, edited_weights: Path, tiny_suite: Suite, tmp_path: Path, drawn: list[tuple[int, str, int]]
) -> None:
    measured(base, edited_weights, tiny_suite, tmp_path, images=4)
    del drawn[:]
    measured(base, edited_weights, tiny_suite, tmp_path, images=7)
    assert len(drawn) == 3 * (3 + 7)  # of the base the three that are new, of the edited weights all


def test_an_evaluation_of_an_older_release_is_made_again(
    base: ResolvedBase, edited_weights: Path, tiny_suite: Suite, tmp_path: Path, loads: list[str]
) -> None:
    report = measured(base, edited_weights, tiny_suite, tmp_path)
    path = tmp_path / HOUSE.slug / "evaluation.json"
    old = json.loads(path.read_text())
    for row in (*old["erased"], *old["others"]):
        for count in ("both", "only_before", "only_after", "neither"):
            del row[count]
    del old["schema_version"]
    path.write_text(json.dumps(old))
    assert measured(base, edited_weights, tiny_suite, tmp_path) == report
    assert len(loads) == 3
