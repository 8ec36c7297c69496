"""Servers on this machine: started on a leash, waited for until healthy, stopped as a group; and the locks for it."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from esd_core.errors import InvalidInput, ServiceUnavailable
from infra import leash

LOOPBACK = "127.0.0.1"  # nothing here is meant for the network
POLL = 0.2  # seconds between two looks at a starting server


@dataclass(frozen=True)
class Server:
    """A server to start. `health`: path that answers 200 once it is ready; None for one that has no address."""

    name: str
    command: tuple[str, ...]
    port: int | None = None
    health: str | None = None
    environment: dict[str, str] = field(default_factory=dict)
    folder: Path | None = None

    @property
    def address(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"


@contextmanager
def locked(path: Path, *, shared: bool = False, wait: bool = True) -> Iterator[None]:
    """Hold a lock on a file until the block ends or this process does; raises BlockingIOError when not to wait."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as f:
        fcntl.flock(f, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        yield


def free_port() -> int:
    with socket.socket() as s:
        s.bind((LOOPBACK, 0))
        port: int = s.getsockname()[1]
        return port


def require_free(port: int, name: str, variable: str) -> None:
    """Raise InvalidInput unless `port` of the loopback address can be bound."""
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind((LOOPBACK, port))
        except OSError as e:
            raise InvalidInput(f"port {port} for {name} is taken: stop what uses it, or set {variable}") from e


def child_environment(extra: dict[str, str]) -> dict[str, str]:
    """This process's environment for a child; calls to this machine go past any proxy, and nothing calls home."""
    past_proxy = ",".join(filter(None, (os.environ.get("NO_PROXY") or os.environ.get("no_proxy"), LOOPBACK)))
    quiet = {"DO_NOT_TRACK": "true", "MLFLOW_DISABLE_TELEMETRY": "true", "PYTHONUNBUFFERED": "1"}
    return {**os.environ, "NO_PROXY": past_proxy, "no_proxy": past_proxy, **quiet, **extra}


def start(server: Server, lock: Path, log: Path) -> subprocess.Popen[bytes]:
    """Start a server that lives as long as `lock` is held by anyone; its output goes to `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, str(Path(leash.__file__)), str(lock), *server.command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=child_environment(server.environment),
            cwd=server.folder,
            start_new_session=True,  # Ctrl-C reaches us, and we stop the servers in order
        )


def wait_until_healthy(server: Server, process: subprocess.Popen[bytes], log: Path, timeout: float) -> None:
    """Return once the server answers; raises ServiceUnavailable when it ends or stays silent for `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while fetch(f"{server.address}{server.health}") is None:
        if process.poll() is not None:
            raise ServiceUnavailable(f"{server.name} ended while starting: {last_line(log)} (log: {log})")
        if time.monotonic() > deadline:
            stop(process)
            raise ServiceUnavailable(f"{server.name} did not answer within {timeout:.0f} s (log: {log})")
        time.sleep(POLL)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Stop a leashed server and wait until its whole group is gone."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(leash.GRACE + 4)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def fetch(url: str) -> bytes | None:
    """Body of a GET that answers 200, else None. Never through a proxy."""
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=2) as answer:
            body: bytes = answer.read()
            return body
    except (urllib.error.URLError, OSError, ValueError):
        return None


def last_line(log: Path) -> str:
    """Last line of a server's output that says something."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it printed nothing"
