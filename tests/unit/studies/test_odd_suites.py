"""Studies of suites and numbers that are unlike the bundled ones."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from esd_core.studies.figures import Figure
from esd_core.studies.study import Study, Table

Studying = Callable[..., tuple[Study, Path]]
Rewriting = Callable[..., str]


@pytest.fixture
def suite_with(suite_file: Path) -> Rewriting:
    """The suite with other entries, in a file of its own."""

    def written(name: str, **entries: Any) -> str:
        path = suite_file.parent / f"{name}.yaml"
        path.write_text(yaml.safe_dump({**yaml.safe_load(suite_file.read_text()), **entries}, allow_unicode=True))
        return str(path)

    return written


def images(table: Table) -> set[int | None]:
    return {cell.images for row in table.rows for cell in row if isinstance(cell, Figure) and cell.lower is not None}


@pytest.mark.parametrize("protocol", ["objects", "eta", "generality", "baselines"])
def test_one_image_of_each_probe_and_a_single_other(study: Studying, suite_with: Rewriting, protocol: str) -> None:
    probes = [
        {"name": name, "concept": name, "label": name, "classifier": "object", "prompts": [f"a {name}"]}
        for name in ("house", "tree")
    ]
    suite = suite_with("two", probes=probes, kinds={"object": ["house", "tree"]})
    steps = {"iterations": 4, "learning_rate": 1e-4} if protocol == "eta" else {}
    found, out = study(protocol, suite=suite, concepts=["house"], images=1, others=1, **steps)
    assert images(found.tables[0]) <= {0, 1}  # efficacy is of the images that showed it before
    assert (out / "study.html").is_file()


def test_names_in_any_script(study: Studying, suite_with: Rewriting) -> None:
    probes = [
        {"name": name, "concept": name, "label": label, "classifier": "object", "prompts": [f"a {name}"]}
        for name, label in (("家", "house"), ("дерево", "tree"), ("дерева", "tree"))
    ]
    suite = suite_with("scripts", probes=probes, kinds={"object": ["家", "дерево", "дерева"]})
    found, out = study("objects", suite=suite, images=1, others=1)
    assert [row[0] for row in found.tables[0].rows] == ["家", "дерево", "дерева", "mean"]
    page = (out / "study.html").read_text(encoding="utf-8")
    assert all(
        re.search(f"<text[^>]*>{name}</text>", page) for name in ("家", "дерево")
    )  # text, for the reader's fonts
    steered, drawn = study("baselines", suite=suite, concepts=["дерево", "дерева"], kind="object", images=1, others=1)
    assert len({picture.name for picture in steered.pictures}) == 2  # their names in files do not collide
    assert all((drawn / f"{picture.name}.png").is_file() for picture in steered.pictures)


def test_a_concept_is_called_as_the_suite_writes_it_and_erased_once(study: Studying) -> None:
    found, _ = study("objects", concepts=["HOUSE", "house"])
    assert [row[0] for row in found.tables[0].rows] == ["house", "mean"]
    assert images(found.tables[0]) == {2, 3}


def test_each_concept_s_models_are_told_apart_in_the_table_of_pictures(study: Studying, suite_with: Rewriting) -> None:
    suite = suite_with("coherent", coherence={"model": "object", "false_alarms": 0.2, "images": 60})
    found, _ = study("baselines", suite=suite, concepts=["house", "tree"])
    told = next(table for table in found.tables if table.name == "pictures")
    rows = [str(row[0]) for row in told.rows]
    assert rows[:2] == ["base", "negative prompt, without house"]
    assert rows[-2:] == ["ESD-x, without tree", "ESD-u, without tree"]
    assert len(rows) == len(set(rows)) == 1 + 2 * 7
    one, _ = study("baselines", suite=suite, concepts=["house"])
    told = next(table for table in one.tables if table.name == "pictures")
    assert [row[0] for row in told.rows][-1] == "ESD-u"
