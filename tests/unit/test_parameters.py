"""Parameter subsets, counted on denoisers of exactly the published models' shapes, without their weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel, UNet2DConditionModel
from torch import nn

from esd_core.errors import ErasureFailed
from esd_core.parameters import select
from esd_core.recipe import ParameterSubset

DOCS = Path(__file__).parents[2] / "docs" / "models.md"


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


@pytest.fixture(scope="module")
def xl() -> UNet2DConditionModel:
    with torch.device("meta"):
        return UNet2DConditionModel(
            sample_size=128,
            block_out_channels=(320, 640, 1280),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            layers_per_block=2,
            attention_head_dim=[5, 10, 20],
            cross_attention_dim=2048,
            transformer_layers_per_block=[1, 2, 10],
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        )


@pytest.fixture(scope="module")
def sd35_medium() -> SD3Transformer2DModel:
    with torch.device("meta"):
        return SD3Transformer2DModel(
            num_layers=24,
            num_attention_heads=24,
            attention_head_dim=64,
            caption_projection_dim=1536,
            joint_attention_dim=4096,
            pooled_projection_dim=2048,
            dual_attention_layers=tuple(range(13)),
            qk_norm="rms_norm",
            pos_embed_max_size=8,  # a buffer: no parameters
        )


@pytest.fixture(scope="module")
def flux_dev() -> FluxTransformer2DModel:
    with torch.device("meta"):
        return FluxTransformer2DModel(guidance_embeds=True)


def millions(denoiser: nn.Module, subset: ParameterSubset) -> float:
    return sum(parameter.numel() for parameter in select(denoiser, subset).values()) / 1e6


def test_counts_on_stable_diffusion_1_4(sd14: UNet2DConditionModel) -> None:
    assert millions(sd14, ParameterSubset.ESD_ALL) == pytest.approx(859.5, abs=0.05)
    assert millions(sd14, ParameterSubset.ESD_X) == pytest.approx(44.0, abs=0.05)
    assert millions(sd14, ParameterSubset.ESD_X_STRICT) == pytest.approx(19.2, abs=0.05)
    assert millions(sd14, ParameterSubset.SELF_ATTENTION) == pytest.approx(49.6, abs=0.05)
    assert select(sd14, ParameterSubset.ESD_X_TEXT).keys() == select(sd14, ParameterSubset.ESD_X_STRICT).keys()
    assert all(".attn1." in name for name in select(sd14, ParameterSubset.SELF_ATTENTION))


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


def counts_in_the_docs() -> dict[ParameterSubset, list[str]]:
    """The rows of docs/models.md that hold millions of parameters: of SD 1.4, SD XL, SD 3.5 medium and FLUX.1 dev."""
    lines = DOCS.read_text(encoding="utf-8").splitlines()
    start = lines.index("| | SD 1.4 | SD XL | SD 3.5 medium | FLUX.1 dev |") + 2
    rows = [line.strip("| ").split(" | ") for line in lines[start:] if line.startswith("|")]
    names = [row[0].strip("`") for row in rows]
    return {ParameterSubset(name.replace("all", "esd-all")): row[1:] for name, row in zip(names, rows, strict=True)}


def test_counts_are_those_of_the_docs(
    sd14: UNet2DConditionModel, xl: UNet2DConditionModel, sd35_medium: SD3Transformer2DModel,
    flux_dev: FluxTransformer2DModel,
) -> None:  # fmt: skip
    told = counts_in_the_docs()
    assert set(told) == set(ParameterSubset)
    for subset, row in told.items():
        for denoiser, cell in zip((sd14, xl, sd35_medium, flux_dev), row, strict=True):
            if not cell[0].isdigit():
                with pytest.raises(ErasureFailed):
                    select(denoiser, subset)
            else:
                assert f"{millions(denoiser, subset):.1f}" == cell.replace(",", ""), (subset, type(denoiser))


def test_the_authors_esd_u_of_xl_leaves_out_embeddings_and_ends(xl: UNet2DConditionModel) -> None:
    chosen = select(xl, ParameterSubset.ESD_U_AUTHORS)
    assert not any(name.startswith(("conv_in.", "conv_out.")) or "emb" in name for name in chosen)
    assert "mid_block.resnets.0.conv1.weight" in chosen


def test_joint_attention_stands_in_for_cross_attention(flux_dev: FluxTransformer2DModel) -> None:
    """esd-x of FLUX is every Linear of the joint attention, in double-stream and single-stream blocks; no norms."""
    linear = {
        f"{name}.weight"
        for name, module in flux_dev.named_modules()
        if ".attn." in name and isinstance(module, nn.Linear)
    }
    chosen = {name for name in select(flux_dev, ParameterSubset.ESD_X) if name.endswith(".weight")}
    assert chosen == linear
    strict, text = (
        {name.split(".")[-2] for name in select(flux_dev, subset)}
        for subset in (ParameterSubset.ESD_X_STRICT, ParameterSubset.ESD_X_TEXT)
    )
    assert strict == {"to_k", "to_v"}
    assert text == {"add_k_proj", "add_v_proj"}


def test_the_pictures_attention_to_itself_is_not_esd_x(sd35_medium: SD3Transformer2DModel) -> None:
    """The attn2 of Stable Diffusion 3.5 medium reads no text; in the U-Nets that name is the cross-attention's."""
    assert not any(".attn2." in name for name in select(sd35_medium, ParameterSubset.ESD_X))
    alone = select(sd35_medium, ParameterSubset.SELF_ATTENTION)
    assert {name.split(".")[1] for name in alone} == {str(block) for block in range(13)}
    assert all(".attn2." in name for name in alone)


def test_esd_u_of_transformers_leaves_out_joint_attention_and_ends(
    sd35_medium: SD3Transformer2DModel, flux_dev: FluxTransformer2DModel
) -> None:
    for denoiser in (sd35_medium, flux_dev):
        left_out = {name for name, _ in denoiser.named_parameters()} - select(denoiser, ParameterSubset.ESD_U).keys()
        assert {name.split(".")[0] for name in left_out if ".attn." not in name} == {
            "time_text_embed", "norm_out", "proj_out",
        }  # fmt: skip
    assert "single_transformer_blocks.0.proj_out.weight" in select(flux_dev, ParameterSubset.ESD_U)


def test_a_subset_that_a_model_has_not_is_refused(flux_dev: FluxTransformer2DModel) -> None:
    with pytest.raises(ErasureFailed, match="'self-attention' selects no parameter of FluxTransformer2DModel") as told:
        select(flux_dev, ParameterSubset.SELF_ATTENTION)
    offered = str(told.value).partition("choose one of ")[2].split(", ")
    assert all(select(flux_dev, ParameterSubset(name)) for name in offered)
