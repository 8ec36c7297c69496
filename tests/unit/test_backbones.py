"""Every family on a tiny random pipeline of its real classes: it samples as diffusers does, and is erased from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from esd_core import quick_look
from esd_core.backbones.base import Backbone, repeat
from esd_core.backbones.loading import load_backbone, load_pipeline
from esd_core.base_model import ResolvedBase, resolve_base
from esd_core.erasure import ErasureOutcome
from esd_core.generation import generate
from esd_core.parameters import select
from esd_core.quick_look import QuickLook, Witness
from esd_core.recipe import ParameterSubset, Precision, Recipe, RolloutSampler, TimestepChoice, Updates
from esd_core.rollout import end_of, guided_rollout
from esd_core.score_bank import Prompts, collect, start_noise
from esd_core.student import Batch, Student
from tests import tiny_pipelines
from tests.tiny_erasure import erasure_of, job_of, run

STEPS = 3
FLOWS = ("SD 3", "FLUX")
NOISE_SAMPLERS = [RolloutSampler.BASE, *(s for s in RolloutSampler if s.value not in ("auto", "base"))]


def quick(family: str) -> dict[str, Any]:
    """One point, taught over and over: enough for the loss to fall. FLUX has 4096 tokens: few steps, long ones."""
    steps, rate = (5, 2e-2) if family == "FLUX" else (20, 5e-3)
    return {
        "subset": "esd-x", "negative_guidance": 5.0, "iterations": steps, "learning_rate": rate, "batch_size": 1,
        "rollout_steps": 2, "points_per_rollout": 1, "reuse": steps,
    }  # fmt: skip


@dataclass(frozen=True)
class Tiny:
    """A family's tiny base, loaded."""

    name: str
    base: ResolvedBase
    backbone: Backbone

    @property
    def prompts(self) -> Prompts:
        return Prompts(self.backbone.encode("Van Gogh"), self.backbone.encode(""))

    def noise(self, count: int = 1) -> torch.Tensor:
        return start_noise(self.backbone.latent_shape, range(count), torch.float32)


@pytest.fixture(scope="module", params=list(tiny_pipelines.FAMILIES))
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    folder = tmp_path_factory.mktemp("family") / request.param.replace(" ", "-")
    base = resolve_base(str(tiny_pipelines.save(tiny_pipelines.FAMILIES[request.param], folder)))
    return Tiny(request.param, base, load_backbone(base, "cpu"))


@pytest.fixture(scope="module")
def banks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("banks")


@pytest.fixture(scope="module")
def erased(tiny: Tiny, banks: Path, tmp_path_factory: pytest.TempPathFactory) -> ErasureOutcome:
    """The concept erased from the joint or cross-attention, another prompt retained."""
    job = job_of(tiny.base, erasure_of("Van Gogh", retain=("a house",), **quick(tiny.name)))
    return run(job, tiny.base, tmp_path_factory.mktemp("erased"), banks)


def sampled(backbone: Backbone, choice: RolloutSampler, noise: torch.Tensor, prompts: Prompts) -> torch.Tensor:
    """What a whole rollout ends with."""
    sampler = backbone.sampler(choice, STEPS)
    return end_of(guided_rollout(backbone.predict, sampler, noise, prompts.prompt, prompts.null, 3.0))


def drawn_by_diffusers(
    backbone: Backbone, choice: RolloutSampler, noise: torch.Tensor, prompt: str = "Van Gogh", end: str = "latent"
) -> torch.Tensor:
    """What the family's own pipeline ends with: latents, or pixels ("np"), (B, H, W, 3) in [0, 1]."""
    pipeline, shipped = backbone.pipeline, backbone.pipeline.scheduler
    guidance: dict[str, Any] = {"guidance_scale": 3.0}
    if backbone.family.pipeline == "FluxPipeline":
        guidance = {"guidance_scale": 1.0, "true_cfg_scale": 3.0, "negative_prompt": ""}
    pipeline.scheduler = backbone.scheduler_of(choice)
    try:
        made = pipeline(prompt, num_inference_steps=STEPS, latents=noise, output_type=end, **guidance)
    finally:
        pipeline.scheduler = shipped
    return torch.as_tensor(made.images)


