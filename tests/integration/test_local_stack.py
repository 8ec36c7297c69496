"""The local servers: started once, shared, and gone with their last user, however that one ended."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from esd_core.errors import InvalidInput, ServiceUnavailable
from infra.local_stack import embedded_s3
from infra.processes import Server, fetch, free_port, locked, require_free, start, wait_until_healthy
from infra.servers import PROJECT, S3_HEALTH, prefect_workers
from tasks.s3.storage import open_bucket
from tasks.settings import Settings, get_settings

USER = """
import sys, time
from infra.local_stack import embedded_s3
from tasks.settings import get_settings
with embedded_s3(get_settings()) as address:
    print(address, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def home(fresh_settings: Callable[..., Settings]) -> Settings:
    return fresh_settings(s3_endpoint_url="embedded")


def _until(condition: Callable[[], bool], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def _other_process() -> tuple[subprocess.Popen[str], str]:
    """Another process that uses the embedded server of the same home until its input is closed."""
    user = subprocess.Popen(
        [sys.executable, "-c", USER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=PROJECT
    )
    assert user.stdout
    return user, user.stdout.readline().strip()


def _post(url: str) -> bytes:
    request = urllib.request.Request(url, data=b"{}", headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        body: bytes = answer.read()
        return body


def _left_running(word: str) -> list[str]:
    """Command lines of processes that mention `word`."""
    lines = subprocess.run(["ps", "-ewwo", "args"], check=True, capture_output=True, text=True).stdout.splitlines()
    return [line for line in lines if word in line]


def test_embedded_s3_keeps_its_objects_from_one_start_to_the_next(home: Settings) -> None:
    with embedded_s3(home) as first:
        open_bucket().put("a", b"kept")
        with embedded_s3(home) as again:
            assert again == first
    assert first
    assert fetch(first + S3_HEALTH) is None
    with embedded_s3(home):
        assert open_bucket().get("a") == b"kept"


def test_embedded_s3_listens_on_this_machine_only(home: Settings) -> None:
    with embedded_s3(home) as address:
        port = int(str(address).rpartition(":")[2])
        with socket.socket() as s:  # another loopback address, which a server on all addresses would answer
            assert s.connect_ex(("127.0.0.2", port)) != 0


@pytest.mark.usefixtures("home")
def test_processes_of_one_home_share_a_server_that_leaves_with_the_last_even_if_killed() -> None:
    first, address = _other_process()
    second, same = _other_process()
    assert address.startswith("http://127.0.0.1:")
    assert same == address
    first.kill()
    first.wait()
    assert not _until(lambda: fetch(address + S3_HEALTH) is None, seconds=1.5)
    second.kill()
    second.wait()
    assert _until(lambda: fetch(address + S3_HEALTH) is None)
    assert _until(lambda: not _left_running(str(get_settings().home)))


def test_an_address_left_by_a_dead_server_is_not_trusted(home: Settings, s3_address: str) -> None:
    home.home.mkdir(parents=True)
    home.s3_address_file.write_text(s3_address)  # it answers, but it is the server of another home
    with embedded_s3(home) as address:
        assert address != s3_address


def test_a_server_of_ones_own_is_left_alone(fresh_settings: Callable[..., Settings]) -> None:
    with embedded_s3(fresh_settings(s3_endpoint_url="https://s3.example.com")) as address:
        assert address == "https://s3.example.com"
    with embedded_s3(fresh_settings(s3_endpoint_url="aws")) as address:
        assert address is None
    assert not get_settings().home.exists()


def test_a_taken_port_is_one_line_that_names_the_setting(home: Settings) -> None:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        port = s.getsockname()[1]
        message = f"^port {port} for S3 is taken: stop what uses it, or set ESD_S3_PORT$"
        with pytest.raises(InvalidInput, match=message), embedded_s3(home, port):
            pass
    require_free(port, "S3", "ESD_S3_PORT")


def test_a_server_that_ends_while_starting_says_why(tmp_path: Path) -> None:
    server = Server("S3", (sys.executable, "-c", "raise SystemExit('disk full')"), free_port(), "/health")
    with locked(tmp_path / "lock"):
        process = start(server, tmp_path / "lock", tmp_path / "log")
        with pytest.raises(ServiceUnavailable, match="S3 ended while starting: disk full"):
            wait_until_healthy(server, process, tmp_path / "log", 30)


def test_what_a_server_started_goes_with_it(tmp_path: Path) -> None:
    marker = f"esd-test-{os.getpid()}"
    child = f"import time; time.sleep(600)  # {marker}"
    parent = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(600)"
    with locked(tmp_path / "lock"):
        process = start(Server("test", (sys.executable, "-c", parent)), tmp_path / "lock", tmp_path / "log")
        assert _until(lambda: len(_left_running(marker)) == 3)  # leash, server, and its child
    process.wait(20)
    assert _until(lambda: not _left_running(marker))


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_make_up_serves_everything_and_leaves_nothing_behind(tmp_path: Path) -> None:
    home = tmp_path / "up"
    ports = {name: str(free_port()) for name in ("ESD_S3_PORT", "ESD_MLFLOW_PORT", "ESD_PREFECT_PORT")}
    environment = {**os.environ, **ports, "ESD_HOME": str(home), "ESD_S3_ENDPOINT_URL": "embedded"}
    command = [sys.executable, "-m", "infra.local_stack"]
    stack = subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert stack.stdout
        said = ""
        for line in stack.stdout:
            said += line
            if "Ctrl-C" in line:
                break
        addresses = re.findall(r"^(Prefect|MLflow|S3) +(http://127\.0\.0\.1:\d+)$", said, re.MULTILINE)
        assert [name for name, _ in addresses] == ["Prefect", "MLflow", "S3"], said
        prefect, mlflow, s3 = (address for _, address in addresses)
        assert b"Prefect" in (fetch(prefect) or b"")
        assert b"MLflow" in (fetch(mlflow) or b"")
        assert fetch(s3 + S3_HEALTH)
        logs = [home / "logs" / f"prefect-worker-{worker}.log" for worker in ("nights", "runner-1")]
        assert _until(lambda: all("started" in log.read_text() for log in logs), 60)
        assert len(_left_running(str(home))) >= 5  # so that finding none at the end means something

        scheduled = f"{prefect}/api/flow_runs/count"
        assert _until(lambda: int(_post(scheduled)) > 0, 60), "the scheduler made no run of the nightly deployment"

        second = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)
        assert second.returncode == 2
        assert re.fullmatch(r"error: `make up` already runs on .*: stop it, or set ESD_HOME\n", second.stderr)

        stack.send_signal(signal.SIGINT)
        assert stack.wait(60) == 0
        assert not _left_running(str(home))
        assert all(fetch(address) is None for address in (prefect, mlflow, s3))
    finally:
        stack.kill()


@pytest.mark.parametrize(
    ("visible", "runners", "devices"), [("0,2", 0, ["0", "2"]), ("0,2", 3, ["0", "2", "0"]), ("", 0, [None])]
)
def test_there_is_a_runner_for_each_gpu_or_as_many_as_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, visible: str, runners: int, devices: list[str | None]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    nights, *gpu = prefect_workers(Settings(home=tmp_path, runners=runners))
    assert nights.command[-1] == "esd"
    assert [worker.environment.get("CUDA_VISIBLE_DEVICES") for worker in gpu] == devices
    assert all(worker.command[-4:] == ("--pool", "esd-gpu", "--limit", "1") for worker in gpu)
