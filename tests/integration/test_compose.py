"""MLflow and Prefect as the compose file starts them: nobody gets in without a password, and with it all works."""

from __future__ import annotations

import re
import subprocess
import sys
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from esd_core.errors import EsdError
from infra.processes import Server, free_port, locked, start, stop, wait_until_healthy
from tasks.records import registry, tracking
from tasks.s3.storage import open_bucket
from tasks.settings import Settings
from tests.integration.conftest import Made
from tests.postgres import NoPostgres, private_cluster

pytestmark = [pytest.mark.slow, pytest.mark.postgres]
COMPOSE = Path(__file__).parents[2] / "infra" / "compose" / "compose.yaml"
PROGRAMS = Path(sys.executable).parent
USER, PASSWORD = "esd", "marked-compose-password"
SAID = {
    "DATABASE_PASSWORD": "x",
    "MLFLOW_USER": USER,
    "MLFLOW_PASSWORD": PASSWORD,
    "MLFLOW_SECRET_KEY": "random",
    "PREFECT_AUTH": f"{USER}:{PASSWORD}",
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
}


def filled_in(text: str, said: dict[str, str]) -> str:
    """A compose file's text with its variables; raises KeyError for one that must be given and is not."""

    def value(match: re.Match[str]) -> str:
        name, _, default = match[1].partition(":-") if ":-" in match[1] else (match[1].partition(":?")[0], "", None)
        return said[name] if default is None else said.get(name, default)

    return re.sub(r"\$\{([^}]+)\}", value, text)


@dataclass(frozen=True)
class Stack:
    mlflow: str
    prefect: str


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, s3_address: str) -> Iterator[Stack]:
    """Both servers, by the commands and the environment of the compose file, on ports of this machine."""
    home = tmp_path_factory.mktemp("compose")
    with pytest.MonkeyPatch.context() as credentials:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            credentials.setenv(name, SAID[name])
        open_bucket("mlflow-artifacts", Settings.model_validate({"s3_endpoint_url": s3_address})).create()
    said = {**SAID, "S3_URL": s3_address, "S3_BUCKET": "unused", "MLFLOW_BUCKET": "mlflow-artifacts"}
    try:
        with private_cluster("mlflow", "mlflow_auth", "prefect") as database, ExitStack() as servers:
            whole = filled_in(COMPOSE.read_text(encoding="utf-8"), said).replace("0.0.0.0", "127.0.0.1")
            for driver in ("psycopg2", "asyncpg"):
                ours = database.replace("postgresql://", f"postgresql+{driver}://")
                whole = whole.replace(f"postgresql+{driver}://esd:x@database", ours)
            compose = yaml.safe_load(whole)
            (home / "auth.ini").write_text(compose["configs"]["mlflow-auth"]["content"])
            started = {
                name: servers.enter_context(running(compose["services"][name], home / name, home / "auth.ini", health))
                for name, health in (("mlflow", "/health"), ("prefect", "/api/health"))
            }
            yield Stack(**started)
    except NoPostgres as e:
        pytest.skip(str(e))


@contextmanager
def running(service: dict[str, Any], folder: Path, auth: Path, health: str) -> Iterator[str]:
    """A service of the compose file; only its port, and where its files are, are others."""
    folder.mkdir()
    port = free_port()
    command = [re.sub(r"^--port=\d+$", f"--port={port}", part) for part in service["command"]]
    environment = {
        **service["environment"],
        "PREFECT_HOME": str(folder),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
    }
    if "MLFLOW_AUTH_CONFIG_PATH" in environment:
        environment["MLFLOW_AUTH_CONFIG_PATH"] = str(auth)
    server = Server(command[0], (str(PROGRAMS / command[0]), *command[1:]), port, health, environment, folder)
    lock, log = folder / "lock", folder / "log"
    with locked(lock):
        process = start(server, lock, log)
        try:
            wait_until_healthy(server, process, log, 240)
            yield server.address
        finally:
            stop(process)


