"""Exports of whole models: what plain diffusers loads from them draws what our own loader draws."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxTransformer2DModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from esd_core import digest
from esd_core.backbones.loading import load_pipeline
from esd_core.base_model import ResolvedBase, resolve_base
from esd_core.errors import BaseModelError, BaseModelMismatch, InvalidInput, WeightsError
from esd_core.exports.export import export
from esd_core.exports.lora import export_lora
from esd_core.exports.single_file import export_single_file
from esd_core.tensor_file import in_memory, write_tensors
from esd_core.weights import apply_weights, read_weights, save_weights
from tests.edited_models import Model, assert_same_pipeline, draw, edit, write
from tests.tiny_originals import ORIGINALS, flux_of_its_own_width, save


@pytest.mark.parametrize("name", [*ORIGINALS, "FLUX"])
def test_a_diffusers_folder_draws_what_our_loader_draws(
    name: str, family: Callable[[str], Model], tmp_path: Path
) -> None:
    model = family(name)
    write(model, "diffusers", tmp_path / "out")
    theirs = model.pipeline_class.from_pretrained(tmp_path / "out")
    assert_same_pipeline(model.edited_pipeline(), theirs)
    assert (draw(theirs) != draw(model.plain_pipeline())).any()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_folder_of_the_miniature_draws_what_our_loader_draws(miniature: Model, tmp_path: Path) -> None:
    write(miniature, "diffusers", tmp_path / "out")
    theirs = miniature.pipeline_class.from_pretrained(tmp_path / "out", dtype=torch.float32)
    assert np.abs(draw(miniature.edited_pipeline()) - draw(theirs)).mean() < 1  # stored in half precision
    unet = load_file(tmp_path / "out" / "unet" / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in unet.values()} == {torch.float16}


def as_stored_by(pipeline: Any, folder: Path) -> ResolvedBase:
    """A base with shards, a half-precision variant in shards, another variant with other weights, and pickles."""
    pipeline.save_pretrained(folder)
    unet = folder / "unet"
    (unet / "diffusion_pytorch_model.safetensors").unlink()
    pipeline.unet.save_pretrained(unet, max_shard_size="20KB")
    halved = {name: tensor.half() for name, tensor in pipeline.unet.state_dict().items()}
    save_file(halved, unet / "diffusion_pytorch_model.fp16.safetensors", metadata={"format": "pt"})
    other = {name: tensor + 1 for name, tensor in pipeline.unet.state_dict().items()}
    save_file(other, unet / "diffusion_pytorch_model.non_ema.safetensors", metadata={"format": "pt"})
    (unet / "diffusion_pytorch_model.bin").write_bytes(b"\x80")
    (folder / "LICENSE").write_text("as the base")
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"], "requires_safety_checker": True}
    (folder / "model_index.json").write_text(json.dumps(index))
    return resolve_base(str(folder))


def test_shards_and_variants_are_edited_and_what_is_not_edited_is_left_out(tiny: Model, tmp_path: Path) -> None:
    base = as_stored_by(tiny.plain_pipeline(), tmp_path / "base")
    model = edit(base, tmp_path / "edited.safetensors")
    written = write(model, "diffusers", tmp_path / "out")
    ours = model.edited_pipeline()
    assert_same_pipeline(ours, model.pipeline_class.from_pretrained(tmp_path / "out"))
    assert len(list((tmp_path / "out" / "unet").glob("*-of-*.safetensors"))) > 1
    half = model.pipeline_class.from_pretrained(tmp_path / "out", variant="fp16", dtype=torch.float16).unet.state_dict()
    assert all(torch.equal(half[name], tensor.half()) for name, tensor in ours.unet.state_dict().items())
    assert [note.split(": ")[1] for note in written.notes] == [
        "diffusion_pytorch_model.bin",
        "diffusion_pytorch_model.non_ema.safetensors",
    ]
    assert (tmp_path / "out" / "LICENSE").read_text() == "as the base"


@pytest.mark.parametrize("name", ORIGINALS)
def test_a_single_file_loads_in_diffusers_with_equal_tensors_and_images(
    name: str, family: Callable[[str], Model], tmp_path: Path
) -> None:
    model, out = family(name), tmp_path / "single.safetensors"
    written = write(model, "single-file", out)
    theirs = model.pipeline_class.from_single_file(str(out), config=str(model.base.folder))
    if name == "SD 3":
        theirs.text_encoder_3.eval()  # diffusers leaves it in training mode, with dropout; the export's notes say so
    assert_same_pipeline(model.edited_pipeline(), theirs)
    assert any("text_encoder_3.eval()" in note for note in written.notes) == (name == "SD 3")
    assert written.digest == digest.of_file(out)


def test_a_single_file_of_the_miniature_draws_what_our_loader_draws(miniature: Model, tmp_path: Path) -> None:
    write(miniature, "single-file", tmp_path / "single.safetensors")
    theirs = miniature.pipeline_class.from_single_file(
        str(tmp_path / "single.safetensors"), config=str(miniature.base.folder), dtype=torch.float32
    )
    assert np.abs(draw(miniature.edited_pipeline()) - draw(theirs)).mean() < 1


@pytest.mark.slow
def test_a_single_file_of_flux_loads_in_diffusers_and_holds_the_edit(tmp_path: Path) -> None:
    """One block of each kind of FLUX's own width, which is written into diffusers' converter: 1 GB."""
    base = resolve_base(str(save(flux_of_its_own_width, tmp_path / "base")))
    model, out = edit(base, tmp_path / "edited.safetensors"), tmp_path / "single.safetensors"
    notes = write(model, "single-file", out).notes
    assert "holds the transformer alone" in notes[0]
    theirs = FluxTransformer2DModel.from_single_file(
        str(out), config=str(base.folder), subfolder="transformer", dtype=torch.bfloat16
    ).state_dict()
    ours = load_pipeline(base, "cpu", torch.bfloat16).transformer.state_dict()
    assert ours.keys() == theirs.keys()
    edits = model.weights.tensors
    assert all(torch.equal(theirs[name], edits.get(name, tensor).bfloat16()) for name, tensor in ours.items())


def test_an_old_autoencoder_and_stored_position_ids_are_understood(tiny: Model, tmp_path: Path) -> None:
    """As the first Stable Diffusion repositories store them."""
    pipeline = tiny.plain_pipeline()
    pipeline.save_pretrained(tmp_path / "base")
    vae = tmp_path / "base" / "vae" / "diffusion_pytorch_model.safetensors"
    old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    tensors = load_file(vae)
    for new, former in old.items():
        tensors = {name.replace(new, former): tensor for name, tensor in tensors.items()}
    save_file(tensors, vae, metadata={"format": "pt"})
    text = tmp_path / "base" / "text_encoder" / "model.safetensors"
    named = {f"text_model.{name}": tensor for name, tensor in load_file(text).items()}
    named["text_model.embeddings.position_ids"] = torch.arange(8)[None]
    save_file(named, text, metadata={"format": "pt"})
    model = edit(resolve_base(str(tmp_path / "base")), tmp_path / "edited.safetensors")
    write(model, "single-file", tmp_path / "single.safetensors")
    theirs = model.pipeline_class.from_single_file(str(tmp_path / "single.safetensors"), config=str(model.base.folder))
    assert_same_pipeline(model.edited_pipeline(), theirs)


def test_sdxl_that_predicts_v_says_so(family: Callable[[str], Model], tmp_path: Path) -> None:
    model = family("SDXL")
    scheduler = model.base.folder / "scheduler" / "scheduler_config.json"
    kept = scheduler.read_text()
    marks = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    try:
        scheduler.write_text(json.dumps({**json.loads(kept), **marks}))
        export_to = tmp_path / "single.safetensors"
        changed = resolve_base(str(model.base.folder))
        write(edit(changed, tmp_path / "edited.safetensors"), "single-file", export_to)
    finally:
        scheduler.write_text(kept)
    with safe_open(export_to, framework="pt") as f:
        assert {"v_pred", "ztsnr"} <= set(f.keys())


def test_a_projection_that_single_files_do_not_hold_is_refused(tmp_path: Path) -> None:
    def with_projection() -> Any:
        pipeline = ORIGINALS["SD 3"]()
        torch.nn.init.normal_(pipeline.text_encoder.text_projection.weight)
        return pipeline

    base = resolve_base(str(save(with_projection, tmp_path / "base")))
    with pytest.raises(BaseModelError, match=r"projection.*export as diffusers"):
        write(edit(base, tmp_path / "edited.safetensors"), "single-file", tmp_path / "single.safetensors")
    assert not (tmp_path / "single.safetensors").exists()


@pytest.mark.parametrize("name", [*ORIGINALS, "FLUX"])
def test_the_authors_format_loads_as_theirs_does_and_as_ours(
    name: str, family: Callable[[str], Model], tmp_path: Path
) -> None:
    model, out = family(name), tmp_path / "authors.safetensors"
    write(model, "authors", out)
    theirs = model.plain_pipeline()
    assert not model.denoiser(theirs).load_state_dict(load_file(out), strict=False).unexpected_keys
    assert_same_pipeline(model.edited_pipeline(), theirs)
    again = load_pipeline(model.base, "cpu")
    apply_weights(model.denoiser(again), read_weights(out), model.base.digest)
    assert_same_pipeline(theirs, again)


def test_the_authors_format_has_the_precision_of_the_base(miniature: Model, tmp_path: Path) -> None:
    write(miniature, "authors", tmp_path / "authors.safetensors")
    assert {tensor.dtype for tensor in load_file(tmp_path / "authors.safetensors").values()} == {torch.float16}


@pytest.mark.parametrize("name", ["single-file", "lora", "authors"])
def test_the_same_export_has_the_same_bytes(name: str, tiny: Model, tmp_path: Path) -> None:
    first = write(tiny, name, tmp_path / "1.safetensors")
    second = write(tiny, name, tmp_path / "2.safetensors")
    assert first.digest == second.digest == digest.of_file(tmp_path / "1.safetensors")


def test_tensor_files_are_read_by_safetensors_itself(tmp_path: Path) -> None:
    tensors = {
        "half": torch.arange(6).reshape(2, 3).half(),
        "brain": torch.ones(3, dtype=torch.bfloat16),
        "scalar": torch.tensor(64.0),
        "none": torch.empty(0),
        "count": torch.arange(4),
    }
    path = tmp_path / "tensors.safetensors"
    write_tensors(path, {k: in_memory(v) for k, v in tensors.items()}, {"ünï": "code"}, progress=False)
    read = load_file(path)
    assert all(torch.equal(read[name], tensor) and read[name].dtype is tensor.dtype for name, tensor in tensors.items())
    with safe_open(path, framework="pt") as f:
        assert f.metadata() == {"format": "pt", "ünï": "code"}


@pytest.mark.parametrize("name", ["diffusers", "single-file", "lora", "authors"])
def test_refusals_say_what_to_do_and_write_nothing(name: str, tiny: Model, miniature: Model, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    with pytest.raises(BaseModelMismatch, match=r"load .*miniature"):
        export(miniature.file, name, out, base=str(tiny.base.folder), progress=False)
    gone = tmp_path / "gone.safetensors"
    lost = tiny.weights.provenance.model_copy(update={"base": str(tmp_path / "moved")})
    save_weights(gone, tiny.weights.tensors, lost)
    with pytest.raises(BaseModelError, match=r"moved.*name it with --base"):
        export(gone, name, out, progress=False)
    with pytest.raises(WeightsError, match="no weights file"):
        export(tmp_path / "none.safetensors", name, out, progress=False)
    assert not out.exists()
    out.write_text("mine")
    with pytest.raises(InvalidInput, match="exists already"):
        export(tiny.file, name, out, progress=False)
    assert out.read_text() == "mine"


def test_unknown_formats_and_misplaced_options_are_refused(tiny: Model, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="choose one of diffusers, single-file, lora, authors"):
        write(tiny, "onnx", tmp_path / "out")
    with pytest.raises(InvalidInput, match=r"must end in \.safetensors"):
        write(tiny, "lora", tmp_path / "out.ckpt")
    with pytest.raises(InvalidInput, match="--rank is of --format lora"):
        write(tiny, "authors", tmp_path / "out.safetensors", rank=4)


def test_a_family_without_a_single_file_format_is_refused_by_name(tiny: Model, tmp_path: Path) -> None:
    other = replace(tiny.base, family=replace(tiny.base.family, pipeline="AuraFlowPipeline"))
    with pytest.raises(BaseModelError, match=r"AuraFlowPipeline; it is for StableDiffusionPipeline, .*FluxPipeline"):
        export_single_file(other, tiny.weights, tmp_path / "out.safetensors", progress=False)
    with pytest.raises(BaseModelError, match="no LoRA naming is known for a AuraFlowPipeline"):
        export_lora(other, tiny.weights, tmp_path / "out.safetensors", progress=False)
