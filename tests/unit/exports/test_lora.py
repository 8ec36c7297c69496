"""LoRAs: what diffusers loads from them is the erasure, up to the error that they state."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxTransformer2DModel
from diffusers.loaders.lora_conversion_utils import _convert_kohya_flux_lora_to_diffusers
from safetensors import safe_open

from esd_core.base_model import resolve_base
from esd_core.errors import InvalidInput
from esd_core.exports.lora import REPORT_KEY, factors
from esd_core.exports.lora_names import lora_naming
from esd_core.recipe import ParameterSubset
from tests import tiny_pipelines
from tests.edited_models import Model, draw, edit, write
from tests.tiny_originals import ORIGINALS


def not_held(file: Path) -> list[str]:
    with safe_open(file, framework="pt") as f:
        report = json.loads(f.metadata()[REPORT_KEY])
    names: list[str] = report["not_held"]
    return names


def put_in_what_is_not_held(model: Model, pipeline: Any, file: Path) -> None:
    """Biases and norms by hand, into a pipeline with the LoRA loaded."""
    edits, missing = model.weights.tensors, not_held(file)
    assert all(edits[name].ndim == 1 for name in missing)
    loaded = {key.replace(".base_layer.", "."): value for key, value in model.denoiser(pipeline).state_dict().items()}
    with torch.no_grad():
        for name in missing:
            loaded[name].copy_(edits[name])


@pytest.mark.parametrize("name", ORIGINALS)
def test_a_lora_at_full_rank_is_the_erasure_up_to_what_it_cannot_hold(
    name: str, family: Callable[[str], Model], tmp_path: Path
) -> None:
    model, out = family(name), tmp_path / "lora.safetensors"
    write(model, "lora", out)
    theirs = model.plain_pipeline()
    theirs.load_lora_weights(str(out))
    put_in_what_is_not_held(model, theirs, out)
    assert np.abs(draw(model.edited_pipeline()) - draw(theirs)).max() <= 2


def loaded_error(model: Model, file: Path) -> float:
    """||change - what diffusers adds|| / ||change||, over the tensors that a LoRA holds."""
    pipeline = model.plain_pipeline()
    before = {name: tensor.clone() for name, tensor in model.denoiser(pipeline).state_dict().items()}
    pipeline.load_lora_weights(str(file))
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    after = model.denoiser(pipeline).state_dict()
    held = {name: tensor for name, tensor in model.weights.tensors.items() if name not in not_held(file)}
    missed = torch.cat([(after[name] - tensor).flatten() for name, tensor in held.items()])
    change = torch.cat([(tensor - before[name]).flatten() for name, tensor in held.items()])
    return float(missed.norm() / change.norm())


def test_the_stated_error_is_what_diffusers_loads_and_falls_with_the_rank(tiny: Model, tmp_path: Path) -> None:
    """Every kind of layer: esd-all."""
    model = edit(tiny.base, tmp_path / "edited.safetensors", ParameterSubset.ESD_ALL)
    stated = []
    for rank in (1, 4, 32):
        out = tmp_path / f"{rank}.safetensors"
        notes = write(model, "lora", out, rank=rank).notes
        with safe_open(out, framework="pt") as f:
            report = json.loads(f.metadata()[REPORT_KEY])
        assert loaded_error(model, out) == pytest.approx(report["error"], abs=1e-4)
        assert f"relative error {report['error']:.2%}" in notes[0]
        assert max(report["per_layer"].values()) >= report["error"]
        assert any("conv_in" in name for name in report["skipped_by_kohya"])
        stated.append(report["error"])
    assert stated == sorted(stated, reverse=True)
    assert stated[0] > 0.5
    assert stated[-1] < 1e-5


@pytest.mark.slow
def test_a_lora_of_every_sdxl_layer_loads(family: Callable[[str], Model], tmp_path: Path) -> None:
    model = edit(family("SDXL").base, tmp_path / "edited.safetensors", ParameterSubset.ESD_ALL)
    write(model, "lora", tmp_path / "lora.safetensors")
    assert loaded_error(model, tmp_path / "lora.safetensors") < 1e-5
    with safe_open(tmp_path / "lora.safetensors", framework="pt") as f:
        assert "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k.lora_down.weight" in f.keys()  # noqa: SIM118


def test_a_lora_of_the_miniature_draws_what_our_loader_draws(miniature: Model, tmp_path: Path) -> None:
    write(miniature, "lora", tmp_path / "lora.safetensors", rank=128)
    theirs = miniature.plain_pipeline()
    theirs.load_lora_weights(str(tmp_path / "lora.safetensors"))
    put_in_what_is_not_held(miniature, theirs, tmp_path / "lora.safetensors")
    assert np.abs(draw(miniature.edited_pipeline()) - draw(theirs)).max() <= 2


@pytest.mark.parametrize(("shape", "full"), [((6, 4), 4), ((3, 5), 3), ((4, 2, 3, 3), 4)])
def test_factors_are_the_best_of_their_rank(shape: tuple[int, ...], full: int) -> None:
    """Eckart and Young: the error at rank r is the norm of the singular values after the r-th."""
    change = torch.randn(shape, generator=torch.Generator().manual_seed(5))
    singular = torch.linalg.svdvals(change.flatten(1))
    for rank in range(1, full + 2):
        up, down, missed = factors(change, rank)
        assert up.shape == (shape[0], rank)
        assert down.shape == (rank, *shape[1:])
        error = float((change.flatten(1) - up @ down.flatten(1)).norm())
        assert error == pytest.approx(missed, abs=1e-5)
        assert missed == pytest.approx(float(singular[rank:].norm()), abs=1e-5)


@pytest.mark.parametrize("rank", [0, -1, 17, 4096])
def test_a_rank_out_of_range_is_refused(rank: int, tiny: Model, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"give 1 to 16"):
        write(tiny, "lora", tmp_path / "lora.safetensors", rank=rank)


def test_a_lora_of_a_flux_of_another_width_loads_in_diffusers(tmp_path: Path) -> None:
    base = resolve_base(str(tiny_pipelines.save(tiny_pipelines.flux, tmp_path / "base")))
    model = edit(base, tmp_path / "edited.safetensors", ParameterSubset.ESD_ALL)
    notes = write(model, "lora", tmp_path / "lora.safetensors").notes
    assert notes[-1] == "read by diffusers, ComfyUI"
    assert loaded_error(model, tmp_path / "lora.safetensors") < 1e-5


def nested(tensors: dict[str, torch.Tensor]) -> torch.nn.Module:
    """A module with these parameters, under their dotted names."""
    root = torch.nn.Module()
    for name, tensor in tensors.items():
        *path, leaf = name.split(".")
        module = root
        for part in path:
            if not hasattr(module, part):
                module.add_module(part, torch.nn.Module())
            module = getattr(module, part)
        module.register_parameter(leaf, torch.nn.Parameter(tensor))
    return root


def test_a_flux_lora_in_kohyas_names_is_what_diffusers_reads() -> None:
    """FLUX's own rows, which diffusers' converter expects, with three columns each; the MLP's rows of the joined
    layer did not change."""
    with torch.device("meta"):
        flux = FluxTransformer2DModel(num_layers=1, num_single_layers=1)
    rows = {name: len(p) for name, p in flux.named_parameters() if name.endswith(".weight") and p.ndim == 2}
    generator = torch.Generator().manual_seed(6)
    originals = {name: torch.randn(count, 3, generator=generator) for name, count in rows.items()}
    changes = {name: tensor for name, tensor in originals.items() if ".attn." in name}
    naming = lora_naming("FluxPipeline", dict(flux.config), list(changes))
    assert naming.readers == ("diffusers", "ComfyUI", "kohya")
    file: dict[str, torch.Tensor] = {}
    for layer, change in naming.joined(changes, nested(originals)).items():
        up, down, _ = factors(change, 3)
        file |= {naming.up.format(layer): up, naming.down.format(layer): down}
    assert "lora_unet_double_blocks_0_txt_attn_qkv.lora_down.weight" in file
    read = _convert_kohya_flux_lora_to_diffusers(file)
    for name, change in changes.items():
        layer = f"transformer.{name.removesuffix('.weight')}"
        held = read.pop(f"{layer}.lora_B.weight") @ read.pop(f"{layer}.lora_A.weight")
        torch.testing.assert_close(held, change, atol=1e-4, rtol=1e-4)
    assert not any(tensor.any() for name, tensor in read.items() if "lora_B" in name)  # proj_mlp
