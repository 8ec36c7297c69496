"""What is particular to a family: its empty prompt, its schedulers, its optional parts; and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, EulerAncestralDiscreteScheduler

from esd_core.backbones.loading import load_backbone, load_pipeline
from esd_core.base_model import resolve_base
from esd_core.errors import BaseModelError, InvalidInput
from esd_core.recipe import ParameterSubset, Recipe, RolloutSampler
from esd_core.score_bank import Prompts, collect, jittered_flow, start_noise
from tests import tiny_pipelines


@pytest.fixture(scope="module")
def tiny_sd3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipelines.save(tiny_pipelines.stable_diffusion_3, tmp_path_factory.mktemp("sd3") / "base")


@pytest.fixture(scope="module")
def tiny_xl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipelines.save(tiny_pipelines.stable_diffusion_xl, tmp_path_factory.mktemp("xl") / "base")


@pytest.mark.parametrize("choice", [s for s in RolloutSampler if s.value not in ("auto", "base")])
def test_samplers_of_noise_are_refused_where_flows_are_matched(choice: RolloutSampler, tiny_sd3: Path) -> None:
    backbone = load_backbone(resolve_base(str(tiny_sd3)), "cpu")
    with pytest.raises(InvalidInput, match=r"Stable Diffusion 3 matches flows: set sampler to auto or base"):
        backbone.sampler(choice, 4)


def test_a_base_with_another_scheduler_is_refused(tiny_sd3: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_sd3, copy)
    DDIMScheduler().save_pretrained(copy / "scheduler")
    index = json.loads((copy / "model_index.json").read_text())
    (copy / "model_index.json").write_text(json.dumps({**index, "scheduler": ["diffusers", "DDIMScheduler"]}))
    with pytest.raises(BaseModelError, match="this base ships DDIMScheduler: save the pipeline with"):
        load_backbone(resolve_base(str(copy)), "cpu")


def test_stable_diffusion_3_works_without_its_largest_text_encoder(tiny_sd3: Path, tmp_path: Path) -> None:
    """The pipeline puts zeros in place of T5's embeddings."""
    whole, copy = load_backbone(resolve_base(str(tiny_sd3)), "cpu"), tmp_path / "copy"
    shutil.copytree(tiny_sd3, copy)
    shutil.rmtree(copy / "text_encoder_3")
    shutil.rmtree(copy / "tokenizer_3")
    without = load_backbone(resolve_base(str(copy)), "cpu")
    clip, t5 = 16, 256  # tokens
    ours, theirs = (b.encode("Van Gogh")["encoder_hidden_states"] for b in (without, whole))
    assert ours.shape == theirs.shape == (1, clip + t5, 32)
    assert torch.equal(ours[:, :clip], theirs[:, :clip])
    assert not ours[:, clip:].any()
    assert theirs[:, clip:].any()


def test_the_empty_prompt_of_xl_is_zeros_where_the_model_says_so(tiny_xl: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_xl, copy)
    index = json.loads((copy / "model_index.json").read_text())
    (copy / "model_index.json").write_text(json.dumps({**index, "force_zeros_for_empty_prompt": False}))
    zeros, encoded = (load_backbone(resolve_base(str(f)), "cpu").encode("") for f in (tiny_xl, copy))
    for name in ("encoder_hidden_states", "text_embeds"):
        assert not zeros[name].any()
        assert encoded[name].any()
    assert zeros["time_ids"].tolist() == [[16, 16, 0, 0, 16, 16]]


def test_weights_in_several_files_are_the_same_weights(tiny_xl: Path, tmp_path: Path) -> None:
    load_pipeline(resolve_base(str(tiny_xl)), "cpu").save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list((tmp_path / "unet").glob("*.safetensors"))) > 1
    whole, parts = (load_backbone(resolve_base(str(folder)), "cpu") for folder in (tiny_xl, tmp_path))
    for name, tensor in whole.denoiser.state_dict().items():
        assert torch.equal(tensor, parts.denoiser.state_dict()[name])


def test_jittered_timesteps_of_flows_cover_the_way_to_the_next_one() -> None:
    own, generator = torch.tensor([1000.0, 857.1, 600.0]), torch.Generator().manual_seed(0)
    for step, (upper, lower) in enumerate([(1000.0, 857.1), (857.1, 600.0), (600.0, 0.0)]):
        drawn = jittered_flow(own, step, 5000, generator)
        assert lower < float(drawn.min()) < lower + 0.01 * (upper - lower)
        assert upper - 0.01 * (upper - lower) < float(drawn.max()) <= upper
        assert float(drawn.mean()) == pytest.approx((upper + lower) / 2, rel=0.03)


def test_a_base_whose_scheduler_adds_noise_is_rolled_out_alike_every_time(tiny_xl: Path, tmp_path: Path) -> None:
    """Stable Diffusion XL Turbo ships an ancestral scheduler: its noise follows the seed too."""
    pipeline = load_pipeline(resolve_base(str(tiny_xl)), "cpu")
    pipeline.scheduler = EulerAncestralDiscreteScheduler.from_config(pipeline.scheduler.config)
    pipeline.save_pretrained(tmp_path)
    backbone = load_backbone(resolve_base(str(tmp_path)), "cpu")
    prompts = Prompts(backbone.encode("Van Gogh"), backbone.encode(""))
    recipe = Recipe(subset=ParameterSubset.ESD_X, rollout_steps=3, points_per_rollout=3)

    def last_latents(seed: int) -> torch.Tensor:
        sampler = backbone.sampler(RolloutSampler.BASE, 3)
        noise = start_noise(backbone.latent_shape, [0], torch.float32)
        generator = torch.Generator().manual_seed(seed)
        return collect(sampler, backbone.predict, backbone.predict, noise, prompts, recipe, generator).latents[-1]

    assert torch.equal(last_latents(0), last_latents(0))
    assert not torch.equal(last_latents(0), last_latents(1))
