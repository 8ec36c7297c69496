"""Parity with tensors recorded from the ESD authors' own training loop, in float64, through the public pieces."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import PNDMScheduler
from safetensors import safe_open
from safetensors.torch import load_file

from esd_core.backbones import stable_diffusion as sd
from esd_core.base_model import resolve_base
from esd_core.recipe import Anchor, ParameterSubset, Recipe
from esd_core.rollout import guided_rollout
from esd_core.score_bank import Embeddings, Points, start_noise, taught
from esd_core.student import Student

ORACLE = Path(os.environ.get("ESD_ORACLE", Path(__file__).parents[3] / "shared" / "oracle"))
CASES = {"esd-x": ParameterSubset.ESD_X, "esd-u-from": ParameterSubset.ESD_U_AUTHORS}
TOLERANCE = 1e-9  # relative, in float64

pytestmark = pytest.mark.skipif(
    not (ORACLE / "model").is_dir(), reason=f"the recorded tensors are not at {ORACLE}; set ESD_ORACLE to their folder"
)


class Case:
    """One recorded run and our replay of it."""

    def __init__(self, name: str) -> None:
        path = ORACLE / f"{name}.safetensors"
        self.tensors = load_file(path)
        with safe_open(path, framework="pt") as f:
            self.settings: dict[str, Any] = {key: json.loads(value) for key, value in f.metadata().items()}
        pipeline = sd.load_pipeline(resolve_base(str(ORACLE / "model")), "cpu", torch.float64)
        self.scheduler = PNDMScheduler.from_config(pipeline.scheduler.config)
        self.shape = sd.latent_shape(pipeline.unet)
        source = self.settings["erase_from"]
        self.embeds = Embeddings(
            concept=sd.encode_prompt(pipeline, self.settings["concept"]),
            null=sd.encode_prompt(pipeline, ""),
            erase_from=None if source is None else sd.encode_prompt(pipeline, source),
        )
        recipe = Recipe(
            subset=CASES[name],
            anchor=Anchor.CONCEPT,
            negative_guidance=self.settings["negative_guidance"],
            learning_rate=self.settings["lr"],
            rollout_steps=self.settings["num_inference_steps"],
            start_guidance=self.settings["guidance_scale"],
        )
        pipeline.unet.eval()
        self.student = Student(pipeline.unet, recipe, self.embeds.prompt)

    def points(self, iteration: int) -> Points:
        """The point that iteration number `iteration` trained on, taught by the frozen model."""
        seed, step = int(self.tensors["noise_seed"][iteration]), int(self.tensors["rollout_steps"][iteration])
        recipe, teach = self.student.recipe, self.student.predict_frozen
        noise = start_noise(self.shape, [seed], torch.float64)
        rollout = guided_rollout(
            teach,
            self.scheduler,
            noise,
            self.embeds.prompt,
            self.embeds.null,
            recipe.start_guidance,
            recipe.rollout_steps,
        )
        point = next(point for point in rollout if point.step == step)
        return taught(point, torch.tensor([0]), teach, self.embeds, recipe, torch.Generator(), reusable=True)


def assert_same(ours: torch.Tensor, theirs: torch.Tensor, what: str) -> None:
    error = float((ours - theirs).norm() / theirs.norm().clamp_min(1e-300))
    assert error <= TOLERANCE, f"{what}: relative error {error:.2e}"


@pytest.mark.parametrize("name", list(CASES))
def test_replays_the_recorded_run(name: str) -> None:
    case = Case(name)
    recorded = case.tensors
    assert_same(case.embeds.concept, recorded["concept_embeds"], "concept embedding")
    assert_same(case.embeds.null, recorded["null_embeds"], "null embedding")
    before = {key: tensor.clone() for key, tensor in case.student.edited().items()}
    assert {f"final/{key}" for key in before} == {key for key in recorded if key.startswith("final/")}
    for i in range(len(recorded["loss"])):
        points = case.points(i)
        assert int(points.timesteps[0]) == int(recorded["timestep"][i])
        assert_same(points.latents[0], recorded["xt"][i], f"x_t of iteration {i}")
        assert_same(case.student.target(points)[0], recorded["target"][i], f"target of iteration {i}")
        loss = torch.tensor(case.student.step(points), dtype=torch.float64)
        assert_same(loss, recorded["loss"][i].double(), f"loss of iteration {i}")
        if i == 0:
            for key, parameter in case.student.parameters.items():
                assert parameter.grad is not None
                assert_same(parameter.grad.norm(), recorded[f"first_grad_norm/{key}"][0], f"gradient of {key}")
    for key, tensor in case.student.edited().items():
        assert_same(tensor - before[key], recorded[f"final/{key}"] - before[key], f"change of {key}")
