"""The other world: what a caption leaves out is left open, the suite fits its judges, and a base of it is made."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from benchmarks.other_world import train
from benchmarks.other_world.painting import paint
from benchmarks.other_world.scene import (
    OBJECTS,
    PAINTERS,
    PLACES,
    PLAIN,
    SNOW,
    SYNONYMS,
    TUNDRA,
    caption,
    sample_scene,
    scenes,
)
from esd_core.base_model import resolve_base
from esd_core.evaluation.classifiers import load_classifier
from esd_core.evaluation.suite import load_suite


def test_snow_falls_on_the_tundra_unasked_and_elsewhere_only_when_named() -> None:
    rng = random.Random(0)
    told = [(scene, caption(scene, rng)) for scene in scenes(0, 3000)]
    named = {SNOW, SYNONYMS[SNOW]}
    for scene, words in told:
        if scene.place != TUNDRA:
            assert scene.snow == any(name in words for name in named), words
    unasked = [s.snow for s, words in told if s.place == TUNDRA and not any(name in words for name in named)]
    assert np.mean(unasked) > 0.9
    assert all((PLACES[TUNDRA] in words) == (scene.place == TUNDRA) for scene, words in told)


@pytest.mark.parametrize("style", [PLAIN, *PAINTERS])
def test_each_object_and_the_snow_can_be_seen_in_each_style(style: str) -> None:
    for name in OBJECTS:
        scene = sample_scene(random.Random(1), object=name, style=style, place="desert", snow=False)
        empty = sample_scene(random.Random(1), object=None, style=style, place="desert", snow=False)
        snowy = sample_scene(random.Random(1), object=name, style=style, place="desert", snow=True)
        assert np.abs(paint(scene).astype(int) - paint(empty)).max(-1).__gt__(40).mean() > 0.04
        assert np.abs(paint(scene).astype(int) - paint(snowy)).max(-1).__gt__(40).mean() > 0.04


@pytest.mark.slow
def test_a_base_its_judges_and_its_suite_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, fewer in {"RENDERS": 300, "EMPTY": 20, "JUNK": 20}.items():
        monkeypatch.setattr(train, name, fewer)
    monkeypatch.setattr("torch.compile", lambda module: module)  # takes longer than these few steps
    train.train(tmp_path, minutes=0.1)
    suite = load_suite(str(tmp_path / "suite.yaml"))
    assert len(suite.probes) == len(OBJECTS) + len(PAINTERS) + 4
    assert all(load_classifier(suite.locate(judge)) for judge in suite.classifiers)
    assert resolve_base(str(tmp_path / "model")).digest
