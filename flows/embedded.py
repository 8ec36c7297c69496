"""The parts that a command brings along when the settings name none: S3, and a Prefect server for the night."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from infra.deploy import require_prefect
from infra.local_stack import embedded_s3
from infra.processes import child_environment, fetch, free_port, locked, start, stop, wait_until_healthy
from infra.servers import prefect_environment, prefect_server
from tasks.settings import Settings, get_settings

CONSOLE = {
    "PREFECT_LOGGING_EXTRA_LOGGERS": "esd_core,tasks,flows",  # what our modules say is shown beside the run
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # the terminal belongs to the command's own lines
}


def embedded_storage() -> AbstractContextManager[str | None]:
    """S3 as the settings say, started here when they say "embedded"."""
    return embedded_s3(get_settings())


def storage_for(reference: str) -> AbstractContextManager[str | None]:
    """S3 when `reference` lies there, nothing for a folder on disk."""
    return embedded_storage() if reference.startswith("s3://") else nullcontext()


@contextmanager
def embedded_prefect() -> Iterator[None]:
    """A Prefect API for the flow runs of this process; enter it before anything imports prefect.

    With PREFECT_API_URL set it is that one. While `make up` runs on the same home it is that one's server, so that
    one database has one server. Otherwise a server of our own, which ends with us, even if we are killed.
    """
    settings = get_settings()
    os.environ.update(child_environment(CONSOLE))
    if settings.prefect_api_url:
        require_prefect(settings.prefect_api_url)
        yield
        return
    if _stack_is_up(settings):
        _use(settings)
        yield
        return
    with _own_server(settings):
        yield


def _stack_is_up(settings: Settings) -> bool:
    try:
        with locked(settings.home / "stack.lock", wait=False):
            return False
    except BlockingIOError:
        return fetch(f"{prefect_server(settings).address}/api/health") is not None


def _use(settings: Settings) -> None:
    ours = prefect_environment(settings)
    os.environ.update({name: value for name, value in ours.items() if name.startswith("PREFECT_")})


@contextmanager
def _own_server(settings: Settings) -> Iterator[None]:
    elsewhere = settings.model_copy(update={"prefect_port": free_port()})
    server, lock, log = prefect_server(elsewhere), settings.home / "run.lock", settings.logs_folder
    with locked(lock, shared=True):
        process = start(server, lock, log / "prefect-embedded.log")
        try:
            wait_until_healthy(server, process, log / "prefect-embedded.log", settings.start_timeout)
            _use(elsewhere)
            yield
        finally:
            _deliver()
            stop(process)


def _deliver() -> None:
    """Wait until Prefect's background threads have told the server everything; task states travel as events."""
    if "prefect.flows" not in sys.modules:
        return
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogHandler

    EventsWorker.drain_all(timeout=5)
    APILogHandler().flush()
