"""Hostile releases: whatever lies in the folder, the answer is a list of one-line faults; nothing is run or left."""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from esd_core import digest
from esd_core.concept_list import ApprovalPolicy
from esd_core.concepts import Concept, ConceptKind, Erasure, ErasureJob
from esd_core.recipe import ParameterSubset, Recipe
from tasks.approvals.approval_log import ApprovalRecord, Decision
from tasks.releases.layout import file_key
from tasks.releases.manifest import Manifest, ReleasedFile, faults_of_folder, read_manifest
from tasks.releases.verifying import verify
from tasks.releases.weights_check import faults_of_names, faults_of_structure

QUICK = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
WEIGHTS = save({"conv_in.weight": np.ones((2, 3), np.float32)})
MODEL = "esd-miniature-sun"


def manifest_of(files: dict[str, bytes]) -> bytes:
    """The manifest of a release of these files, approved as it must be."""
    concept = Concept(name="sun", kind=ConceptKind.GLOBAL)
    job = ErasureJob(
        base="elsewhere",
        base_digest="0" * 64,
        erasures=(Erasure(concept=concept, recipe=Recipe(subset=ParameterSubset.ESD_U)),),
    )
    sha256 = digest.of_bytes(files["weights.safetensors"])
    approval = ApprovalRecord(
        model=MODEL,
        version=1,
        decision=Decision.APPROVED,
        by="Ada",
        reason="fine",
        policy=ApprovalPolicy.MANUAL,
        weights_digest=sha256,
        gates_passed=True,
        entry=1,
        at=datetime(2026, 1, 1, tzinfo=UTC),
        previous="0" * 64,
    )
    digests = {name: digest.of_bytes(content) for name, content in files.items()}
    return Manifest(
        model=MODEL,
        version=1,
        job=job,
        job_digest=job.digest,
        weights_digest=sha256,
        evaluation={"erased_after": 0.05},
        policy=ApprovalPolicy.MANUAL,
        approvals=(approval,),
        files={
            name: ReleasedFile(sha256=digests[name], size=len(content), key=file_key(MODEL, 1, name, digests[name]))
            for name, content in files.items()
        },
    ).to_bytes()


