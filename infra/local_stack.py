"""The services on one machine: embedded S3 for any command, and everything with its web pages for `make up`.

    python -m infra.local_stack

Servers listen on 127.0.0.1 only, write under ESD_HOME, and live no longer than those who use them (see leash.py).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

from esd_core import digest
from esd_core.errors import EsdError, InvalidInput, ServiceUnavailable
from infra.processes import (
    Server,
    child_environment,
    fetch,
    free_port,
    last_line,
    locked,
    require_free,
    start,
    stop,
    wait_until_healthy,
)
from tasks.settings import EMBEDDED, Settings, get_settings
from tasks.storage import open_bucket

PROJECT = Path(__file__).resolve().parent.parent
S3_HEALTH = "/_ministack/health"


def s3_server(settings: Settings, port: int) -> Server:
    environment = {
        "BIND_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(port),
        "SERVICES": "s3",
        "SFTP_ENABLED": "0",
        "IOT_MTLS_ENABLED": "0",
        "DOCKER_HOST": "unix:///nonexistent",  # it would stop containers of other ministacks
        "S3_PERSIST": "1",
        "S3_DATA_DIR": str(settings.s3_folder),
        "MINISTACK_EDITION": str(settings.s3_folder),  # comes back in the health answer: tells whose server it is
        "LOG_LEVEL": "WARNING",
    }
    command = (sys.executable, "-m", "ministack")
    return Server("S3 (ministack)", command, port=port, health=S3_HEALTH, environment=environment)


def mlflow_server(settings: Settings) -> Server:
    """Clients write artifacts to the folder themselves, so that records made without the server stay readable."""
    command = (sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(settings.mlflow_port))
    where = (
        "--backend-store-uri",
        f"sqlite:///{settings.home}/mlflow.db",
        "--default-artifact-root",
        settings.artifacts_folder.as_uri(),
        "--no-serve-artifacts",
    )
    environment = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # starts in a third of the time and memory
    return Server(
        "MLflow",
        (*command, *where, "--workers", "1"),
        port=settings.mlflow_port,
        health="/health",
        environment=environment,
        folder=settings.home,
    )


def prefect_environment(settings: Settings) -> dict[str, str]:
    """What every Prefect process of the stack, and every flow run it starts, is told."""
    return {
        "PREFECT_HOME": str(settings.home / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{settings.prefect_port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_CLI_PROMPT": "false",
        "PREFECT_CLI_COLORS": "false",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PREFECT_RUNNER_POLL_FREQUENCY": "3",  # cancelling is heard so soon where the stream of events has broken
        # concurrency slots come back when their holder is killed
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
        "PREFECT_CLIENT_MAX_RETRIES": "7",  # with backoff: a server that restarts is waited for
        "ESD_HOME": str(settings.home),
        "ESD_MLFLOW_TRACKING_URI": f"http://127.0.0.1:{settings.mlflow_port}",
    }


def prefect_server(settings: Settings) -> Server:
    port = settings.prefect_port
    command = (sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port))
    return Server("Prefect", command, port, "/api/health", prefect_environment(settings), settings.home)


def prefect_worker(settings: Settings, name: str, pool: str, *options: str, **environment: str) -> Server:
    command = (sys.executable, "-m", "prefect", "worker", "start", "--type", "process", "--name", name, "--pool", pool)
    environment = {**prefect_environment(settings), **environment}
    return Server(f"Prefect worker {name}", (*command, *options), environment=environment, folder=PROJECT)


def prefect_workers(settings: Settings) -> list[Server]:
    """A worker for nights and decisions, and one for each GPU, or as many as the settings say, that takes one share."""
    devices = gpus()
    count = settings.runners or max(1, len(devices))
    visible = [{"CUDA_VISIBLE_DEVICES": devices[n % len(devices)]} if devices else {} for n in range(count)]
    runners = [
        prefect_worker(settings, f"runner-{number}", settings.gpu_work_pool, "--limit", "1", **environment)
        for number, environment in enumerate(visible, start=1)
    ]
    return [prefect_worker(settings, "nights", settings.work_pool), *runners]


def gpus() -> list[str]:
    """The GPUs of this machine, as CUDA_VISIBLE_DEVICES names them; those it names already, if it does."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [device for device in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if device.strip() not in ("", "-1")]
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    listed = subprocess.run([program, "--list-gpus"], check=False, capture_output=True, text=True).stdout
    return [str(number) for number, _ in enumerate(re.findall(r"^GPU \d+:", listed, re.MULTILINE))]


