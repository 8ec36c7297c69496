"""Rollouts and the bank: what a point holds is what the sampler saw, and what the model says of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

from esd_core import score_bank
from esd_core.backbones import stable_diffusion as sd
from esd_core.base_model import resolve_base
from esd_core.objective import esd_loss, esd_target, guided
from esd_core.recipe import ParameterSubset, Recipe, TimestepChoice
from esd_core.rollout import guided_rollout
from esd_core.score_bank import Embeddings


@pytest.fixture(scope="module")
def pipeline(tiny_base: Path) -> StableDiffusionPipeline:
    return sd.load_pipeline(resolve_base(str(tiny_base)), "cpu")


@pytest.fixture(scope="module")
def embeds(pipeline: StableDiffusionPipeline) -> Embeddings:
    return Embeddings(sd.encode_prompt(pipeline, "Van Gogh"), sd.encode_prompt(pipeline, ""))


def test_a_whole_rollout_is_what_diffusers_samples(pipeline: StableDiffusionPipeline, embeds: Embeddings) -> None:
    """The latents after the last step equal those of StableDiffusionPipeline with the same noise and scheduler."""
    noise = score_bank.start_noise((4, 8, 8), [7], torch.float32)
    sampler = sd.rollout_sampler(pipeline.scheduler)
    predict = sd.NoisePredictor(pipeline.unet)
    points = list(guided_rollout(predict, sampler, noise, embeds.prompt, embeds.null, 3.0, 5))
    last = points[-1]
    eps = guided(last.eps_null, last.eps_prompt, 3.0)
    ours = sampler.step(eps, last.timestep, last.latents, return_dict=False)[0]
    pipeline.scheduler = DDIMScheduler.from_config(sampler.config)
    theirs = pipeline("Van Gogh", num_inference_steps=5, guidance_scale=3.0, latents=noise, output_type="latent").images
    assert torch.allclose(ours, theirs, atol=1e-4)
    assert predict.evaluations >= 10


@pytest.mark.parametrize("choice", list(TimestepChoice))
def test_bank_points_hold_the_frozen_predictions(
    choice: TimestepChoice, pipeline: StableDiffusionPipeline, embeds: Embeddings
) -> None:
    recipe = Recipe(
        subset=ParameterSubset.ESD_X, iterations=3, batch_size=2, rollout_steps=4, points_per_rollout=3,
        timestep_choice=choice,
    )  # fmt: skip
    predict = sd.NoisePredictor(pipeline.unet)
    sampler = sd.rollout_sampler(pipeline.scheduler)
    points = score_bank.fill(predict, sampler, (4, 8, 8), embeds, recipe, progress=False)
    assert len(points) == 6
    with torch.no_grad():
        said = predict(points.latents, points.timesteps, embeds.concept.expand(6, -1, -1))
        unasked = predict(points.latents, points.timesteps, embeds.null.expand(6, -1, -1))
    assert torch.allclose(points.eps_concept, said, atol=1e-5)
    assert torch.allclose(points.eps_null, unasked, atol=1e-5)
    buckets = {int(t) // 250 for t in points.timesteps}
    assert len(buckets) > 1
    if choice is TimestepChoice.SAMPLER:
        assert {int(t) for t in points.timesteps} <= {1, 251, 501, 751}


def test_the_bank_depends_on_its_seed_alone(pipeline: StableDiffusionPipeline, embeds: Embeddings) -> None:
    recipe = Recipe(subset=ParameterSubset.ESD_X, iterations=2, rollout_steps=3, points_per_rollout=2)
    predict, sampler = sd.NoisePredictor(pipeline.unet), sd.rollout_sampler(pipeline.scheduler)

    def latents(seed: int) -> torch.Tensor:
        changed = recipe.model_copy(update={"seed": seed})
        return score_bank.fill(predict, sampler, (4, 8, 8), embeds, changed, progress=False).latents

    assert torch.equal(latents(0), latents(0))
    assert not torch.equal(latents(0), latents(1))


def test_a_damaged_bank_is_not_loaded(pipeline: StableDiffusionPipeline, embeds: Embeddings, tmp_path: Path) -> None:
    recipe = Recipe(subset=ParameterSubset.ESD_X, iterations=2, rollout_steps=2, points_per_rollout=2)
    predict, sampler = sd.NoisePredictor(pipeline.unet), sd.rollout_sampler(pipeline.scheduler)
    points = score_bank.fill(predict, sampler, (4, 8, 8), embeds, recipe, progress=False)
    path = tmp_path / "bank.safetensors"
    score_bank.save(path, points)
    loaded = score_bank.load(path)
    assert loaded is not None
    assert torch.equal(loaded.eps_concept, points.eps_concept)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert score_bank.load(path) is None
    assert score_bank.load(tmp_path / "missing.safetensors") is None


def test_the_two_conventions_of_the_target_agree() -> None:
    """Anchor on the empty prompt with eta, or on the concept with eta + 1: the same target."""
    g = torch.Generator().manual_seed(0)
    concept, null = torch.randn(2, 4, 8, 8, generator=g), torch.randn(2, 4, 8, 8, generator=g)
    paper = esd_target(null, concept, null, 1.0)
    assert torch.allclose(paper, esd_target(concept, concept, null, 2.0), atol=1e-6)
    assert torch.allclose(paper, 2 * null - concept, atol=1e-6)
    assert float(esd_loss(paper, paper)) == 0
