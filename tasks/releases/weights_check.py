"""Whether a weights file is what it should be, without loading it: structure, numbers, and names against the base.

Needs no torch. The structure is parsed and bounds-checked by safetensors itself: header within the file, no overlap,
no gap, sizes that fit shapes.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from esd_core.base_model import ResolvedBase

MOST_TOLD = 3  # names in one fault
_CHUNK = 1 << 22  # numbers looked at at once
_EXPONENT = {"F64": (np.uint64, 0x7FF << 52), "F32": (np.uint32, 0xFF << 23)}
_EXPONENT_16 = {"F16": 0x1F << 10, "BF16": 0xFF << 7}

Shapes = dict[str, tuple[int, ...]]


def faults_of_structure(path: Path) -> list[str]:
    """Whether the header describes the file exactly, and every number is a finite float of 16, 32 or 64 bits."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as f:
            if not f.keys():
                return [f"{path.name} holds no tensors"]
    except (SafetensorError, OSError) as e:
        return [f"{path.name} is not safetensors: {e}"]
    others = [name for name, entry in _header(path).items() if entry["dtype"] not in {**_EXPONENT, **_EXPONENT_16}]
    if others:
        return [f"{path.name} holds tensors of other numbers than weights have: {_named(others)}"]
    bad = [name for name, entry, data in _tensors(path) if not _is_finite(data, entry["dtype"])]
    return [f"{path.name} holds numbers that are not finite: {_named(bad)}"] if bad else []


def shapes_in(path: Path) -> Shapes:
    """Names and shapes of the tensors of a file that safetensors has accepted."""
    return {name: tuple(entry["shape"]) for name, entry in _header(path).items()}


def faults_against_base(path: Path, base: ResolvedBase) -> list[str]:
    """Whether each tensor has a name and a shape of the base model's denoiser."""
    folder = base.folder / base.family.denoiser
    known: Shapes = {}
    for file in sorted(folder.glob("*.safetensors")):
        known |= shapes_in(file)
    return faults_of_names(shapes_in(path), known)


def faults_of_names(given: Mapping[str, tuple[int, ...]], known: Mapping[str, tuple[int, ...]]) -> list[str]:
    alien = sorted(given.keys() - known.keys())
    misshapen = sorted(name for name in given.keys() & known.keys() if given[name] != known[name])
    faults = [f"tensors that the base model does not have: {_named(alien)}"] if alien else []
    return faults + ([f"tensors of another shape than the base model's: {_named(misshapen)}"] if misshapen else [])


def _header(path: Path) -> dict[str, Any]:
    with path.open("rb") as f:
        (length,) = struct.unpack("<Q", f.read(8))
        header: dict[str, Any] = json.loads(f.read(length))
    header.pop("__metadata__", None)
    return header


def _tensors(path: Path) -> Iterator[tuple[str, dict[str, Any], np.ndarray]]:
    """Every tensor's name, header entry and bytes, which are read only as they are looked at."""
    with path.open("rb") as f:
        start = 8 + struct.unpack("<Q", f.read(8))[0]
    data = np.memmap(path, np.uint8, mode="r") if path.stat().st_size else np.empty(0, np.uint8)
    for name, entry in _header(path).items():
        first, last = entry["data_offsets"]
        yield name, entry, data[start + first : start + last]


def _is_finite(data: np.ndarray, dtype: str) -> bool:
    """Whether no float among the bytes has all exponent bits set, which infinities and NaNs have."""
    if dtype in _EXPONENT:
        unsigned, mask = _EXPONENT[dtype]
    else:
        unsigned, mask = np.uint16, _EXPONENT_16[dtype]
    width = np.dtype(unsigned).itemsize
    for first in range(0, len(data), _CHUNK * width):
        numbers = data[first : first + _CHUNK * width].copy().view(unsigned)
        if ((numbers & unsigned(mask)) == mask).any():
            return False
    return True


def _named(names: list[str]) -> str:
    more = f" and {len(names) - MOST_TOLD} more" if len(names) > MOST_TOLD else ""
    return ", ".join(repr(name)[:100] for name in names[:MOST_TOLD]) + more
