"""Samplers and guidance of the families' own pipelines: the images are those of diffusers, where diffusers has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.deprecated.stable_diffusion_safe import StableDiffusionPipelineSafe
from PIL import Image

from esd_core.backbones.loading import backbone_of, load_pipeline
from esd_core.base_model import ResolvedBase, resolve_base
from esd_core.errors import EsdError, InvalidInput
from esd_core.generation import generate, generate_from_csv
from esd_core.guidance import (
    PUBLISHED_STEPS,
    SAFE_LATENT,
    Guidance,
    GuidanceFunction,
    GuidanceMethod,
    classifier_free,
    negative_prompt,
)
from esd_core.recipe import RolloutSampler
from esd_core.steering import answering_with
from flows.cli import main
from flows.commands.generate import METHODS, SAMPLERS
from tests import tiny_pipelines

PROMPTS, SEEDS = ["a house", "a tree on the beach"], [7, 8]
CONCEPT = "the sun"
STEPS, SCALE = 10, 3.0
SLD = tuple(SAFE_LATENT)


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("families")
    saved = {name: tiny_pipelines.save(build, folder / name) for name, build in tiny_pipelines.FAMILIES.items()}
    return {name: load_pipeline(resolve_base(str(path)), "cpu") for name, path in saved.items()}


def draw(pipeline: Any, guidance: Guidance | None = None, **options: Any) -> np.ndarray:
    settings = {"steps": STEPS, "guidance_scale": SCALE, "progress": False, **options}
    return generate(pipeline, PROMPTS, SEEDS, guidance=guidance or Guidance(), **settings).astype(int)


def drawn_by(pipeline: Any, **options: Any) -> np.ndarray:
    """The same images in plain diffusers."""
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    settings = {"num_inference_steps": STEPS, "guidance_scale": SCALE, "output_type": "np", **options}
    pixels = pipeline(PROMPTS, generator=generators, **settings).images
    return np.asarray((pixels * 255).round().astype(int))


def answered_by(function: GuidanceFunction, pipeline: Any) -> np.ndarray:
    concept = backbone_of(pipeline).encode(CONCEPT)
    with answering_with(function, pipeline.unet, concept, SCALE):
        return drawn_by(pipeline)


@pytest.mark.parametrize("family", ["SD 1", "SD 2", "SDXL"])
def test_guidance_functions_give_the_pipelines_own_images(family: str, pipelines: dict[str, Any]) -> None:
    """Plain guidance and a negative prompt, which diffusers has; SDXL with pooled embeddings and picture sizes."""
    pipeline = pipelines[family]
    plain, away = drawn_by(pipeline), drawn_by(pipeline, negative_prompt=[CONCEPT] * 2)
    assert np.abs(plain - away).max() > 2
    assert np.abs(answered_by(classifier_free, pipeline) - plain).max() <= 1
    assert np.abs(answered_by(negative_prompt, pipeline) - away).max() <= 1
    assert (draw(pipeline, Guidance(GuidanceMethod.NEGATIVE_PROMPT, CONCEPT)) == away).all()
    assert (draw(pipeline) == plain).all()  # no hook is left behind


@pytest.mark.parametrize("method", SLD)
def test_safe_latent_diffusion_draws_what_the_published_pipeline_draws(
    method: GuidanceMethod, pipelines: dict[str, Any]
) -> None:
    pipeline, config = pipelines["SD 1"], SAFE_LATENT[method]
    safe = StableDiffusionPipelineSafe(**pipeline.components, requires_safety_checker=False)
    safe.set_progress_bar_config(disable=True)
    safe.safety_concept = CONCEPT
    strong: dict[str, Any] = {"guidance_scale": 30.0}  # so that even Weak moves the random pipeline's pixels
    theirs = drawn_by(
        safe,
        **strong,
        sld_warmup_steps=round(config.warmup * STEPS / PUBLISHED_STEPS),
        sld_guidance_scale=config.scale,
        sld_threshold=config.threshold,
        sld_momentum_scale=config.momentum_scale,
        sld_mom_beta=config.momentum_beta,
    )
    ours = draw(pipeline, Guidance(method, CONCEPT), **strong)
    assert np.abs(ours - theirs).max() <= 1
    assert np.abs(ours - draw(pipeline, **strong)).max() > 10


@pytest.mark.parametrize("family", ["SD 1", "SDXL"])
def test_steered_images_depend_on_their_own_prompt_and_seed_alone(family: str, pipelines: dict[str, Any]) -> None:
    """Momentum does not pass from one batch to the next."""
    guidance = Guidance(GuidanceMethod.SLD_MAX, CONCEPT)
    whole, one_by_one = (draw(pipelines[family], guidance, batch_size=size) for size in (2, 1))
    assert np.abs(whole - one_by_one).max() <= 1


def test_a_negative_prompt_steers_stable_diffusion_3(pipelines: dict[str, Any]) -> None:
    pipeline = pipelines["SD 3"]
    away = draw(pipeline, Guidance(GuidanceMethod.NEGATIVE_PROMPT, CONCEPT), steps=2)
    assert (away == drawn_by(pipeline, num_inference_steps=2, negative_prompt=[CONCEPT] * 2)).all()


@pytest.mark.parametrize(
    ("family", "method", "options", "message"),
    [
        ("FLUX", "negative-prompt", {}, "FLUX.1 draws without an empty prompt"),
        ("FLUX", "sld-weak", {}, "FLUX.1 draws without an empty prompt"),
        ("SD 3", "sld-max", {}, "this Stable Diffusion 3 predicts velocity: use none or negative-prompt"),
        ("SD 2", "sld-max", {}, "Stable Diffusion 1 and 2 predicts v_prediction"),
        ("SD 1", "sld-max", {"guidance_scale": 1.0}, "no effect at guidance scale 1"),
        ("SD 3", "none", {"sampler": RolloutSampler.DDIM}, "sampler 'ddim' is for models that predict noise"),
    ],
)
def test_what_a_family_lacks_is_refused_by_name(
    family: str, method: str, options: dict[str, Any], message: str, pipelines: dict[str, Any]
) -> None:
    guidance = Guidance(GuidanceMethod(method), "" if method == "none" else CONCEPT)
    with pytest.raises(InvalidInput, match=message):
        draw(pipelines[family], guidance, **options)


@pytest.mark.parametrize("sampler", [s for s in RolloutSampler if s is not RolloutSampler.BASE])
def test_a_sampler_draws_what_diffusers_draws_with_its_scheduler(
    sampler: RolloutSampler, pipelines: dict[str, Any]
) -> None:
    pipeline = pipelines["SD 1"]
    shipped = pipeline.scheduler
    ours = draw(pipeline, sampler=sampler)
    assert pipeline.scheduler is shipped
    pipeline.scheduler = backbone_of(pipeline).scheduler_of(sampler)
    try:
        assert (ours == drawn_by(pipeline)).all()
    finally:
        pipeline.scheduler = shipped


def test_a_folder_holds_images_of_one_sampler_and_guidance(base: ResolvedBase, tmp_path: Path) -> None:
    prompts, out = tmp_path / "prompts.csv", tmp_path / "out"
    prompts.write_text("case_number,prompt,evaluation_seed\n0,a house,7\n")
    settings: dict[str, Any] = {"steps": 2, "images_per_prompt": 1, "device": "cpu", "progress": False}
    refused = Guidance(GuidanceMethod.SLD_MAX, CONCEPT)
    with pytest.raises(InvalidInput, match="no effect"):
        generate_from_csv(prompts, out, base, None, guidance_scale=1.0, guidance=refused, **settings)
    assert not out.exists()
    generate_from_csv(prompts, out, base, None, guidance_scale=SCALE, **settings)
    others: tuple[dict[str, Any], ...] = (
        {"guidance": refused},
        {"guidance": Guidance(GuidanceMethod.SLD_MAX, "a tree")},
        {"sampler": RolloutSampler.EULER},
    )
    for other in others:
        with pytest.raises(EsdError, match="other weights, prompts or settings"):
            generate_from_csv(prompts, out, base, None, guidance_scale=SCALE, **settings, **other)


def test_the_command_steers_and_knows_every_choice(tiny_base: Path, tmp_path: Path) -> None:
    assert tuple(RolloutSampler) == SAMPLERS
    assert tuple(GuidanceMethod) == METHODS
    prompts = tmp_path / "prompts.csv"
    prompts.write_text("case_number,prompt,evaluation_seed\n0,a house,7\n")
    command = ["generate", "--prompts", str(prompts), "--base", str(tiny_base), "--steps", "4", "--device", "cpu"]
    steer = ["--guidance", "sld-max", "--away-from", CONCEPT, "--sampler", "ddim"]
    assert main([*command, "--out", str(tmp_path / "plain"), "--sampler", "ddim"]) == 0
    assert main([*command, "--out", str(tmp_path / "steered"), *steer]) == 0
    plain, steered = (np.asarray(Image.open(tmp_path / name / "0_0.png")) for name in ("plain", "steered"))
    assert (plain != steered).any()
