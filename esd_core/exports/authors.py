"""The ESD authors' own format, out and in: the trained tensors alone, under diffusers' parameter names, as
`pipe.unet.load_state_dict(load_file(path), strict=False)` takes them."""

from __future__ import annotations

from contextlib import suppress
from itertools import combinations
from pathlib import Path

import torch
from torch import nn

from esd_core import digest
from esd_core.base_model import ResolvedBase
from esd_core.concepts import Concept
from esd_core.errors import ErasureFailed, WeightsError
from esd_core.exports.component import denoiser_folder, edited_denoiser, skeleton
from esd_core.parameters import select
from esd_core.recipe import ParameterSubset
from esd_core.tensor_file import stored_tensors, write_tensors
from esd_core.weights import HEADER_KEY, EditedWeights, Provenance, code_version, save_weights

PICKLE_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".pkl")
PICKLE_STARTS = (b"PK\x03\x04", b"\x80")  # of torch.save's files: since torch 1.6, and before
LENGTH = 8  # bytes before a safetensors header, which is a JSON object


def export_authors(base: ResolvedBase, weights: EditedWeights, out: Path, *, progress: bool = True) -> str:
    """Write the trained tensors in the base's precision, as the authors' code does; returns the file's SHA-256.

    The header keeps our provenance, which their loader does not read, so that the file is also one of ours.
    """
    denoiser = edited_denoiser(base, weights)
    trained = {name: denoiser[name] for name in weights.tensors}
    return write_tensors(out, trained, {HEADER_KEY: weights.provenance.model_dump_json()}, progress=progress)


def import_authors(path: Path, base: ResolvedBase, concept: Concept, out: Path) -> Provenance:
    """Write published weights as a weights file of ours, which edits `base` and says what it was imported from.

    Raises WeightsError when the file is a pickle, or its tensors are not those of a subset of the base's denoiser.
    """
    _refuse_pickle(path)
    tensors = {name: stored.read() for name, stored in stored_tensors(path).items()}
    denoiser = skeleton(denoiser_folder(base))
    _check_tensors(path, tensors, base, denoiser)
    provenance = Provenance(
        base=base.id,
        base_digest=base.digest,
        concepts=(concept,),
        subsets=subsets_of(set(tensors), denoiser),
        imported_from=digest.of_file(path),
        code_version=code_version(),
    )
    save_weights(out, tensors, provenance)
    return provenance


def _refuse_pickle(path: Path) -> None:
    if not path.is_file():
        raise WeightsError(f"no file at {path}: check the path")
    with path.open("rb") as f:
        start = f.read(LENGTH + 1)
    if start[LENGTH:] != b"{" and (path.suffix.lower() in PICKLE_SUFFIXES or start.startswith(PICKLE_STARTS)):
        raise WeightsError(
            f"{path} is a pickle, which can run any code when it is read, and is not opened here: where nothing can "
            f"be harmed (a container without network), write what torch.load(FILE, map_location='cpu', "
            f"weights_only=True) returns with safetensors.torch.save_file, and import that file"
        )


def _check_tensors(path: Path, tensors: dict[str, torch.Tensor], base: ResolvedBase, denoiser: nn.Module) -> None:
    """Raises WeightsError unless every tensor is a parameter of the base's denoiser, of its shape, and finite."""
    shapes = {name: parameter.shape for name, parameter in denoiser.named_parameters()}
    alien = sorted(tensors.keys() - shapes.keys())
    misshapen = sorted(name for name in tensors.keys() & shapes.keys() if tensors[name].shape != shapes[name])
    broken = sorted(name for name, tensor in tensors.items() if not torch.isfinite(tensor).all())
    if not tensors:
        raise WeightsError(f"{path} holds no tensors")
    if alien:
        raise WeightsError(
            f"{path}: {alien[0]} ({len(alien)} of {len(tensors)} tensors) is no parameter of the "
            f"{base.family.denoiser} of {base.id!r}: name the base that these weights were trained from with --base"
        )
    if misshapen:
        name = misshapen[0]
        raise WeightsError(
            f"{path}: {name} is {tuple(tensors[name].shape)}, but {tuple(shapes[name])} in {base.id!r}: name the base "
            f"that these weights were trained from with --base"
        )
    if broken:
        raise WeightsError(f"{path}: {broken[0]} holds numbers that are not finite: the weights are broken")


def subsets_of(names: set[str], denoiser: nn.Module) -> tuple[ParameterSubset, ...]:
    """The parameter subset whose names these are, or the two that they are together, as the authors' esd-all is esd-x
    and their esd-u. Raises WeightsError, with the nearest one, when there is none."""
    subsets: dict[tuple[ParameterSubset, ...], set[str]] = {}
    for subset in ParameterSubset:
        with suppress(ErasureFailed):  # this model has no such layers
            subsets[subset,] = set(select(denoiser, subset))
    pairs = {(*a, *b): subsets[a] | subsets[b] for a, b in combinations(subsets, 2)}
    for found, members in {**subsets, **pairs}.items():
        if members == names:
            return found
    nearest = min(subsets, key=lambda subset: len(subsets[subset] ^ names))
    differs = sorted(subsets[nearest] ^ names)
    fault = "is missing" if differs[0] in subsets[nearest] else "is not in it"
    raise WeightsError(
        f"the tensors are of no known parameter subset; the nearest is {nearest[0].value}, but {differs[0]} {fault} "
        f"({len(differs)} tensors differ): the file is incomplete, or was trained with a method that is not ESD"
    )
