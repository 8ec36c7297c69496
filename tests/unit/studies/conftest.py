"""A suite of two objects and an implied concept, folders that studies share, erasures of a few steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from esd_core.base_model import ResolvedBase
from esd_core.evaluation.suite import load_suite
from esd_core.machine import Machine
from esd_core.recipe import named_recipe
from esd_core.studies import protocols
from esd_core.studies.request import checked_request
from esd_core.studies.study import Study
from esd_core.studies.workbench import Folders, Workbench

IMAGES, OTHERS = 3, 2


@pytest.fixture(scope="module")
def suite_file(tiny_classifier: Path) -> Path:
    """Two objects, one of which is also implied, and a style, judged at random."""
    probes: list[dict[str, object]] = [
        {"name": "house", "concept": "house", "label": "house", "prompts": ["a house", "a red house"]},
        {"name": "tree", "concept": "tree", "label": "tree", "prompts": ["a tree"]},
        {"name": "sun, named", "concept": "sun", "label": "nothing", "prompts": ["the sun"]},
        {"name": "sun, implied", "concept": "sun", "label": "nothing", "prompts": ["the beach"], "implied": True},
    ]
    suite = {
        "classifiers": {"object": {"model": "object"}},
        "probes": [{**probe, "classifier": "object"} for probe in probes],
        "kinds": {"object": ["house", "tree"], "global": ["sun"]},
        "steps": 2,
        "guidance_scale": 3.0,
    }
    path = tiny_classifier.parent / "studies.yaml"
    path.write_text(yaml.safe_dump(suite))
    return path


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Shared by all tests, as it is by all studies of a home."""
    home = tmp_path_factory.mktemp("home")
    return Folders(home / "jobs", home / "banks", home / "cache")


@pytest.fixture(autouse=True)
def quick_erasures(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tuned recipe with a few fixed steps, where nothing else is asked for."""
    quick = {"iterations": 4, "learning_rate": 1e-4, "negative_guidance": 1.0}
    rollouts = {"rollout_steps": 4, "points_per_rollout": 4, "contexts": 0}
    monkeypatch.setattr(
        "esd_core.concepts.named_recipe", lambda name, kind: {**named_recipe(name, kind), **quick, **rollouts}
    )


@pytest.fixture
def bench(base: ResolvedBase, suite_file: Path, folders: Folders) -> Workbench:
    return Workbench(base, load_suite(str(suite_file)), IMAGES, OTHERS, folders, Machine("cpu"), progress=False)


@pytest.fixture
def study(base: ResolvedBase, suite_file: Path, folders: Folders, tmp_path: Path) -> Callable[..., tuple[Study, Path]]:
    def run(protocol: str, **settings: Any) -> tuple[Study, Path]:
        raw = {"protocol": protocol, "base": base.id, "suite": str(suite_file), "images": IMAGES}
        raw |= {} if protocol == "implied" else {"others": OTHERS}
        out = tmp_path / protocol
        return protocols.run(checked_request({**raw, **settings}), out, folders, Machine("cpu"), progress=False), out

    return run
