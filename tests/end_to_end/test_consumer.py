"""Those who use a release: they download it with the AWS SDK alone, verify it, and load it with plain diffusers."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.end_to_end.command import BUCKET, Ended, Esd, objects
from tests.end_to_end.conftest import Night

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

DOWNLOAD = """
import json, pathlib, sys
import boto3

address, bucket, prefix, folder = sys.argv[1:]
s3 = boto3.client("s3", endpoint_url=address, region_name="us-east-1", aws_access_key_id="-", aws_secret_access_key="-")
s3.download_file(bucket, prefix + "manifest.json", str(pathlib.Path(folder, "manifest.json")))
for name, file in json.loads(pathlib.Path(folder, "manifest.json").read_text())["files"].items():
    s3.download_file(bucket, file["key"], str(pathlib.Path(folder, name)))
ours = {name.partition(".")[0] for name in sys.modules} & {"esd_core", "tasks", "flows", "infra"}
sys.exit(f"not the SDK alone: {ours}" if ours else 0)
"""
PROMPT, SEED, STEPS, GUIDANCE = "a house in the style of Van Gogh", 7, 3, 4.0


@pytest.fixture(scope="module")
def esd(first_night: Night) -> Iterator[Esd]:
    """The command, while the home's S3 server is up: it need not start for each command."""
    with first_night.esd.s3():
        yield first_night.esd


@pytest.fixture(scope="module")
def prefix(esd: Esd) -> str:
    """Where the release of house lies in the bucket."""
    with esd.s3() as s3:
        (manifest,) = (key for key in objects(s3) if key.endswith("-house/1/manifest.json"))
    return manifest.removesuffix("manifest.json")


@pytest.fixture(scope="module")
def downloaded(esd: Esd, prefix: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("downloaded")
    with esd.s3() as s3:
        script = [sys.executable, "-c", DOWNLOAD, s3.meta.endpoint_url, BUCKET, prefix, str(folder)]
        subprocess.run(script, check=True, cwd=folder)
    return folder


def draw(pipe: Any) -> np.ndarray:
    generator = torch.Generator().manual_seed(SEED)
    drawn = pipe(PROMPT, num_inference_steps=STEPS, guidance_scale=GUIDANCE, generator=generator)
    return np.asarray(drawn.images[0])


def test_the_cards_code_loads_it_in_plain_diffusers_and_draws_what_our_loader_draws(
    esd: Esd, downloaded: Path, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusers import StableDiffusionPipeline
    from safetensors.torch import load_file

    monkeypatch.chdir(shutil.copytree(downloaded, tmp_path / "release"))
    card = Path("README.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    exec(card.partition("```python\n")[2].partition("```")[0], names)
    assert Path("image.png").is_file()
    plain = names["pipe"]
    assert isinstance(plain, StableDiffusionPipeline)
    assert set(load_file("weights.safetensors")) < set(plain.unet.state_dict())

    prompts = tmp_path / "prompts.csv"
    prompts.write_text(f"case_number,prompt,evaluation_seed\n1,{PROMPT},{SEED}\n", encoding="utf-8")
    options = ("--base", tiny_base, "--steps", STEPS, "--guidance-scale", GUIDANCE, "--sampler", "base")
    weights = ("--device", "cpu", "--weights", downloaded / "weights.safetensors")
    esd("generate", "--prompts", prompts, "--out", tmp_path / "ours", *options, *weights)
    ours = np.asarray(Image.open(tmp_path / "ours" / "1_0.png"))
    assert (ours == draw(plain)).all()
    assert (ours != draw(StableDiffusionPipeline.from_pretrained(tiny_base))).any()


def test_a_whole_release_is_verified_on_disk_and_in_s3(esd: Esd, downloaded: Path, prefix: str) -> None:
    in_s3, whole = f"s3://{BUCKET}/{prefix}", "whole, but nothing vouches for its manifest"
    assert esd("verify", in_s3).out.startswith(f"{in_s3}: whole and unaltered\n")
    assert esd("verify", str(downloaded)).out.startswith(f"{downloaded}: {whole}\n")  # there was no key


def test_one_altered_byte_of_the_weights_is_named(esd: Esd, downloaded: Path, tmp_path: Path) -> None:
    altered = shutil.copytree(downloaded, tmp_path / "altered")
    weights = bytearray((altered / "weights.safetensors").read_bytes())
    weights[len(weights) // 2] ^= 1
    (altered / "weights.safetensors").write_bytes(weights)
    ended = esd.ended("verify", altered)
    assert ended.code == 1
    assert ended.err == f"{altered}: weights.safetensors was altered: its SHA-256 is not the manifest's\n"


def status_of(status: Ended, model: str, version: int) -> str:
    (row,) = (line for line in status.out.splitlines() if line.replace("│", " ").split()[:2] == [model, str(version)])
    return row


def test_what_a_person_must_approve_waits_for_one(other_night: Night) -> None:
    assert "1 waits for approval" in other_night.ended.out
    esd = other_night.esd
    with esd.s3() as s3:
        (model,) = (key.split("/")[1] for key in objects(s3) if key.endswith("-house/1/manifest.json"))
        before = objects(s3)
        assert f"{model} version 2 is not approved" in esd.ended("publish", model, 2).refusal
        assert objects(s3) == before
        assert "s3://" not in status_of(esd("status"), model, 2)

        esd("approve", model, 2, "--by", "Ada Lovelace", "--reason", "looked at the grid")
        released = f"s3://{BUCKET}/releases/{model}/2/"
        assert released in esd("publish", model, 2).out
        new = objects(s3) - before
        assert f"releases/{model}/2/manifest.json" in new
        assert [key for key in new if key.startswith("weights/")]
        row = status_of(esd("status"), model, 2)
        assert "approved by Ada Lovelace" in row
        assert released in row
        esd("verify", released)
