"""All that a night needs, as processes that can be killed: servers, workers, and the engines they start."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterParentFlowRunId
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelling

from infra.processes import Server, child_environment, free_port, locked, start, stop, wait_until_healthy
from infra.servers import prefect_environment, prefect_server, s3_server
from tasks.settings import Settings
from tests.survival.watching import descendants, wait_for

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

PROJECT = Path(__file__).parents[2]
BUCKET = "esd-releases"
FOREIGN = ("ESD_", "PREFECT_", "MLFLOW_", "AWS_")  # settings of whoever runs the tests


@dataclass
class Yard:
    """Servers by name, workers by name; `home` is the parent's, runners have homes of their own beside it."""

    folder: Path
    databases: str  # a PostgreSQL server with the databases prefect and mlflow
    servers: dict[str, tuple[Server, subprocess.Popen[bytes]]] = field(default_factory=dict)
    workers: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=lambda: {name: free_port() for name in ("s3", "mlflow", "prefect")})

    def address(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"

    def home(self, worker: str) -> Path:
        return self.folder / f"home of {worker}"

    @property
    def environment(self) -> dict[str, str]:
        """What all processes are told: nothing of it is a folder."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
        ours = {
            **prefect_environment(self._settings),
            "ESD_MLFLOW_TRACKING_URI": self.address("mlflow"),
            "ESD_S3_ENDPOINT_URL": self.address("s3"),
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "PYTHONPATH": str(PROJECT),
            "OMP_NUM_THREADS": "1",
        }
        del ours["ESD_HOME"]
        return child_environment({**inherited, **ours})

    @property
    def _settings(self) -> Settings:
        return Settings(home=self.folder / "servers", prefect_port=self.ports["prefect"])

    def server(self, name: str) -> Server:
        if name == "s3":
            return s3_server(self._settings, self.ports["s3"])
        if name == "prefect":
            return self._prefect()
        return self._mlflow()

    def _prefect(self) -> Server:
        address = f"{self.databases.replace('postgresql:', 'postgresql+asyncpg:')}/prefect"
        server = prefect_server(self._settings)
        return replace(server, environment={**server.environment, "PREFECT_SERVER_DATABASE_CONNECTION_URL": address})

    def _mlflow(self) -> Server:
        """Artifacts go through the server: no client writes to its disk."""
        kept = self.folder / "servers"
        command = (sys.executable, "-m", "mlflow", "server", "--port", str(self.ports["mlflow"]), "--workers", "1")
        stored = ("--serve-artifacts", "--artifacts-destination", str(kept / "artifacts"))
        behind = ("--backend-store-uri", f"{self.databases}/mlflow")
        environment = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        return Server("MLflow", (*command, *stored, *behind), self.ports["mlflow"], "/health", environment, kept)

    def start_servers(self, *names: str) -> None:
        """Start them side by side and wait for each; the lock that keeps them alive is this process's."""
        for name in names:
            server = self.server(name)
            process = start(server, self.folder / "lock", self.folder / f"{name}.log")
            self.servers[name] = server, process
        for name in names:
            server, process = self.servers[name]
            wait_until_healthy(server, process, self.folder / f"{name}.log", 120)

    def stop_server(self, name: str) -> None:
        stop(self.servers.pop(name)[1])

    def start_worker(self, name: str, pool: str, **environment: str) -> None:
        command = [sys.executable, "-m", "prefect", "worker", "start", "--type", "process", "--name", name]
        limit = ["--limit", "1"] if pool == "esd-gpu" else []
        environment = {**self.environment, "ESD_HOME": str(self.home(name)), **environment}
        worker = Server(f"worker {name}", (*command, "--pool", pool, *limit), environment=environment, folder=PROJECT)
        self.workers[name] = start(worker, self.folder / "lock", self.folder / f"{name}.log")

    def kill_worker(self, name: str) -> None:
        """SIGKILL for a worker and all that it started."""
        worker = self.workers.pop(name)
        for pid in reversed(descendants(worker.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        worker.wait()

    def close(self) -> None:
        for name in list(self.workers):
            self.kill_worker(name)
        for name in list(self.servers):
            self.stop_server(name)

    def deploy(self, **environment: str) -> None:
        command = [sys.executable, "-m", "infra.deploy"]
        subprocess.run(command, check=True, env={**self.environment, **environment}, cwd=PROJECT)

    # what a person does and sees

    def start_night(self, parameters: dict[str, Any]) -> UUID:
        return self.start("nightly-erasure/nightly-erasure", {"concept_list": "", **parameters})

    def start(self, deployment: str, parameters: dict[str, Any]) -> UUID:
        with self.client() as client:
            found = client.read_deployment_by_name(deployment)
            return client.create_flow_run_from_deployment(found.id, parameters=parameters).id

    def cancel(self, run: UUID) -> None:
        """As the button of the UI does."""
        with self.client() as client:
            client.set_flow_run_state(run, Cancelling())

    def let_nights_collide(self, strategy: str) -> None:
        """As the deployment's page of the UI does."""
        with self.client() as client:
            night = client.read_deployment_by_name("nightly-erasure/nightly-erasure")
            options = {"concurrency_options": {"collision_strategy": strategy}}
            client.request("PATCH", "/deployments/{id}", json=options, path_params={"id": night.id}).raise_for_status()

    def run(self, run: UUID) -> FlowRun:
        with self.client() as client:
            return client.read_flow_run(run)

    def children(self, run: UUID) -> list[FlowRun]:
        """Runs that a run started, the first first."""
        chosen = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[run]))
        with self.client() as client:
            return sorted(client.read_flow_runs(flow_run_filter=chosen), key=lambda child: str(child.created))

    def end_of(self, run: UUID, seconds: float = 600) -> FlowRun:
        wait_for(lambda: self.ended(run), seconds, lambda: self.story(run))
        return self.run(run)

    def ended(self, run: UUID) -> bool:
        state = self.run(run).state
        return state is not None and state.is_final()

    def story(self, run: UUID) -> str:
        """The run's states and last words, for whoever reads a failed test."""
        logs = "\n".join(path.read_text(errors="replace")[-3000:] for path in sorted(self.folder.glob("*.log")))
        return f"{self.run(run).state!r}\n{[child.state for child in self.children(run)]}\n{logs}"

    def artifacts(self, key: str) -> list[dict[str, Any]]:
        """Artifacts of a key, the latest first."""
        wanted = {"artifacts": {"key": {"any_": [key]}}, "sort": "CREATED_DESC"}
        with self.client() as client:
            found: list[dict[str, Any]] = client.request("POST", "/artifacts/filter", json=wanted).json()
            return found

    def said(self, words: str) -> bool:
        """Whether these words stand in the log of some run, as Prefect shows it."""
        wanted = {"logs": {"text": {"query": f'"{words}"'}}}
        with self.client() as client:
            return bool(client.request("POST", "/logs/filter", json=wanted).json())

    @contextlib.contextmanager
    def client(self) -> Iterator[SyncPrefectClient]:
        with (
            temporary_settings({PREFECT_API_URL: f"{self.address('prefect')}/api"}),
            get_client(sync_client=True) as client,
        ):
            yield client

    @property
    def versions(self) -> dict[str, list[int]]:
        """Version numbers by concept, as MLflow itself tells them."""
        from mlflow import MlflowClient

        found: dict[str, list[int]] = {}
        for version in MlflowClient(self.address("mlflow")).search_model_versions():
            found.setdefault(version.tags["esd.concept"], []).append(int(version.version))
        return found

    @cached_property
    def s3(self) -> S3Client:
        import boto3

        session = boto3.session.Session("test", "test", region_name="us-east-1")
        return session.client("s3", endpoint_url=self.address("s3"))

    def keys(self, prefix: str = "") -> list[str]:
        """What lies in the bucket."""
        return [item["Key"] for item in self.s3.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])]

    @property
    def released(self) -> set[str]:
        """Concepts with a finished release; one without a manifest would be half of one."""
        keys = self.keys()
        begun = {key.split("/")[1] for key in keys if key.startswith("releases/")}
        ended = {key.split("/")[1] for key in keys if key.endswith("/manifest.json")}
        assert begun == ended
        return {model.rpartition("-")[2] for model in ended}


@contextlib.contextmanager
def opened(folder: Path, databases: str) -> Iterator[Yard]:
    """A yard with its servers, deployments, and a worker for nights; runners are the tests' own."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "servers").mkdir()
    yard = Yard(folder, databases)
    with ExitStack() as running:
        running.enter_context(locked(folder / "lock"))
        running.callback(yard.close)
        yard.start_servers("s3", "mlflow", "prefect")
        yard.s3.create_bucket(Bucket=BUCKET)
        yard.s3.put_object(Bucket=BUCKET, Key="not-empty")  # ministack forgets an empty bucket when it stops
        yard.deploy()
        yard.start_worker("nights", "esd")
        yield yard
