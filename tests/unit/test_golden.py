"""Losses of a short erasure on the miniature, recorded once: a change in what training computes does not go unseen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from esd_core.base_model import resolve_base
from esd_core.concepts import Concept, ConceptKind, Erasure, ErasureJob
from esd_core.recipe import ParameterSubset, Recipe
from tests.tiny_erasure import run

LOSSES = {
    "esd-x": [0.00150986, 0.00574736, 0.00408902, 0.00757763, 0.00139113, 0.00193333],
    "esd-u": [0.00150986, 0.00425434, 0.00220322, 0.00485737, 0.00244301, 0.00234555],
}


@pytest.mark.parametrize("subset", [ParameterSubset.ESD_X, ParameterSubset.ESD_U])
def test_the_loss_curve_is_the_recorded_one(subset: ParameterSubset, tmp_path: Path) -> None:
    base = resolve_base("miniature")
    recipe = Recipe(
        subset=subset,
        negative_guidance=1.0,
        iterations=24,
        learning_rate=2e-5,
        batch_size=1,
        rollout_steps=8,
        points_per_rollout=8,
    )
    concept = Concept(name="Van Gogh", kind=ConceptKind.STYLE)
    job = ErasureJob(base=base.id, base_digest=base.digest, erasures=(Erasure(concept=concept, recipe=recipe),))
    history = run(job, base, tmp_path).history.read_text(encoding="utf-8").splitlines()
    losses = [json.loads(line)["loss"] for line in history]
    assert losses[::4] == pytest.approx(LOSSES[subset.value], rel=2e-3)
