"""Weights that the ESD authors' code made, read as ours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from esd_core import digest
from esd_core.backbones.loading import load_pipeline
from esd_core.base_model import ResolvedBase
from esd_core.errors import WeightsError
from esd_core.exports.authors import import_authors, subsets_of
from esd_core.exports.component import component_tensors, denoiser_folder, skeleton
from esd_core.parameters import select
from esd_core.recipe import ParameterSubset
from esd_core.weights import apply_weights, read_weights
from tests.edited_models import CONCEPT, Model, assert_same_pipeline, write


def published(model: Model, folder: Path, **changes: torch.Tensor) -> Path:
    """A file as the authors' code writes it: no header of ours."""
    path = folder / "published.safetensors"
    tensors = {name: tensor.bfloat16() for name, tensor in model.weights.tensors.items()}
    save_file({**tensors, **changes}, path)
    return path


def test_published_weights_become_ours_and_say_where_they_come_from(tiny: Model, tmp_path: Path) -> None:
    source, out = published(tiny, tmp_path), tmp_path / "imported.safetensors"
    import_authors(source, tiny.base, CONCEPT, out)
    weights = read_weights(out)
    assert weights.provenance.imported_from == digest.of_file(source)
    assert weights.provenance.subsets == (ParameterSubset.ESD_X,)
    theirs, ours = tiny.plain_pipeline(), load_pipeline(tiny.base, "cpu")
    theirs.unet.load_state_dict(load_file(source), strict=False)
    apply_weights(ours.unet, weights, tiny.base.digest)
    assert_same_pipeline(ours, theirs)
    write(Model(tiny.base, out), "authors", tmp_path / "again.safetensors")


@pytest.mark.parametrize("subset", ParameterSubset)
def test_the_subset_follows_from_the_names(subset: ParameterSubset, base: ResolvedBase) -> None:
    denoiser = skeleton(denoiser_folder(base))
    names = set(select(denoiser, subset))
    (found,) = subsets_of(names, denoiser)
    assert set(select(denoiser, found)) == names


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (lambda name: "attn2" in name, (ParameterSubset.ESD_X,)),
        (lambda name: "attn2.to_k" in name or "attn2.to_v" in name, (ParameterSubset.ESD_X_STRICT,)),
        (lambda name: "attn2" not in name, (ParameterSubset.ESD_U_AUTHORS,)),
        (lambda _: True, (ParameterSubset.ESD_X, ParameterSubset.ESD_U_AUTHORS)),
    ],
    ids=["esd-x", "esd-x-strict", "esd-u", "esd-all"],
)
def test_every_method_of_the_authors_is_understood(
    theirs: Callable[[str], bool], ours: tuple[ParameterSubset, ...], tiny: Model, tmp_path: Path
) -> None:
    """Their esd_sd.py takes the Linear and Conv2d modules whose name fits the method."""
    stored = component_tensors(denoiser_folder(tiny.base))
    names = [
        f"{prefix}.{leaf}"
        for prefix, module in skeleton(denoiser_folder(tiny.base)).named_modules()
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d) and theirs(prefix)
        for leaf, _ in module.named_parameters()
    ]
    source, out = tmp_path / "published.safetensors", tmp_path / "imported.safetensors"
    save_file({name: stored[name].read() + 0.1 for name in names}, source)
    assert import_authors(source, tiny.base, CONCEPT, out).subsets == ours
    pipeline = load_pipeline(tiny.base, "cpu")
    apply_weights(pipeline.unet, read_weights(out), tiny.base.digest)


def test_what_is_not_a_subset_of_the_base_is_refused(tiny: Model, miniature: Model, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    name = next(iter(tiny.weights.tensors))
    with pytest.raises(WeightsError, match=r"\(1 of \d+ tensors\) is no parameter of the unet"):
        import_authors(published(tiny, tmp_path, nonsense=torch.ones(2)), tiny.base, CONCEPT, out)
    broken = torch.full_like(tiny.weights.tensors[name], float("nan"))
    with pytest.raises(WeightsError, match="not finite"):
        import_authors(published(tiny, tmp_path, **{name: broken}), tiny.base, CONCEPT, out)
    with pytest.raises(WeightsError, match="with --base"):
        import_authors(published(tiny, tmp_path), miniature.base, CONCEPT, out)
    save_file({name: tiny.weights.tensors[name]}, tmp_path / "part.safetensors")
    with pytest.raises(WeightsError, match=r"no known parameter subset; the nearest is .* is missing"):
        import_authors(tmp_path / "part.safetensors", tiny.base, CONCEPT, out)
    assert not out.exists()


@pytest.mark.parametrize(("name", "content"), [("a.pt", b""), ("a.safetensors", b"PK\x03\x04"), ("a.x", b"\x80\x02")])
def test_a_pickle_is_refused_without_being_opened(
    name: str, content: bytes, base: ResolvedBase, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=r"is a pickle.*weights_only=True.*save_file"):
        import_authors(tmp_path / name, base, CONCEPT, tmp_path / "out.safetensors")
    with pytest.raises(WeightsError, match="no file at"):
        import_authors(tmp_path / "none.safetensors", base, CONCEPT, tmp_path / "out.safetensors")