def write_release(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (folder / "manifest.json").write_bytes(manifest_of(files))
    return folder


GOOD = {"weights.safetensors": WEIGHTS, "README.md": b"# card\n"}
MANIFEST = manifest_of(GOOD)


def test_the_release_that_is_spoiled_below_is_good(tmp_path: Path) -> None:
    assert verify(str(write_release(tmp_path / "release", GOOD))) == []


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


@pytest.mark.parametrize("name", ["model.pkl", "weights.pt", "weights.bin", "model.py", "run.sh", "tokenizer.model"])
def test_files_of_other_kinds_are_refused(tmp_path: Path, name: str) -> None:
    folder = write_release(tmp_path / "release", {**GOOD, name: b"x"})
    assert f"manifest.json names files of kinds that no release has: {name}" in verify(str(folder))


@pytest.mark.parametrize("content", [pickle.dumps({"a": 1}), b"PK\x03\x04rest", b"\x1f\x8b\x08rest"])
def test_a_pickle_that_calls_itself_json_is_refused(tmp_path: Path, content: bytes) -> None:
    folder = write_release(tmp_path / "release", {**GOOD, "config.json": content})
    assert verify(str(folder)) == ["config.json is a pickle or an archive"]


NAMES = [
    "../x.json",
    "/etc/x.json",
    "a/b.json",
    "a\\b.json",
    "C:x.json",
    ".hidden.json",
    "",
    "x\0.json",
    "\u202ex.json",
]
NAMES += ["manifest.json", "manifest.sig", "x" * 200 + ".json", "a\nb.json", "..", "~x.json", "x.json "]


@pytest.mark.parametrize("name", NAMES)
def test_names_that_play_tricks_are_refused(name: str) -> None:
    content = json.loads(MANIFEST)
    content["files"][name] = content["files"]["README.md"]
    _, faults = read_manifest(json.dumps(content).encode())
    assert faults
    assert all("\n" not in fault and "\0" not in fault for fault in faults)


def _changed(change: Callable[[Any], object]) -> bytes:
    content = json.loads(MANIFEST)
    change(content)
    return json.dumps(content).encode()


BAD_MANIFESTS: dict[str, bytes] = {
    "two names that some systems take for one": _changed(
        lambda m: m["files"].update({"readme.MD".replace("MD", "md"): {**m["files"]["README.md"]}})
    ),
    "a key that lies elsewhere": _changed(lambda m: m["files"]["README.md"].update(key="approvals/000001.json")),
    "weights elsewhere": _changed(lambda m: m["files"]["weights.safetensors"].update(key="weights/x.safetensors")),
    "negative size": _changed(lambda m: m["files"]["README.md"].update(size=-1)),
    "size as text": _changed(lambda m: m["files"]["README.md"].update(size="many")),
    "digest in capitals": _changed(lambda m: m["files"]["README.md"].update(sha256="A" * 64)),
    "no approvals": _changed(lambda m: m.update(approvals=[])),
    "rejected": _changed(lambda m: m["approvals"][0].update(decision="rejected")),
    "against its gates": _changed(lambda m: m["approvals"][0].update(gates_passed=False)),
    "one of two people": _changed(lambda m: m.update(policy="two-person")),
    "an approval twice": _changed(lambda m: m["approvals"].append(m["approvals"][0])),
    "another format": _changed(lambda m: m.update(format="esd-release/9")),
    "another field": _changed(lambda m: m.update(extra=1)),
    "no job": _changed(lambda m: m.pop("job")),
    "a job with nothing to erase": _changed(lambda m: m["job"].update(erasures=[])),
    "a figure that is none": MANIFEST.replace(b"0.05", b"NaN"),
    "a figure without end": MANIFEST.replace(b"0.05", b"Infinity"),
    "not UTF-8": MANIFEST.replace(b'"Ada"', b'"\xff\xfe"'),
    "a bomb of brackets": b"[" * 200_000,
    "twenty megabytes": b" " * (20 << 20),
    "a lone surrogate": MANIFEST.replace(b'"Ada"', b'"\\ud800"'),
}


@pytest.mark.parametrize("name", BAD_MANIFESTS)
def test_a_manifest_against_itself_is_refused_in_one_line_each(name: str) -> None:
    _, faults = read_manifest(BAD_MANIFESTS[name])
    assert faults
    assert all(fault.startswith("manifest.json") and "\n" not in fault for fault in faults)


@QUICK
@given(place=st.integers(0, len(MANIFEST) - 1), byte=st.integers(0, 255))
def test_no_byte_of_a_manifest_makes_reading_it_fail(place: int, byte: int) -> None:
    _, faults = read_manifest(MANIFEST[:place] + bytes([byte]) + MANIFEST[place + 1 :])
    assert all("\n" not in fault for fault in faults)


@QUICK
@given(content=st.binary(max_size=300))
def test_no_bytes_make_reading_a_manifest_fail(content: bytes) -> None:
    manifest, faults = read_manifest(content)
    assert manifest is None
    assert len(faults) == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)


@QUICK
@given(field=st.sampled_from(sorted(json.loads(MANIFEST))), value=JSON)
@example(field="evaluation", value={"\x1b[2Jall is well\n": None})
def test_no_value_of_a_field_makes_reading_a_manifest_fail(field: str, value: object) -> None:
    content = json.loads(MANIFEST)
    content[field] = value
    _, faults = read_manifest(json.dumps(content).encode())
    assert all(fault.isprintable() for fault in faults), faults


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


def test_a_link_out_of_the_folder_is_told_before_it_is_read(tmp_path: Path) -> None:
    folder = write_release(tmp_path / "release", GOOD)
    for name in ("README.md", "manifest.sig"):
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to("/dev/zero")
    assert faults_of_folder(folder) == ["README.md is a link, not a file", "manifest.sig is a link, not a file"]
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").symlink_to("/dev/zero")
    assert verify(str(folder)) == ["manifest.json is missing: this is not a finished release"]


def test_names_and_shapes_are_compared_with_the_bases() -> None:
    known = {"a.weight": (2, 3), "b.weight": (4,)}
    assert faults_of_names({"a.weight": (2, 3)}, known) == []
    assert faults_of_names({"c": (1,), "b.weight": (5,)}, known) == [
        "tensors that the base model does not have: 'c'",
        "tensors of another shape than the base model's: 'b.weight'",
    ]
