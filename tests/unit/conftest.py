"""A tiny random classifier, a suite and edited weights: the code paths of real ones in milliseconds, no meaning."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from diffusers import UNet2DConditionModel
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    ResNetConfig,
    ResNetForImageClassification,
    ViTImageProcessorPil,
)

from esd_core import digest
from esd_core.base_model import ResolvedBase, resolve_base
from esd_core.concepts import Concept, ConceptKind, Erasure, ErasureJob
from esd_core.evaluation.suite import Suite, load_suite
from esd_core.miniature.text import build_tokenizer
from esd_core.parameters import select
from esd_core.recipe import ParameterSubset, Recipe
from esd_core.weights import Provenance, save_weights

IMAGE = 16  # pixels across
OBJECTS = ("house", "tree", "nothing")


@pytest.fixture(scope="session")
def base(tiny_base: Path) -> ResolvedBase:
    return resolve_base(str(tiny_base))


@pytest.fixture(scope="session")
def tiny_classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random classifier folder with the labels OBJECTS."""
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("suite") / "object"
    config = ResNetConfig(
        embedding_size=4, hidden_sizes=(4, 8), depths=(1, 1), layer_type="basic", id2label=dict(enumerate(OBJECTS))
    )
    ResNetForImageClassification(config).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": IMAGE, "width": IMAGE}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random CLIPModel with the files that the published ones have."""
    torch.manual_seed(4)
    folder = tmp_path_factory.mktemp("judges") / "clip"
    tokenizer = build_tokenizer(["a picture of a house", "a tree by Monet", "nothing"])
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    words = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": tokenizer.model_max_length,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = CLIPConfig(
        text_config=tower | words, vision_config=tower | {"image_size": IMAGE, "patch_size": 8}, projection_dim=8
    )
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": IMAGE}, crop_size={"height": IMAGE, "width": IMAGE}).save_pretrained(
        folder
    )
    return folder


@pytest.fixture(scope="session")
def tiny_suite(tiny_classifier: Path) -> Suite:
    """Two concepts and a negated probe, two sampler steps."""
    path = tiny_classifier.parent / "suite.yaml"
    probes: list[dict[str, object]] = [
        {"name": "house", "concept": "house", "label": "house", "prompts": ["a house", "a red house"]},
        {"name": "tree", "concept": "tree", "label": "tree", "prompts": ["a tree"]},
        {"name": "no tree unasked", "concept": "tree", "label": "tree", "prompts": ["a car"], "negated": True},
    ]
    suite = {
        "classifiers": {"object": {"model": "object"}},
        "probes": [{**probe, "classifier": "object"} for probe in probes],
        "steps": 2,
        "guidance_scale": 3.0,
    }
    path.write_text(yaml.safe_dump(suite))
    return load_suite(str(path))


@pytest.fixture(scope="session")
def house_job(base: ResolvedBase) -> ErasureJob:
    concept = Concept(name="house", kind=ConceptKind.OBJECT)
    erasure = Erasure(concept=concept, recipe=Recipe(subset=ParameterSubset.ESD_X))
    return ErasureJob(base=base.id, base_digest=base.digest, erasures=(erasure,))


@pytest.fixture(scope="session")
def edited_weights(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, house_job: ErasureJob) -> Path:
    """Edited weights that move every cross-attention parameter of the tiny base."""
    unet = UNet2DConditionModel.from_pretrained(tiny_base / "unet")
    generator = torch.Generator().manual_seed(2)
    tensors = {
        name: parameter.detach() + 0.5 * torch.randn(parameter.shape, generator=generator)
        for name, parameter in select(unet, ParameterSubset.ESD_X).items()
    }
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    written = save_weights(path, tensors, Provenance.of(house_job))
    assert written == digest.of_file(path)
    return path
