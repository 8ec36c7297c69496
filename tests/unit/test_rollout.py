"""Rollouts and the bank: what a point holds is what the sampler saw, and what the model says of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from hypothesis import given
from hypothesis import strategies as st
from tqdm import tqdm

from esd_core.backbones.base import Backbone, repeat
from esd_core.backbones.loading import load_backbone
from esd_core.base_model import ResolvedBase
from esd_core.lessons import Lesson
from esd_core.objective import esd_loss, esd_target, guided
from esd_core.point_source import Bank, load_points, save_points
from esd_core.recipe import ParameterSubset, Recipe, RolloutSampler, TimestepChoice, Updates
from esd_core.rollout import guided_rollout
from esd_core.score_bank import Points, Prompts, jittered, start_noise
from esd_core.student import Student

STEPS = 5


@pytest.fixture(scope="module")
def backbone(base: ResolvedBase) -> Backbone:
    return load_backbone(base, "cpu")


@pytest.fixture(scope="module")
def pipeline(backbone: Backbone) -> StableDiffusionPipeline:
    plain = StableDiffusionPipeline(**backbone.pipeline.components, requires_safety_checker=False)
    plain.set_progress_bar_config(disable=True)
    return plain


@pytest.fixture(scope="module")
def prompts(backbone: Backbone) -> Prompts:
    return Prompts(backbone.encode("Van Gogh"), backbone.encode(""))


def bank_of(backbone: Backbone, prompts: Prompts, folder: Path, rows: int, **settings: Any) -> Points:
    """The points of a bank for so many rows."""
    recipe = Recipe(subset=ParameterSubset.ESD_X, **settings)
    student = Student(backbone, [recipe.subset], Updates.MASTER, keeps_originals=False)
    bank = Bank(Lesson(0, "Van Gogh", prompts, False, recipe), student, rows, folder, "b" * 64)
    with tqdm(total=bank.rollouts, disable=True) as bar:
        bank.fill(bar)
    assert bank.points is not None
    return bank.points


def test_a_whole_rollout_is_what_diffusers_samples(
    backbone: Backbone, pipeline: StableDiffusionPipeline, prompts: Prompts
) -> None:
    """The latents after the last step equal those of StableDiffusionPipeline with the same noise and scheduler."""
    noise = start_noise((4, 8, 8), [7], torch.float32)
    sampler, before = backbone.sampler(RolloutSampler.DDIM, STEPS), backbone.evaluations
    points = list(guided_rollout(backbone.predict, sampler, noise, prompts.prompt, prompts.null, 3.0))
    assert backbone.evaluations - before == 2 * STEPS
    last = points[-1]
    eps = guided(last.eps_null, last.eps_prompt, 3.0)
    ours = sampler.step(eps, last.timestep, last.latents, return_dict=False)[0]
    pipeline.scheduler = backbone.scheduler_of(RolloutSampler.DDIM)
    settings = {"num_inference_steps": STEPS, "guidance_scale": 3.0, "output_type": "latent"}
    theirs = pipeline("Van Gogh", latents=noise, **settings).images
    assert torch.allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("choice", list(RolloutSampler))
def test_every_sampler_shows_the_model_what_diffusers_shows_it(
    choice: RolloutSampler, backbone: Backbone, pipeline: StableDiffusionPipeline, prompts: Prompts
) -> None:
    """At every step x_t and t are those that StableDiffusionPipeline gives its U-Net with that scheduler."""
    noise = start_noise((4, 8, 8), [3], torch.float32)
    rollout = guided_rollout(
        backbone.predict, backbone.sampler(choice, STEPS), noise, prompts.prompt, prompts.null, 3.0
    )
    ours = [(point.latents, float(point.timestep)) for point in rollout]
    seen: list[tuple[torch.Tensor, float]] = []
    hook = backbone.denoiser.register_forward_pre_hook(lambda _, given: seen.append((given[0][:1], float(given[1]))))
    pipeline.scheduler = backbone.scheduler_of(choice)
    pipeline("Van Gogh", num_inference_steps=STEPS, guidance_scale=3.0, latents=noise, output_type="latent")
    hook.remove()
    assert len(ours) == len(seen) >= STEPS
    for (x, t), (their_x, their_t) in zip(ours, seen, strict=True):
        assert t == their_t
        assert torch.allclose(x, their_x, atol=1e-4)


@pytest.mark.parametrize("sampler", list(RolloutSampler))
@pytest.mark.parametrize("choice", list(TimestepChoice))
def test_bank_points_hold_the_frozen_predictions(
    choice: TimestepChoice, sampler: RolloutSampler, backbone: Backbone, prompts: Prompts, tmp_path: Path
) -> None:
    settings = {"rollout_steps": 4, "points_per_rollout": 3, "timestep_choice": choice, "sampler": sampler}
    points = bank_of(backbone, prompts, tmp_path, 6, **settings)
    assert len(points) == 6
    with torch.no_grad():
        said = backbone.predict(points.latents, points.timesteps, repeat(prompts.concept, 6))
        unasked = backbone.predict(points.latents, points.timesteps, repeat(prompts.null, 6))
    assert torch.allclose(points.eps_concept, said, atol=1e-5)
    assert torch.allclose(points.eps_null, unasked, atol=1e-5)
    buckets = {int(t) // 250 for t in points.timesteps}
    assert len(buckets) > 1
    if choice is TimestepChoice.SAMPLER:
        timesteps = backbone.sampler(sampler, 4).timesteps
        assert {float(t) for t in points.timesteps} <= {float(t) for t in timesteps}
        if sampler is RolloutSampler.DDIM:
            assert {int(t) for t in points.timesteps} <= {1, 251, 501, 751}


def test_the_bank_depends_on_its_seed_alone(backbone: Backbone, prompts: Prompts, tmp_path: Path) -> None:
    def latents(seed: int, folder: str) -> torch.Tensor:
        settings = {"rollout_steps": 3, "points_per_rollout": 2, "seed": seed}
        return bank_of(backbone, prompts, tmp_path / folder, 4, **settings).latents

    assert torch.equal(latents(0, "a"), latents(0, "b"))
    assert not torch.equal(latents(0, "a"), latents(1, "a"))


def test_a_bank_is_shared_by_recipes_that_roll_out_alike(backbone: Backbone, prompts: Prompts, tmp_path: Path) -> None:
    settings = {"rollout_steps": 3, "points_per_rollout": 2}
    made = bank_of(backbone, prompts, tmp_path, 4, **settings)
    before = backbone.evaluations
    other = {"negative_guidance": 3.0, "learning_rate": 1e-4, "iterations": 7, "batch_size": 4, "anchor": "concept"}
    shared = bank_of(backbone, prompts, tmp_path, 4, **settings, **other)
    assert backbone.evaluations == before
    assert torch.equal(made.latents, shared.latents)
    bank_of(backbone, prompts, tmp_path, 4, **settings, start_guidance=4.0)
    assert backbone.evaluations > before


def test_a_damaged_bank_is_not_loaded(backbone: Backbone, prompts: Prompts, tmp_path: Path) -> None:
    points = bank_of(backbone, prompts, tmp_path, 4, rollout_steps=2, points_per_rollout=2)
    path = tmp_path / "saved.safetensors"
    save_points(path, points)
    loaded = load_points(path)
    assert loaded is not None
    assert torch.equal(loaded.eps_concept, points.eps_concept)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert load_points(path) is None
    assert load_points(tmp_path / "missing.safetensors") is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_points_come_back_from_a_gpu_whole() -> None:
    """A copy that is not waited for would be read while it still arrives."""
    made = Points(*(torch.randn(16, 4, 512, 512) for _ in range(4)))
    back = made.to(torch.device("cuda")).to(torch.device("cpu"))
    assert all(torch.equal(back.tensors()[name], tensor) for name, tensor in made.tensors().items())


@given(steps=st.integers(2, 1000), place=st.floats(0, 1, exclude_max=True), seed=st.integers(0, 1000))
def test_jittered_timesteps_stay_in_their_bucket(steps: int, place: float, seed: int) -> None:
    """Within a step's width of the sampler's own timestep, and always a timestep of the noise schedule."""
    timestep = int(place * 1000)
    drawn = jittered(timestep, steps, 1000, 5, torch.Generator().manual_seed(seed))
    assert drawn.shape == (5,)
    assert all(0 <= int(t) < 1000 for t in drawn)
    assert all(abs(int(t) - timestep) <= 1000 / steps for t in drawn)


def test_jittered_timesteps_cover_their_bucket_evenly() -> None:
    drawn = jittered(501, 4, 1000, 5000, torch.Generator().manual_seed(0))
    assert int(drawn.min()) == 500
    assert int(drawn.max()) == 749
    assert float(drawn.float().mean()) == pytest.approx(624.5, abs=5)


def test_the_two_conventions_of_the_target_agree() -> None:
    """Anchor on the empty prompt with eta, or on the concept with eta + 1: the same target."""
    g = torch.Generator().manual_seed(0)
    concept, null = torch.randn(2, 4, 8, 8, generator=g), torch.randn(2, 4, 8, 8, generator=g)
    paper = esd_target(null, concept, null, 1.0)
    assert torch.allclose(paper, esd_target(concept, concept, null, 2.0), atol=1e-6)
    assert torch.allclose(paper, 2 * null - concept, atol=1e-6)
    assert float(esd_loss(paper, paper)) == 0
