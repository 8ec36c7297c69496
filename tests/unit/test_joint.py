"""Several concepts erased in one model: fairly, each in its own subset, all from the original weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from esd_core.backbones.loading import load_backbone
from esd_core.base_model import ResolvedBase
from esd_core.concepts import ErasureJob
from esd_core.erasure import ErasureOutcome
from esd_core.recipe import ParameterSubset, Updates
from esd_core.student import Batch, Student
from tests.tiny_erasure import erasure_of, job_of, run

GOGH: dict[str, Any] = {"subset": "esd-x", "iterations": 8, "learning_rate": 2e-3}
SUN: dict[str, Any] = {"subset": "esd-u", "iterations": 4, "batch_size": 1, "negative_guidance": 2.0}


def joint(base: ResolvedBase, **settings: Any) -> ErasureJob:
    return job_of(base, erasure_of("Van Gogh", **{**GOGH, **settings}), erasure_of("sun", **{**SUN, **settings}))


def losses_of(outcome: ErasureOutcome, concept: str) -> list[float]:
    rows = [json.loads(line) for line in outcome.history.read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    return [row["loss"] for row in rows if row["concept"] == concept]


def test_each_concept_gets_its_steps_in_fair_turns(base: ResolvedBase, tmp_path: Path) -> None:
    outcome = run(joint(base), base, tmp_path)
    concepts = [json.loads(line)["concept"] for line in outcome.history.read_text().splitlines()]
    assert concepts == ["Van Gogh", "sun", "Van Gogh"] + ["Van Gogh", "sun", "Van Gogh"] * 3


@pytest.mark.parametrize("updates", list(Updates))
def test_a_step_touches_only_its_concepts_subset(updates: Updates, base: ResolvedBase) -> None:
    backbone = load_backbone(base, "cpu")
    named, unnamed = ParameterSubset.ESD_X, ParameterSubset.ESD_U
    student = Student(backbone, [named, unnamed], updates, keeps_originals=False)
    generator = torch.Generator().manual_seed(0)
    latents, target = torch.randn(2, 2, 4, 8, 8, generator=generator)
    told = {name: tensor.expand(2, -1, -1) for name, tensor in backbone.encode("sun").items()}
    batch = Batch(latents, torch.tensor([200, 800]), told, target)
    whole = {name: tensor.clone() for name, tensor in backbone.denoiser.state_dict().items()}
    for subset in (named, unnamed, named, unnamed):  # later steps with the moments of earlier ones
        before = {name: tensor.clone() for name, tensor in backbone.denoiser.state_dict().items()}
        student.step(batch, subset, 1e-3)
        after = backbone.denoiser.state_dict()
        changed = {name for name in after if not torch.equal(after[name], before[name])}
        assert changed
        assert changed <= student.subsets[subset].keys()
    untouched = backbone.denoiser.state_dict().keys() - student.parameters.keys()
    assert untouched
    assert all(torch.equal(backbone.denoiser.state_dict()[name], whole[name]) for name in untouched)


def test_both_start_from_the_original_weights(base: ResolvedBase, tmp_path: Path) -> None:
    """The joint job asks for the very points of the separate jobs, taught by the original model."""
    banks = tmp_path / "banks"
    both = joint(base, learning_rate=1e-6)
    gogh, sun = (run(job_of(base, e), base, tmp_path / e.concept.name, banks) for e in both.erasures)
    made = {path.name for path in banks.iterdir()}
    together = run(both, base, tmp_path / "both", banks)
    assert {path.name for path in banks.iterdir()} == made
    assert together.unet_evaluations == 8 * 2 + 4 * 1
    assert losses_of(together, "Van Gogh")[0] == losses_of(gogh, "Van Gogh")[0]
    assert losses_of(together, "sun")[0] == pytest.approx(losses_of(sun, "sun")[0], rel=1e-3)
    tensors = load_file(together.weights)
    assert tensors.keys() == load_file(gogh.weights).keys() | load_file(sun.weights).keys()


def test_the_order_of_concepts_and_their_settings_name_the_job(base: ResolvedBase) -> None:
    job = joint(base)
    assert job.digest == joint(base).digest
    assert job.digest != joint(base, seed=1).digest
    assert job.digest != job_of(base, *reversed(job.erasures)).digest
    assert job.subsets == (ParameterSubset.ESD_X, ParameterSubset.ESD_U)
    assert job.settings["sun.negative_guidance"] == 2.0
