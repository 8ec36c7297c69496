"""Hostile releases: whatever lies in the folder, the answer is a list of one-line faults; nothing is run or left."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tasks.releases.manifest import faults_of_folder, read_manifest
from tasks.releases.verifying import verify
from tests.hostile.refusals import JSON, QUICK
from tests.hostile.releases import GOOD, MANIFEST, write_release


def test_the_release_that_is_spoiled_below_is_good(tmp_path: Path) -> None:
    assert verify(str(write_release(tmp_path / "release", GOOD))) == []


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


@QUICK
@given(field=st.sampled_from(sorted(json.loads(MANIFEST))), value=JSON)
@example(field="evaluation", value={"\x1b[2Jall is well\n": None})
def test_no_value_of_a_field_makes_reading_a_manifest_fail(field: str, value: object) -> None:
    content = json.loads(MANIFEST)
    content[field] = value
    _, faults = read_manifest(json.dumps(content).encode())
    assert all(fault.isprintable() for fault in faults), faults


def test_a_link_out_of_the_folder_is_told_before_it_is_read(tmp_path: Path) -> None:
    folder = write_release(tmp_path / "release", GOOD)
    for name in ("README.md", "manifest.sig"):
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to("/dev/zero")
    assert faults_of_folder(folder) == ["README.md is a link, not a file", "manifest.sig is a link, not a file"]
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").symlink_to("/dev/zero")
    assert verify(str(folder)) == ["manifest.json is missing: this is not a finished release"]
