"""Hostile weights in a release: one line says what is wrong, nothing is unpickled, run or left."""

from __future__ import annotations

import json
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from tasks.releases.verifying import verify
from tasks.releases.weights_check import faults_of_names, faults_of_structure
from tests.hostile.refusals import QUICK
from tests.hostile.releases import GOOD, WEIGHTS, write_release


def _safetensors(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def _entry(dtype: str = "F32", shape: tuple[int, ...] = (2,), offsets: tuple[int, int] = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


class Exploding:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch exploded",)


BAD_WEIGHTS: dict[str, bytes] = {
    "nothing": b"",
    "seven bytes": b"\0" * 7,
    "pickle": pickle.dumps(Exploding()),
    "zip of torch": b"PK\x03\x04" + b"\0" * 100,
    "no tensors": _safetensors({}),
    "header of 2^63 bytes": _safetensors({"a": _entry()}, b"\0" * 8, length=1 << 63),
    "header longer than the file": _safetensors({"a": _entry()}, b"\0" * 8, length=10_000),
    "header shorter than it is": _safetensors({"a": _entry()}, b"\0" * 8, length=5),
    "header of 200 MB": struct.pack("<Q", 200 << 20) + b" " * 1000,
    "header is a list": _safetensors([]),
    "header is no JSON": _safetensors(b"{'a'}"),
    "header is not UTF-8": _safetensors(b'{"\xff": 1}'),
    "nested a thousand times": _safetensors(b'{"a":' * 1000),
    "data too short": _safetensors({"a": _entry()}, b"\0" * 4),
    "data too long": _safetensors({"a": _entry()}, b"\0" * 12),
    "overlapping tensors": _safetensors({"a": _entry(), "b": _entry(offsets=(4, 12))}, b"\0" * 12),
    "gap between tensors": _safetensors({"a": _entry(), "b": _entry(offsets=(12, 20))}, b"\0" * 20),
    "offsets the wrong way round": _safetensors({"a": _entry(offsets=(8, 0))}, b"\0" * 8),
    "negative offset": _safetensors({"a": _entry(offsets=(-8, 0))}, b"\0" * 8),
    "shape larger than the data": _safetensors({"a": _entry(shape=(1000, 1000))}, b"\0" * 8),
    "shape that overflows": _safetensors({"a": _entry(shape=(1 << 40, 1 << 40))}, b"\0" * 8),
    "negative shape": _safetensors({"a": _entry(shape=(-2,))}, b"\0" * 8),
    "unknown numbers": _safetensors({"a": _entry(dtype="PICKLE")}, b"\0" * 8),
    "a name twice": _safetensors(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":' + b"1}", b"\0" * 8),
    "whole numbers": save({"a": np.ones(2, np.int64)}),
    "not a number in eight bits": _safetensors({"a": _entry(dtype="F8_E4M3", offsets=(0, 2))}, b"\x7f\x7f"),
    "not a number": save({"a": np.array([1.0, np.nan], np.float32)}),
    "infinite": save({"a": np.array([1.0, -np.inf], np.float64)}),
    "infinite in 16 bits": save({"a": np.array([1.0, np.inf], np.float16)}),
    "not a number in bfloat16": _safetensors({"a": _entry(dtype="BF16", offsets=(0, 4))}, b"\x80\x3f\xc0\x7f"),
}


@pytest.mark.parametrize("name", BAD_WEIGHTS)
def test_bad_weights_under_a_manifest_that_agrees_are_one_line(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = write_release(tmp_path / "release", {**GOOD, "weights.safetensors": BAD_WEIGHTS[name]})
    (fault,) = verify(str(folder))
    assert fault.startswith("weights.safetensors ")
    assert "\n" not in fault
    assert list(tmp_path.iterdir()) == [folder]


@QUICK
@given(place=st.integers(0, len(WEIGHTS) - 1), byte=st.integers(0, 255))
def test_no_byte_of_the_weights_makes_looking_at_them_fail(tmp_path: Path, place: int, byte: int) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(WEIGHTS[:place] + bytes([byte]) + WEIGHTS[place + 1 :])
    assert all("\n" not in fault for fault in faults_of_structure(path))


@QUICK
@given(content=st.binary(max_size=200), length=st.integers(0, 2**64 - 1) | st.integers(0, 300))
def test_no_bytes_make_looking_at_weights_fail(tmp_path: Path, content: bytes, length: int) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(struct.pack("<Q", length) + content)
    (fault,) = faults_of_structure(path)
    assert "\n" not in fault


def test_names_and_shapes_are_compared_with_the_bases() -> None:
    known = {"a.weight": (2, 3), "b.weight": (4,)}
    assert faults_of_names({"a.weight": (2, 3)}, known) == []
    assert faults_of_names({"c": (1,), "b.weight": (5,)}, known) == [
        "tensors that the base model does not have: 'c'",
        "tensors of another shape than the base model's: 'b.weight'",
    ]