def answer(url: str, password: str | None = None, content: bytes | None = None) -> int:
    """The status that a request gets."""
    request = urllib.request.Request(url, content, {"Content-Type": "application/json"})
    if password:
        request.add_header("Authorization", f"Basic {b64encode(f'{USER}:{password}'.encode()).decode()}")
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return int(response.status)
    except urllib.error.HTTPError as e:
        return e.code


MLFLOW = {
    "": None,
    "/api/2.0/mlflow/experiments/search?max_results=1": None,
    "/ajax-api/2.0/mlflow/experiments/search?max_results=1": None,
    "/api/2.0/mlflow/registered-models/search": None,
    "/api/2.0/mlflow/users/get?username=esd": None,
}
PREFECT = {
    "/api/flow_runs/filter": b"{}",
    "/api/deployments/filter": b"{}",
    "/api/block_documents/filter": b"{}",
    "/api/admin/settings": None,
}


@pytest.mark.parametrize("server", ["mlflow", "prefect"])
def test_nobody_gets_in_without_the_password(stack: Stack, server: str) -> None:
    address, places = (stack.mlflow, MLFLOW) if server == "mlflow" else (stack.prefect, PREFECT)
    for place, content in places.items():
        asked = {password: answer(f"{address}{place}", password, content) for password in (None, "wrong", PASSWORD)}
        assert asked == {None: 401, "wrong": 401, PASSWORD: 200}, place


def test_a_version_is_registered_and_read_with_the_password_alone(
    stack: Stack,
    settings: Settings,
    fresh_settings: Callable[..., Settings],
    make: Callable[..., Made],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    assert not settings.mlflow_is_server
    fresh_settings(mlflow_tracking_uri=stack.mlflow)
    tracking._connect.cache_clear()
    with pytest.raises(EsdError, match="set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD") as refused:
        make().register()
    assert "\n" not in str(refused.value)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    made = make(seed=1)
    version = made.register()
    files = registry.download_artifacts(version, tmp_path / "files")
    assert files["weights.safetensors"].read_bytes() == made.files["weights.safetensors"].read_bytes()
    with_password = stack.mlflow.replace("http://", f"http://{USER}:{PASSWORD}@")
    for name in ("USERNAME", "PASSWORD"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}")
    fresh_settings(mlflow_tracking_uri=with_password)
    there = registry.get_version(version.model, version.version)
    assert there.page == f"{stack.mlflow}/#/models/{version.model}/versions/1"
    assert PASSWORD not in there.model_dump_json()


def test_prefect_takes_a_run_with_the_password_alone(stack: Stack, tmp_path: Path) -> None:
    environment = {
        "PREFECT_API_URL": f"{stack.prefect}/api",
        "PREFECT_HOME": str(tmp_path),
        "ESD_HOME": str(tmp_path / "home"),
        "PATH": str(PROGRAMS),
    }
    (tmp_path / "list.yaml").write_text("concepts: [{name: sun, kind: global}]\n")
    command = [str(PROGRAMS / "esd"), "run", str(tmp_path / "list.yaml")]
    refused = subprocess.run(command, env=environment, check=False, capture_output=True, text=True, timeout=200)
    assert refused.returncode == 2
    assert "set PREFECT_API_AUTH_STRING" in refused.stderr.splitlines()[-1]
    deploy = [sys.executable, "-m", "infra.deploy"]
    environment["PREFECT_API_AUTH_STRING"] = f"{USER}:{PASSWORD}"
    subprocess.run(deploy, env=environment, check=True, capture_output=True, timeout=280, cwd=COMPOSE.parents[2])
    assert answer(f"{stack.prefect}/api/deployments/name/approve/approve", PASSWORD) == 200


def test_ports_are_this_machines_and_every_secret_must_be_given() -> None:
    text = COMPOSE.read_text(encoding="utf-8")
    for name in ("DATABASE_PASSWORD", "MLFLOW_USER", "MLFLOW_PASSWORD", "MLFLOW_SECRET_KEY", "PREFECT_AUTH"):
        assert f"${{{name}:?" in text
        assert f"${{{name}:-" not in text
    services = yaml.safe_load(text)["services"]
    ports = [port for service in services.values() for port in service.get("ports", ())]
    assert len(ports) == 2
    assert all(port.startswith("127.0.0.1:") for port in ports)