def test_a_rollout_is_what_the_familys_pipeline_samples(tiny: Tiny) -> None:
    """With every sampler of noise-predicting families; those that match flows have their own only."""
    choices = [RolloutSampler.AUTO] if tiny.name in FLOWS else NOISE_SAMPLERS
    noise = tiny.noise()
    for choice in choices:
        ours = sampled(tiny.backbone, choice, noise, tiny.prompts)
        assert torch.allclose(ours, drawn_by_diffusers(tiny.backbone, choice, noise), atol=1e-4), choice


@pytest.mark.parametrize("build", ["shifted SD 3", "schnell"])
def test_a_rollout_follows_the_bases_shift_of_timesteps(build: str, tmp_path: Path) -> None:
    """Stable Diffusion 3 with timesteps shifted by picture size, and FLUX without, and without guidance embedded."""
    builds: dict[str, Any] = {
        "shifted SD 3": lambda: tiny_pipelines.stable_diffusion_3(use_dynamic_shifting=True),
        "schnell": lambda: tiny_pipelines.flux(guidance=False),
    }
    base = resolve_base(str(tiny_pipelines.save(builds[build], tmp_path / "base")))
    backbone = load_backbone(base, "cpu")
    prompts = Prompts(backbone.encode("Van Gogh"), backbone.encode(""))
    noise = start_noise(backbone.latent_shape, [0], torch.float32)
    ours = sampled(backbone, RolloutSampler.BASE, noise, prompts)
    assert torch.allclose(ours, drawn_by_diffusers(backbone, RolloutSampler.BASE, noise), atol=1e-4)


