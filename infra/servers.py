"""The servers and workers of one machine, each as a process that can be started (processes.py).

They listen on 127.0.0.1 only and write under ESD_HOME.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from infra.processes import Server
from tasks.settings import Settings

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
