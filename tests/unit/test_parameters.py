"""Parameter subsets, counted on a U-Net of exactly Stable Diffusion 1.4's shape, without its weights."""

from __future__ import annotations

import pytest
import torch
from diffusers import UNet2DConditionModel

from esd_core.parameters import select
from esd_core.recipe import ParameterSubset


@pytest.fixture(scope="module")
def sd14() -> UNet2DConditionModel:
    with torch.device("meta"):
        return UNet2DConditionModel(
            sample_size=64,
            block_out_channels=(320, 640, 1280, 1280),
            layers_per_block=2,
            attention_head_dim=8,
            cross_attention_dim=768,
        )


def millions(unet: UNet2DConditionModel, subset: ParameterSubset) -> float:
    return sum(parameter.numel() for parameter in select(unet, subset).values()) / 1e6


def test_counts_on_stable_diffusion_1_4(sd14: UNet2DConditionModel) -> None:
    assert millions(sd14, ParameterSubset.ESD_ALL) == pytest.approx(859.5, abs=0.05)
    assert millions(sd14, ParameterSubset.ESD_X) == pytest.approx(44.0, abs=0.05)
    assert millions(sd14, ParameterSubset.ESD_X_STRICT) == pytest.approx(19.2, abs=0.05)


def test_esd_u_leaves_out_what_the_papers_code_leaves_out(sd14: UNet2DConditionModel) -> None:
    chosen = select(sd14, ParameterSubset.ESD_U)
    left_out = {name for name, _ in sd14.named_parameters()} - chosen.keys()
    assert all(".attn2." in n or n.startswith(("time_embedding.", "conv_norm_out.", "conv_out.")) for n in left_out)
    assert any("norm" in name for name in chosen)


def test_the_authors_current_esd_u_has_no_norm_layers(sd14: UNet2DConditionModel) -> None:
    chosen = select(sd14, ParameterSubset.ESD_U_AUTHORS)
    assert not any("norm" in name for name in chosen)
    assert "conv_out.weight" in chosen
    assert not any(".attn2." in name for name in chosen)
