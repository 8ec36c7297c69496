"""A runner loads its base once: what is kept stays as its files say, and results are the same to the bit."""

from __future__ import annotations

import gc
import shutil
from pathlib import Path

import pytest
import torch

from esd_core import digest
from esd_core.backbones.loading import load_autoencoder, load_pipeline
from esd_core.base_model import ResolvedBase, resolve_base
from esd_core.errors import BaseModelError
from esd_core.evaluation.classifiers import load_classifier
from esd_core.evaluation.evaluate import evaluate
from esd_core.evaluation.suite import Suite
from esd_core.kept_models import keeping
from tests.tiny_erasure import erasure_of, job_of, run

RECIPES = {"house": {"subset": "esd-all"}, "tree": {"rollout_from": "student", "subset": "esd-u"}}


@pytest.fixture
def own_base(tiny_base: Path, tmp_path: Path) -> ResolvedBase:
    return resolve_base(str(shutil.copytree(tiny_base, tmp_path / "base")))


def erased_and_measured(base: ResolvedBase, suite: Suite, folder: Path) -> list[str]:
    """Digests of what two concepts become, one after the other."""
    found = []
    for name, recipe in RECIPES.items():
        job = job_of(base, erasure_of(name, iterations=3, **recipe))
        made = run(job, base, folder / name, channels_last=True, gradient_checkpointing=True)
        figures = evaluate(
            base,
            made.weights,
            job.concepts,
            suite,
            images_per_probe=2,
            cache=folder / "cache",
            out=folder / name,
            device="cpu",
            progress=False,
        )
        found += [made.weights_digest, digest.of_file(folder / name / "grid.png"), figures.model_dump_json()]
    return found


def test_a_second_concept_comes_out_the_same_where_the_base_was_kept(
    base: ResolvedBase, tiny_suite: Suite, tmp_path: Path
) -> None:
    alone = erased_and_measured(base, tiny_suite, tmp_path / "loaded anew")
    with keeping():
        assert erased_and_measured(base, tiny_suite, tmp_path / "kept") == alone


def test_what_is_done_to_one_denoiser_is_not_seen_in_the_next(base: ResolvedBase) -> None:
    original = load_pipeline(base, "cpu").unet.state_dict()
    with keeping():
        spoiled = load_pipeline(base, "cpu").unet
        spoiled.requires_grad_(False).to(torch.float64)
        for parameter in spoiled.parameters():
            parameter.fill_(0)
        spoiled.conv_in.register_forward_hook(lambda *_: pytest.fail("a hook was left behind"))
        again = load_pipeline(base, "cpu")
        assert all(parameter.requires_grad for parameter in again.unet.parameters())
        assert all(torch.equal(tensor, original[name]) for name, tensor in again.unet.state_dict().items())
        again("a house", num_inference_steps=1, output_type="np")


def test_the_files_are_read_once(own_base: ResolvedBase, tiny_suite: Suite, tiny_classifier: Path) -> None:
    judge = shutil.copytree(tiny_classifier, own_base.folder.parent / "object")
    suite = tiny_suite.model_copy(update={"folder": judge.parent})
    with keeping():
        before = load_pipeline(own_base, "cpu").unet.state_dict()
        load_autoencoder(own_base, torch.device("cpu"))
        eye = load_classifier(suite.locate("object"), "cpu")
        assert load_classifier(suite.locate("object"), "cpu").model is eye.model  # type: ignore[attr-defined]
        shutil.rmtree(own_base.folder)
        after = load_pipeline(own_base, "cpu").unet.state_dict()
        load_autoencoder(own_base, torch.device("cpu"))
        assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    with pytest.raises(BaseModelError, match="cannot load base model"):
        load_pipeline(own_base, "cpu")


def test_each_precision_and_each_content_is_a_model_of_its_own(own_base: ResolvedBase) -> None:
    with keeping():
        wide = load_pipeline(own_base, "cpu")
        narrow = load_pipeline(own_base, "cpu", torch.bfloat16)
        assert (wide.unet.dtype, narrow.unet.dtype) == (torch.float32, torch.bfloat16)
        config = own_base.folder / "unet" / "config.json"
        config.write_text(config.read_text().replace("{", "{ ", 1))
        assert resolve_base(str(own_base.folder)).digest != own_base.digest


def test_an_erasure_leaves_no_tensor_behind(base: ResolvedBase, tmp_path: Path) -> None:
    """Weights and moments of a hundred concepts do not fit into one runner."""
    job = job_of(base, erasure_of("house", subset="esd-all", iterations=2))
    run(job, base, tmp_path / "first")  # whatever libraries keep for good is there
    before = tensors_alive()
    run(job, base, tmp_path / "second")
    assert tensors_alive() == before


def tensors_alive() -> int:
    """Bytes of all tensors that Python still knows."""
    gc.collect()
    return sum(found.nbytes for found in gc.get_objects() if issubclass(type(found), torch.Tensor))
