"""safetensors files read and written tensor by tensor, with the same bytes for the same tensors.

What is written tensor by tensor needs no second copy of a model in memory: a checkpoint of everything would be one.

Layout: 8 bytes (length of the header, little endian), the header as JSON, then the tensors' bytes without gaps
(the format's own description, huggingface/safetensors).
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from tqdm import tqdm

from esd_core import digest
from esd_core.errors import WeightsError

PROVENANCE_KEY = "esd.provenance"  # in exports; our own weights files carry weights.HEADER_KEY, which apply strictly

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
ALIGNMENT = 8
SEAL = "sha256"  # the last tensor of a sealed file: the SHA-256 of all bytes before it
SEAL_BYTES = 32


@dataclass(frozen=True)
class Stored:
    """A tensor that is read when it is written."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], torch.Tensor]

    @property
    def form(self) -> tuple[tuple[int, ...], torch.dtype]:
        return self.shape, self.dtype

    @property
    def nbytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize


def in_memory(tensor: torch.Tensor, dtype: torch.dtype | None = None) -> Stored:
    """A tensor at hand, to be written as `dtype` (default: its own)."""
    wanted = dtype or tensor.dtype
    return Stored(tuple(tensor.shape), wanted, lambda: tensor.detach().cpu().to(wanted))


def derived(parts: list[Stored], change: Callable[[list[torch.Tensor]], torch.Tensor]) -> Stored:
    """What `change` makes of `parts` when it is written; its shape is found without reading them."""
    result = change([torch.empty(part.shape, dtype=part.dtype, device="meta") for part in parts])
    return Stored(tuple(result.shape), result.dtype, lambda: change([part.read() for part in parts]))


def stored_tensors(path: Path) -> dict[str, Stored]:
    """What a safetensors file holds; raises WeightsError when it is damaged or no such file."""
    try:
        with safe_open(path, framework="pt") as f:
            slices = {name: f.get_slice(name) for name in f.keys()}  # noqa: SIM118 - not a mapping
            described = {name: (tuple(part.get_shape()), DTYPES[part.get_dtype()]) for name, part in slices.items()}
    except (SafetensorError, OSError) as e:
        raise WeightsError(f"{path} is not a whole safetensors file ({e}): fetch it again") from e
    except KeyError as e:
        raise WeightsError(f"{path} stores numbers of type {e}, which are not known here") from e

    def reader(name: str) -> Callable[[], torch.Tensor]:
        def read() -> torch.Tensor:
            with safe_open(path, framework="pt") as f:
                tensor: torch.Tensor = f.get_tensor(name)
                return tensor

        return read

    return {name: Stored(shape, dtype, reader(name)) for name, (shape, dtype) in described.items()}


def write_tensors(
    path: Path, tensors: Mapping[str, Stored], metadata: Mapping[str, str], *, progress: bool = True
) -> str:
    """Write a safetensors file whole or not at all, wide numbers first; returns its SHA-256."""
    with digest.whole_file(path) as partial:
        total = sum(tensor.nbytes for tensor in tensors.values())
        shown = not progress
        with tqdm(total=total, desc=path.name, unit="B", unit_scale=True, disable=shown, leave=False) as bar:
            for count in _written(partial, tensors, metadata):
                bar.update(count)
        return digest.of_file(partial)


def write_sealed(path: Path, tensors: Mapping[str, Stored], metadata: Mapping[str, str]) -> None:
    """The same with its own checksum at its end, made on the way: nothing is read again."""
    with digest.whole_file(path) as partial:
        for _ in _written(partial, tensors, metadata, sealed=True):
            pass


def is_sealed(path: Path) -> bool:
    """Whether a file is to the bit what `write_sealed` wrote."""
    hashed = hashlib.sha256()
    with path.open("rb") as f:
        left = path.stat().st_size - SEAL_BYTES
        while left > 0 and (part := f.read(min(digest.CHUNK, left))):
            hashed.update(part)
            left -= len(part)
        return f.read() == hashed.digest()


def _written(
    path: Path, tensors: Mapping[str, Stored], metadata: Mapping[str, str], *, sealed: bool = False
) -> Iterator[int]:
    """Write tensor after tensor, yielding the bytes of each."""
    hashed = hashlib.sha256()
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    if sealed:
        seal = Stored((SEAL_BYTES,), torch.uint8, lambda: torch.tensor(list(hashed.digest()), dtype=torch.uint8))
        tensors, order = {**tensors, SEAL: seal}, [*order, SEAL]
    with path.open("wb") as f:
        header = _header(tensors, order, metadata)
        hashed.update(header)
        f.write(header)
        for name in order:
            flat = tensors[name].read().contiguous().reshape(-1)
            data = flat.view(torch.uint8).numpy().data
            f.write(data)
            if sealed:
                hashed.update(data)
            yield tensors[name].nbytes


def _header(tensors: Mapping[str, Stored], order: list[str], metadata: Mapping[str, str]) -> bytes:
    header: dict[str, object] = {"__metadata__": dict(sorted({"format": "pt", **metadata}.items()))}
    offset = 0
    for name in order:
        tensor = tensors[name]
        end = offset + tensor.nbytes
        header[name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text = text.ljust(-(-len(text) // ALIGNMENT) * ALIGNMENT)
    return struct.pack("<Q", len(text)) + text
