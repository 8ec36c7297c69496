"""A LoRA of an erasure: low-rank factors of what it changed, by singular value decomposition.

Shapes: a linear layer's change is (out, in), a convolution's (out, in, kh, kw), decomposed as (out, in * kh * kw).
lora_up @ lora_down is the change; alpha equals the rank, so that every loader's scale alpha / rank is 1.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from esd_core.base_model import ResolvedBase
from esd_core.errors import InvalidInput, WeightsError
from esd_core.exports.component import check_fit, component_tensors, denoiser_folder, read_json, skeleton
from esd_core.exports.lora_names import LoraNaming, lora_naming
from esd_core.tensor_file import PROVENANCE_KEY, Stored, in_memory, write_tensors
from esd_core.weights import EditedWeights

DEFAULT_RANK = 64  # of the bundled model: a style erased from cross-attention at an error of 0.2 %, esd-u at 22 %
BLOCKS = ("down_blocks.", "mid_block.", "up_blocks.", "transformer_blocks.", "single_transformer_blocks.")
REPORT_KEY = "esd.lora"  # in the file's header


@dataclass(frozen=True)
class LoraReport:
    """How well a LoRA holds an erasure. Errors are ||change - LoRA|| / ||change||, Frobenius norms.

    error: over all layers it holds; per_layer: of each. not_held: changed tensors that a LoRA has no place for
    (biases, norms); not_held_share: ||their change|| / ||whole change||. readers: the programs that load the file.
    skipped_by_kohya: layers outside the U-Net's blocks, which kohya's scripts do not look for (networks/lora.py).
    """

    rank: int
    error: float
    per_layer: dict[str, float]
    not_held: tuple[str, ...]
    not_held_share: float
    readers: tuple[str, ...]
    skipped_by_kohya: tuple[str, ...]

    @property
    def worst(self) -> str:
        return max(self.per_layer, key=lambda layer: (self.per_layer[layer], layer))


def export_lora(
    base: ResolvedBase, weights: EditedWeights, out: Path, rank: int | None = None, *, progress: bool = True
) -> tuple[str, LoraReport]:
    """Write the LoRA; returns the file's SHA-256 and how well it holds the erasure.

    rank: DEFAULT_RANK, or the largest there is when that is smaller. Raises InvalidInput when it is out of range.
    """
    check_fit(base, weights)
    folder = denoiser_folder(base)
    changes = changes_of(weights.tensors, component_tensors(folder))
    held = {name: change for name, change in changes.items() if _is_held(name, skeleton(folder))}
    not_held = {name: change for name, change in changes.items() if name not in held}
    if not held:
        raise WeightsError(f"no linear layer or convolution differs from {base.id!r}: there is nothing for a LoRA")
    naming = lora_naming(base.family.pipeline, read_json(folder / "config.json"), list(held))
    layers = naming.joined(held, skeleton(folder))
    chosen = _checked_rank(rank, layers)
    tensors: dict[str, Stored] = {}
    lost: dict[str, float] = {}
    for layer in tqdm(sorted(layers), desc="decomposing", unit="layer", disable=not progress, leave=False):
        up, down, lost[layer] = factors(layers[layer], chosen)
        tensors |= _named(naming, layer, up, down, layers[layer])
    report = _report(chosen, layers, lost, list(held), not_held, naming.readers)
    metadata = {
        PROVENANCE_KEY: weights.provenance.model_dump_json(),
        REPORT_KEY: json.dumps(asdict(report), sort_keys=True),
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(chosen),
        "ss_network_alpha": str(chosen),
    }
    return write_tensors(out, tensors, metadata, progress=progress), report


def changes_of(edits: dict[str, torch.Tensor], base: dict[str, Stored]) -> dict[str, torch.Tensor]:
    """edited - base in float32, for the tensors that changed at all."""
    changes = {name: tensor.float() - base[name].read().float() for name, tensor in sorted(edits.items())}
    return {name: change for name, change in changes.items() if change.any()}


def _is_held(name: str, denoiser: nn.Module) -> bool:
    prefix, _, leaf = name.rpartition(".")
    return leaf == "weight" and isinstance(denoiser.get_submodule(prefix), nn.Linear | nn.Conv2d)


def _checked_rank(rank: int | None, layers: dict[str, torch.Tensor]) -> int:
    """The rank of every layer's factors: the same for all, since diffusers applies one alpha to all attentions."""
    largest = max(min(change.flatten(1).shape) for change in layers.values())
    if rank is None:
        return min(DEFAULT_RANK, largest)
    if not 1 <= rank <= largest:
        raise InvalidInput(f"--rank {rank}: the trained layers have ranks up to {largest}: give 1 to {largest}")
    return rank


def factors(change: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Best factors of a change at a rank (Eckart-Young), and the norm of what they miss.

    Returns up (out, rank), down (rank, in...), and the Frobenius norm of change - up @ down. Ranks that a small layer
    does not have are zeros.
    """
    matrix = change.flatten(1).double()
    if matrix.shape[0] <= matrix.shape[1]:
        up, down, missed = _wide_factors(matrix, rank)
    else:
        down_t, up_t, missed = _wide_factors(matrix.T, rank)
        up, down = up_t.T, down_t.T
    return up.float().contiguous(), down.float().reshape(rank, *change.shape[1:]), missed


def _wide_factors(matrix: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Factors of a matrix with no more rows than columns, from the eigenvectors of its Gram matrix: in float64 as
    exact as a singular value decomposition in float32, and several times as fast."""
    eigenvalues, vectors = torch.linalg.eigh(matrix @ matrix.T)
    squared, u = eigenvalues.flip(0).clamp(min=0), vectors.flip(1)  # of singular values, largest first
    kept = min(rank, len(squared))
    root = squared[:kept].pow(0.25)
    root = torch.where(root > 0, root, 1.0)
    up, down = matrix.new_zeros(len(matrix), rank), matrix.new_zeros(rank, matrix.shape[1])
    up[:, :kept] = u[:, :kept] * root
    down[:kept] = u[:, :kept].T @ matrix / root[:, None]
    return up, down, float(squared[kept:].sum().sqrt())


def _named(
    naming: LoraNaming, layer: str, up: torch.Tensor, down: torch.Tensor, change: torch.Tensor
) -> dict[str, Stored]:
    if change.ndim == 4:
        up = up[:, :, None, None]
    tensors = {naming.up.format(layer): in_memory(up), naming.down.format(layer): in_memory(down)}
    if naming.alpha:
        tensors[naming.alpha.format(layer)] = in_memory(torch.tensor(float(len(down))))
    return tensors


def _report(
    rank: int,
    layers: dict[str, torch.Tensor],
    lost: dict[str, float],
    held: list[str],
    not_held: dict[str, torch.Tensor],
    readers: tuple[str, ...],
) -> LoraReport:
    norms = {layer: float(torch.linalg.vector_norm(change.double())) for layer, change in layers.items()}
    elsewhere = [float(torch.linalg.vector_norm(change.double())) for change in not_held.values()]
    return LoraReport(
        rank=rank,
        error=_norm(lost.values()) / _norm(norms.values()),
        per_layer={layer: lost[layer] / norms[layer] for layer in sorted(layers)},
        not_held=tuple(sorted(not_held)),
        not_held_share=_norm(elsewhere) / _norm([*norms.values(), *elsewhere]),
        readers=readers,
        skipped_by_kohya=tuple(name for name in held if "kohya" in readers and not name.startswith(BLOCKS)),
    )


def _norm(parts: Iterable[float]) -> float:
    """Norm of a whole, from the norms of its parts."""
    return math.hypot(*parts)
