"""The services on one machine: embedded S3 for any command, and everything with its web pages for `make up`.

    python -m infra.local_stack

Servers (servers.py) live no longer than those who use them (leash.py).
"""

from __future__ import annotations

import json
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
from infra.servers import (
    PROJECT,
    S3_HEALTH,
    mlflow_server,
    prefect_environment,
    prefect_server,
    prefect_workers,
    s3_server,
)
from tasks.s3.storage import open_bucket
from tasks.settings import EMBEDDED, Settings, get_settings


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