@contextmanager
def embedded_s3(settings: Settings, port: int | None = None) -> Iterator[str | None]:
    """Address of the S3 server of the settings, ready to use; None is AWS.

    With "embedded", all processes that work on one home share one server: the first starts it (on `port`, or any free
    one), and it stops when the last has left or died. The bucket is there. With any other setting, nothing happens.
    """
    if settings.s3_endpoint_url != EMBEDDED:
        yield settings.s3_endpoint_url
        return
    users = settings.home / "s3.users"
    started: subprocess.Popen[bytes] | None = None
    try:
        with locked(users, shared=True):
            with locked(settings.home / "s3.start"):
                address = _running_s3(settings)
                if address is None:
                    address, started = _start_s3(settings, port, users)
            open_bucket(settings=settings).create()
            yield address
    finally:
        if started:
            _wait_if_last(started, users)


def _running_s3(settings: Settings) -> str | None:
    """Address of the server of this home, if one answers; another home's may have taken over a port."""
    try:
        address = settings.s3_address_file.read_text(encoding="utf-8").strip()
        health = json.loads(fetch(f"{address}{S3_HEALTH}") or b"{}")
    except (OSError, ValueError):
        return None
    return address if health.get("edition") == str(settings.s3_folder) else None


def _start_s3(settings: Settings, port: int | None, users: Path) -> tuple[str, subprocess.Popen[bytes]]:
    if port is not None:
        require_free(port, "S3", "ESD_S3_PORT")
    server, log = s3_server(settings, port or free_port()), settings.logs_folder / "s3.log"
    process = start(server, users, log)
    wait_until_healthy(server, process, log, settings.start_timeout)
    digest.write_text(settings.s3_address_file, f"{server.address}\n")
    return server.address, process


def _wait_if_last(process: subprocess.Popen[bytes], users: Path) -> None:
    """Leave no server behind: wait for the end of one that nobody else uses."""
    time.sleep(0.05)  # the leash wakes up and takes the lock, if it is free
    try:
        with locked(users, shared=True, wait=False):
            return
    except BlockingIOError:
        process.wait()


def _deploy(settings: Settings) -> None:
    """Work pools, automations and deployments, by a process that is told of our server."""
    log = settings.logs_folder / "deploy.log"
    with log.open("wb") as output:
        code = subprocess.run(
            [sys.executable, "-m", "infra.deploy"],
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=child_environment(prefect_environment(settings)),
            cwd=PROJECT,
        ).returncode
    if code:
        raise ServiceUnavailable(f"registering the deployments failed: {last_line(log)} (log: {log})")


def _launch(settings: Settings, lock: Path, running: ExitStack, *servers: Server) -> list[subprocess.Popen[bytes]]:
    """Start servers side by side and wait for each; `running` stops them in reverse order."""
    started = []
    for server in servers:
        log = settings.logs_folder / f"{server.name.lower().replace(' ', '-')}.log"
        process = start(server, lock, log)
        running.callback(stop, process)
        started.append((server, process, log))
    for server, process, log in started:
        if server.health:
            wait_until_healthy(server, process, log, settings.start_timeout)
    return [process for _, process, _ in started]


def serve(settings: Settings) -> None:
    """Run the whole stack until interrupted, or until a server ends by itself."""
    lock = settings.home / "stack.lock"
    with ExitStack() as running:
        try:
            running.enter_context(locked(lock, wait=False))
        except BlockingIOError as e:
            raise InvalidInput(f"`make up` already runs on {settings.home}: stop it, or set ESD_HOME") from e
        require_free(settings.mlflow_port, "MLflow", "ESD_MLFLOW_PORT")
        require_free(settings.prefect_port, "Prefect", "ESD_PREFECT_PORT")
        print("starting S3, MLflow and Prefect ...", flush=True)
        s3 = running.enter_context(embedded_s3(settings, settings.s3_port))
        mlflow, prefect = mlflow_server(settings), prefect_server(settings)
        processes = _launch(settings, lock, running, mlflow, prefect)
        print("registering the deployments ...", flush=True)
        _deploy(settings)
        processes += _launch(settings, lock, running, *prefect_workers(settings))
        print(f"Prefect  {prefect.address}\nMLflow   {mlflow.address}\nS3       {s3 or 'AWS'}")
        print(f"logs     {settings.logs_folder}\nCtrl-C stops everything.", flush=True)
        while all(process.poll() is None for process in processes):
            time.sleep(1.0)
        raise ServiceUnavailable(f"a server ended by itself: see {settings.logs_folder}")


STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """Leave whatever is being waited for, once; a second signal must not cut the orderly stop short."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def main() -> int:
    for number in STOP_SIGNALS:
        signal.signal(number, _interrupt)
    try:
        serve(get_settings())
    except KeyboardInterrupt:
        print("stopped", flush=True)
    except EsdError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
