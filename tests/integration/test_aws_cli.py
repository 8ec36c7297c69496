"""A release downloaded by the AWS CLI alone, as docs/release.md says, and then verified by `esd verify`."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.cli import main
from tasks.approvals import approval
from tasks.releases.release import publish
from tasks.settings import Settings
from tests import aws_cli
from tests.integration.conftest import Made

pytestmark = [pytest.mark.own_environment, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        return aws_cli.install(tmp_path_factory.mktemp("aws"))
    except aws_cli.NotInstalled as e:
        pytest.skip(str(e))


@pytest.fixture
def copy(aws: Path, settings: Settings, tmp_path: Path) -> Callable[..., None]:
    """`aws s3 cp`, told of the test's server."""

    def run(*arguments: str) -> None:
        command = [str(aws), "s3", "cp", *arguments, "--endpoint-url", str(settings.s3_endpoint_url), "--quiet"]
        subprocess.run(command, check=True, cwd=tmp_path, env=aws_cli.environment())

    return run


def test_a_release_that_the_aws_cli_downloaded_verifies(
    copy: Callable[..., None],
    make: Callable[..., Made],
    settings: Settings,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    version = make().register()
    approval.approve(version.model, version.version, "Ada Lovelace", "looked at the grid")
    uri = publish(version.model, version.version).uri
    release = tmp_path / "release"
    copy("--recursive", uri, "release")
    sha256 = json.loads((release / "config.json").read_text(encoding="utf-8"))["weights"]["sha256"]
    copy(f"s3://{settings.s3_bucket}/weights/{sha256}.safetensors", "release/weights.safetensors")

    assert main(["verify", str(release)]) == 0
    assert f"{release}: whole" in capsys.readouterr().out

    weights = bytearray((release / "weights.safetensors").read_bytes())
    weights[-1] ^= 1
    (release / "weights.safetensors").write_bytes(weights)
    assert main(["verify", str(release)]) == 1
    assert "weights.safetensors was altered" in capsys.readouterr().err
