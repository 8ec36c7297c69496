"""What `esd` refuses: one clear line, exit code 2, no traceback, and nothing half-written."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.processes import free_port
from tests.end_to_end.command import Esd, write_list
from tests.end_to_end.conftest import HOUSE, Night

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, suite: Path, first_night: Night) -> Path:
    """A folder of good and bad input, for commands that run in it."""
    bench = tmp_path_factory.mktemp("bench")
    concepts: dict[str, list[dict[str, object]]] = {
        "good": [HOUSE],
        "kind": [{**HOUSE, "kind": "mood"}],
        "empty": [],
        "twice": [HOUSE, {**HOUSE, "name": "House"}],
        "unmeasured": [{**HOUSE, "name": "boat"}],
    }
    for name, rows in concepts.items():
        write_list(bench / f"{name}.yaml", tiny_base, suite, "gates", *rows)
    write_list(bench / "nowhere.yaml", bench / "no-base", suite, "gates", HOUSE)
    (bench / "prompts.csv").write_text("case_number,prompt,evaluation_seed\n1,a house,7\n", encoding="utf-8")

    (bench / "base").symlink_to(tiny_base)
    other = shutil.copytree(tiny_base, bench / "other-base")
    config = other / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "beta_end": 0.013}))

    weights = next((first_night.esd.home / "jobs").glob("*/weights.safetensors")).read_bytes()
    (bench / "whole.safetensors").write_bytes(weights)
    (bench / "truncated.safetensors").write_bytes(weights[:-100])
    (bench / "pickle.safetensors").write_bytes(b"\x80\x04\x95pickle")
    return bench


@pytest.fixture
def esd(bench: Path) -> Iterator[Esd]:
    """A home that no command has used, in the bench; whatever is refused must leave the bench as it was."""
    before = set(bench.rglob("*"))
    home = bench / "home"
    yield Esd(home)
    left = set(bench.rglob("*")) - before
    shutil.rmtree(home, ignore_errors=True)
    assert left <= {home, home / "mlflow.db"}  # an empty registry, where the plan came to look into it


GENERATE = "generate --prompts prompts.csv --out new --base"


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        (
            "run kind.yaml",
            "kind.yaml: line 6: concepts.0.kind: Input should be 'style', 'object' or 'global' (given: 'mood')",
        ),
        ("run empty.yaml", "concepts: Tuple should have at least 1 item"),
        ("run twice.yaml", "is listed before, on line"),
        ("run none.yaml", "cannot read concept list none.yaml"),
        ("run whole.safetensors", "whole.safetensors is not YAML"),
        ("run unmeasured.yaml", "no probe of the suite measures 'boat': it knows house, sun, tree"),
        ("run nowhere.yaml", "no-base' is neither a folder"),
        ("erase house --kind mood --out new.safetensors", "kind: Input should be 'style', 'object' or 'global'"),
        ("erase house --base no-base --out new.safetensors", "'no-base' is neither a folder"),
        (f"{GENERATE} base --weights none.safetensors", "no weights file at none.safetensors"),
        (f"{GENERATE} base --weights truncated.safetensors", "truncated.safetensors is not a whole safetensors file"),
        (f"{GENERATE} base --weights pickle.safetensors", "pickle.safetensors is not a whole safetensors file"),
        (f"{GENERATE} other-base --weights whole.safetensors", "but the base loaded has digest"),
        ("verify no-folder", "no such folder: no-folder"),
    ],
)
def test_bad_input(esd: Esd, command: str, complaint: str) -> None:
    assert complaint in esd.ended(*shlex.split(command)).refusal


@pytest.fixture
def elsewhere(esd: Esd) -> Esd:
    """The command with an S3 server that is not embedded."""
    return esd.having(AWS_ACCESS_KEY_ID="-", AWS_SECRET_ACCESS_KEY="-", ESD_S3_BUCKET="not-there")


@pytest.mark.parametrize("command", ["run good.yaml", "run good.yaml --dry-run", "publish esd-any 1"])
def test_an_mlflow_server_that_is_down(elsewhere: Esd, command: str) -> None:
    mlflow, s3 = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    down = elsewhere.having(ESD_MLFLOW_TRACKING_URI=mlflow, ESD_S3_ENDPOINT_URL=s3)
    assert f"MLflow at {mlflow} does not answer" in down.ended(*shlex.split(command)).refusal


@pytest.mark.parametrize("command", ["run good.yaml", "verify s3://not-there/releases/a/1"])
def test_an_s3_server_that_is_down(elsewhere: Esd, command: str) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    refusal = elsewhere.having(ESD_S3_ENDPOINT_URL=address).ended(*shlex.split(command)).refusal
    assert f"S3 at {address} does not answer" in refusal


@pytest.mark.parametrize("command", ["run good.yaml", "verify s3://not-there/releases/a/1"])
def test_a_bucket_that_is_missing(elsewhere: Esd, first_night: Night, command: str) -> None:
    with first_night.esd.s3() as s3:
        there = elsewhere.having(ESD_S3_ENDPOINT_URL=s3.meta.endpoint_url)
        refusal = there.ended(*shlex.split(command)).refusal
        assert "bucket 'not-there' does not exist" in refusal
        assert "ESD_S3_BUCKET" in refusal
        assert "not-there" not in {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}