def assert_seen_as_drawn(base: ResolvedBase, backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """A quick look's images are the pipeline's own, but for rounding."""
    monkeypatch.setattr(quick_look, "STEPS", STEPS)
    prompts, seeds = ("Van Gogh", "a house", "the sun"), (4, 5, 6)
    images = QuickLook(backbone, base, Witness(prompts, seeds, 3.0, lambda seen: np.ones(len(seen), bool))).images()
    for prompt, seed, image in zip(prompts, seeds, images, strict=True):
        noise = start_noise(backbone.latent_shape, [seed], torch.float32)
        own = 255 * drawn_by_diffusers(backbone, RolloutSampler.AUTO, noise, prompt, "np")[0]
        assert float((own - torch.from_numpy(image)).abs().max()) <= 1, prompt
        assert image.std() > 0


def test_a_quick_look_sees_what_the_familys_pipeline_draws(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_seen_as_drawn(tiny.base, tiny.backbone, monkeypatch)


def test_a_quick_look_knows_latents_of_other_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_pipelines.save(tiny_pipelines.stable_diffusion_xl, tmp_path / "base")
    config = json.loads((folder / "vae" / "config.json").read_text())
    moved = {"latents_mean": [0.5, -1.0, 0.0, 2.0], "latents_std": [4.0, 8.0, 2.0, 1.0]}
    (folder / "vae" / "config.json").write_text(json.dumps(config | moved))
    base = resolve_base(str(folder))
    assert_seen_as_drawn(base, load_backbone(base, "cpu"), monkeypatch)


@pytest.mark.parametrize("choice", list(TimestepChoice))
def test_points_hold_the_frozen_predictions_at_their_timesteps(choice: TimestepChoice, tiny: Tiny) -> None:
    recipe = Recipe(subset=ParameterSubset.ESD_X, rollout_steps=2, points_per_rollout=2, timestep_choice=choice)
    sampler, predict = tiny.backbone.sampler(recipe.sampler, 2), tiny.backbone.predict
    points = collect(sampler, predict, predict, tiny.noise(), tiny.prompts, recipe, torch.Generator().manual_seed(0))
    assert len(points) == 2
    with torch.no_grad():
        said = predict(points.latents, points.timesteps, repeat(tiny.prompts.concept, 2))
        unasked = predict(points.latents, points.timesteps, repeat(tiny.prompts.null, 2))
    assert torch.allclose(points.eps_concept, said, atol=1e-5)
    assert torch.allclose(points.eps_null, unasked, atol=1e-5)
    own = sampler.timesteps.tolist()
    if choice is TimestepChoice.SAMPLER:
        assert points.timesteps.tolist() == own
    elif tiny.name in FLOWS:
        first, second = points.timesteps.tolist()
        assert own[1] < first <= own[0]
        assert 0 < second <= own[1]


def test_only_the_chosen_tensors_change_and_the_loss_falls(tiny: Tiny, erased: ErasureOutcome) -> None:
    weights = load_file(erased.weights)
    denoiser = load_backbone(tiny.base, "cpu").denoiser
    before = dict(denoiser.state_dict())
    assert set(weights) == set(select(denoiser, ParameterSubset.ESD_X)) < set(before)
    assert sum(not torch.equal(tensor, before[name]) for name, tensor in weights.items()) > len(weights) / 2
    losses = [json.loads(line)["loss"] for line in erased.history.read_text().splitlines()]
    assert losses[-1] < 0.8 * losses[0]


def test_a_retained_prompt_stays_nearer_to_the_frozen_prediction(
    tiny: Tiny, erased: ErasureOutcome, banks: Path, tmp_path: Path
) -> None:
    careless = run(job_of(tiny.base, erasure_of("Van Gogh", **quick(tiny.name))), tiny.base, tmp_path, banks)
    edited, told, x, t = load_backbone(tiny.base, "cpu"), tiny.backbone.encode("a house"), tiny.noise(), 600

    def moved(outcome: ErasureOutcome) -> float:
        edited.denoiser.load_state_dict(load_file(outcome.weights), strict=False)
        with torch.no_grad():
            said, frozen = (b.predict(x, torch.tensor(t), told) for b in (edited, tiny.backbone))
        return float((said - frozen).norm())

    assert moved(erased) < 0.8 * moved(careless)


def test_the_frozen_model_stays_while_the_student_learns(tiny: Tiny) -> None:
    backbone = load_backbone(tiny.base, "cpu")
    x, t, told = tiny.noise(), torch.tensor([600]), backbone.encode("a house")
    student = Student(backbone, [ParameterSubset.ESD_U], Updates.MASTER, keeps_originals=True)
    frozen = student.predict_frozen(x, t, told)
    student.step(Batch(x, t, told, torch.zeros_like(frozen)), ParameterSubset.ESD_U, 1e-2)
    assert not torch.equal(student.predict(x, t, told), frozen)
    assert torch.equal(student.predict_frozen(x, t, told), frozen)


@pytest.mark.parametrize("subset", list(ParameterSubset))
def test_a_step_changes_nothing_of_the_model_but_the_subset(subset: ParameterSubset, tiny: Tiny) -> None:
    backbone = load_backbone(tiny.base, "cpu")
    if subset is ParameterSubset.SELF_ATTENTION and tiny.name == "FLUX":
        pytest.skip("FLUX has none")
    before = {name: tensor.clone() for name, tensor in backbone.denoiser.state_dict().items()}
    x, t, told = tiny.noise(), torch.tensor([600]), backbone.encode("a house")
    student = Student(backbone, [subset], Updates.MASTER, keeps_originals=False)
    student.step(Batch(x, t, told, torch.zeros_like(x)), subset, 1e-2)
    after = backbone.denoiser.state_dict()
    changed = {name for name, tensor in before.items() if not torch.equal(after[name], tensor)}
    assert changed
    assert changed <= set(select(backbone.denoiser, subset))


def test_weights_load_into_the_untouched_pipeline_and_change_its_images(tiny: Tiny, erased: ErasureOutcome) -> None:
    pipeline = load_pipeline(tiny.base, "cpu")

    def draw() -> np.ndarray:
        settings: dict[str, Any] = {"steps": 1, "guidance_scale": 3.0, "progress": False}
        return generate(pipeline, ["Van Gogh", "a tree on the beach"], [1, 2], **settings)

    before = draw()
    assert before.shape[0] == 2
    assert np.array_equal(before, draw())
    loaded = getattr(pipeline, tiny.base.family.denoiser).load_state_dict(load_file(erased.weights), strict=False)
    assert not loaded.unexpected_keys
    assert not np.array_equal(before, draw())


def test_every_family_computes_in_bfloat16(tiny: Tiny) -> None:
    """Weights and evaluations in half precision, latents and predictions between them in float32."""
    backbone = load_backbone(tiny.base, "cpu", Precision.BFLOAT16)
    with torch.no_grad():
        said = backbone.predict(tiny.noise(), torch.tensor(600), backbone.encode("Van Gogh"))
        exactly = tiny.backbone.predict(tiny.noise(), torch.tensor(600), tiny.backbone.encode("Van Gogh"))
    assert backbone.dtype is torch.bfloat16
    assert said.dtype is torch.float32
    assert float((said - exactly).norm() / exactly.norm()) < 0.1
