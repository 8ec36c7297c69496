"""A complete diffusers folder: the base's files, with the edits in its denoiser."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from esd_core.base_model import INDEX, PATTERNS, ResolvedBase
from esd_core.errors import BaseModelError
from esd_core.exports.component import check_fit, denoiser_folder, edited, read_json, weights_files
from esd_core.tensor_file import PROVENANCE_KEY, Stored, stored_tensors, write_tensors
from esd_core.weights import EditedWeights

LICENCES = ("LICENSE*", "LICENCE*", "NOTICE*")


def export_diffusers(
    base: ResolvedBase, weights: EditedWeights, out: Path, *, progress: bool = True
) -> tuple[Path, ...]:
    """Make the folder `out`, whole or not at all; returns the base's files that were left out of it.

    Every file of the denoiser that holds the edited tensors is edited in its own precision: shards, and variants
    such as fp16. Left out is what would bring the erased concept back: a variant that holds other weights (non_ema)
    and pickles. A component that the base names and does not have (a safety checker) is none in the copy's index too.
    """
    check_fit(base, weights)
    index = read_json(base.folder / INDEX)
    named = [name for name, value in index.items() if isinstance(value, list)]
    present = [name for name in named if (base.folder / name).is_dir()]
    missing = sorted(set(base.family.components) & set(named) - set(present))
    absent = [name for name in missing if index[name][0] is not None]
    if absent:
        raise BaseModelError(f"{base.folder} has no folder {absent[0]}, which its {INDEX} names")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", suffix=".partial", dir=out.parent) as name:
        folder = Path(name) / out.name
        folder.mkdir()
        _write_index(base.folder / INDEX, folder / INDEX, index, set(present))
        for pattern in LICENCES:
            for licence in sorted(path for path in base.folder.glob(pattern) if path.is_file()):
                shutil.copyfile(licence, folder / licence.name)
        kept = [component for component in present if component != base.family.denoiser]
        _copy(base.folder, folder, kept, progress=progress)
        left_out = _write_denoiser(denoiser_folder(base), folder / base.family.denoiser, weights, progress=progress)
        folder.rename(out)
    return left_out


def _write_index(source: Path, target: Path, index: dict[str, Any], present: set[str]) -> None:
    gone = [name for name, value in index.items() if isinstance(value, list) and value[0] and name not in present]
    if not gone:
        shutil.copyfile(source, target)
        return
    changed = {**index, **{name: [None, None] for name in gone}}
    if "safety_checker" in gone:
        changed["requires_safety_checker"] = False
    target.write_text(json.dumps(changed, indent=2) + "\n", encoding="utf-8")


def _copy(source: Path, target: Path, components: list[str], *, progress: bool) -> None:
    files = [
        path
        for component in components
        for pattern in PATTERNS
        for path in sorted((source / component).glob(pattern))
        if path.is_file()
    ]
    for path in tqdm(files, desc="copying", unit="file", disable=not progress, leave=False):
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)  # follows the hub cache's symbolic links


def _write_denoiser(source: Path, target: Path, weights: EditedWeights, *, progress: bool) -> tuple[Path, ...]:
    target.mkdir()
    plain = weights_files(source)
    originals = {name: stored for path in plain for name, stored in stored_tensors(path).items()}
    left_out = [path for path in source.iterdir() if path.is_file() and not any(map(path.match, PATTERNS))]
    metadata = {PROVENANCE_KEY: weights.provenance.model_dump_json()}
    for path in sorted(source.glob("*.safetensors")):
        tensors = stored_tensors(path)
        if path not in plain and not _is_variant(tensors, originals, set(weights.tensors)):
            left_out.append(path)
            continue
        write_tensors(target / path.name, edited(tensors, weights.tensors), metadata, progress=progress)
    for path in sorted(source.glob("*.json")):
        if not _names_missing(path, target):
            shutil.copyfile(path, target / path.name)
    return tuple(sorted(left_out))


def _is_variant(tensors: dict[str, Stored], originals: dict[str, Stored], names: set[str]) -> bool:
    """Whether the tensors to be edited are those of the plain files in another precision."""
    return (
        all(
            tensors[name].shape == originals[name].shape
            and torch.equal(tensors[name].read(), originals[name].read().to(tensors[name].dtype))
            for name in sorted(names & tensors.keys() & originals.keys())
        )
        and tensors.keys() <= originals.keys()
    )


def _names_missing(index: Path, folder: Path) -> bool:
    """Whether an index of shards names files that were left out."""
    if ".safetensors.index." not in index.name:
        return False
    return not all((folder / shard).is_file() for shard in read_json(index)["weight_map"].values())
