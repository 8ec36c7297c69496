"""The connection to MLflow: a client without global state, and its errors as one line with a remedy."""

from __future__ import annotations

import logging
import os
import random
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from esd_core.errors import RegistryError, ServiceUnavailable
from tasks.settings import get_settings

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
_UNREACHABLE = ("TEMPORARILY_UNAVAILABLE", "INTERNAL_ERROR", "REQUEST_LIMIT_EXCEEDED")
AT_ONCE = 4  # requests
_ATTEMPTS = 6  # at a write that collides with others of its kind


def client() -> MlflowClient:
    """The client of the settings' MLflow; raises ServiceUnavailable at once when nothing answers there."""
    settings = get_settings()
    return _connect(settings.mlflow_tracking_uri, settings.service_timeout)


@lru_cache(maxsize=4)
def _connect(uri: str, timeout: float) -> MlflowClient:
    _knock(uri, timeout)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # MLflow reads it when imported; runners call nobody
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # which costs a request
    from mlflow import MlflowClient

    for name in ("alembic", "mlflow.store.db.utils", "mlflow.tracking"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def writer() -> MlflowClient:
    """The client that marks registered models.

    MLflow's own asks before each mark whether the model is one of its prompts; this one asks once for each model.
    """
    return _writer(client())


@lru_cache(maxsize=4)
def _writer(client: MlflowClient) -> MlflowClient:
    from mlflow import MlflowClient

    known: dict[str, RegisteredModel] = {}

    class Writer(MlflowClient):
        def get_registered_model(self, name: str) -> RegisteredModel:
            if name not in known:
                known[name] = client.get_registered_model(name)
            return known[name]

    uri = client.tracking_uri
    return Writer(tracking_uri=uri, registry_uri=uri)


def _knock(uri: str, timeout: float) -> None:
    """See that somebody listens. MLflow itself would try for minutes before it gives up."""
    parts = urlsplit(uri)
    scheme = parts.scheme.partition("+")[0]
    try:
        if scheme in ("http", "https"):
            urllib.request.urlopen(f"{_without_password(uri).rstrip('/')}/health", timeout=timeout).close()
        elif scheme in DATABASE_PORTS and parts.hostname:
            socket.create_connection((parts.hostname, parts.port or DATABASE_PORTS[scheme]), timeout).close()
    except urllib.error.HTTPError:
        return  # it answers; what it thinks of /health does not matter
    except OSError as e:
        raise _unavailable(getattr(e, "reason", e)) from e


def _unavailable(why: object) -> ServiceUnavailable:
    reason = " ".join(str(why).split())[:200]
    return ServiceUnavailable(
        f"MLflow at {address()} does not answer: {reason}; start it, or set ESD_MLFLOW_TRACKING_URI"
    )


def address() -> str:
    """Where MLflow is, without the name and password that may stand in its address: for messages and links."""
    return _without_password(get_settings().mlflow_tracking_uri)


def _without_password(uri: str) -> str:
    parts = urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


@contextmanager
def errors(remedy: str) -> Iterator[None]:
    """Turn what MLflow raises into ServiceUnavailable, or into RegistryError with `remedy`."""
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except MlflowException as e:
        if e.error_code in _UNREACHABLE:
            raise _unavailable(e) from e
        if e.error_code == "RESOURCE_DOES_NOT_EXIST":
            raise RegistryError(remedy) from e
        if e.error_code == "UNAUTHENTICATED":
            told = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            raise RegistryError(f"MLflow at {address()} does not know this name and password: {told}") from e
        raise RegistryError(f"{remedy}: {' '.join(str(e).split())[:300]}") from e
    except ModuleNotFoundError as e:
        raise RegistryError(f"MLflow needs the package {e.name!r} for ESD_MLFLOW_TRACKING_URI: install it") from e
    except (RequestException, SQLAlchemyError) as e:
        raise _unavailable(e) from e
    except OSError as e:
        raise RegistryError(f"{remedy}: {e}") from e


@lru_cache(maxsize=4)
def experiment_id(client: MlflowClient, name: str) -> str:
    """An experiment, made when it is not there; this process looks it up once.

    A server knows where artifacts belong; with a database alone they lie in this home.
    """
    from mlflow.exceptions import MlflowException

    settings = get_settings()
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            location = None if settings.mlflow_is_server else settings.artifacts_folder.as_uri()
            return str(client.create_experiment(name, artifact_location=location))
        except MlflowException as e:
            found = client.get_experiment_by_name(name)
            if e.error_code != "RESOURCE_ALREADY_EXISTS" or found is None:
                raise
    if found.lifecycle_stage != "active":
        raise RegistryError(f"MLflow experiment {name!r} was deleted: restore it, or set ESD_MLFLOW_EXPERIMENT")
    return str(found.experiment_id)


def ensure_model(client: MlflowClient, name: str, description: str) -> None:
    """Make a registered model unless it is there."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name, description=description)
    except MlflowException as e:
        if e.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def set_tags(model: str, version: int, tags: Mapping[str, str]) -> None:
    """Set tags on a version, whoever else sets them at the same moment; a server is asked for several at a time."""

    def set_tag(tag: tuple[str, str]) -> None:
        insist(lambda: writer().set_model_version_tag(model, str(version), *tag))

    with ThreadPoolExecutor(AT_ONCE if get_settings().mlflow_is_server else 1) as setters:
        list(setters.map(set_tag, tags.items()))


def set_alias(model: str, alias: str, version: int) -> None:
    """Let an alias of a model name a version, whoever else moves it at the same moment."""
    insist(lambda: writer().set_registered_model_alias(model, alias, str(version)))


def delete_alias(model: str, alias: str) -> None:
    """Take an alias away from a model, whoever else does the same at the same moment."""
    insist(lambda: writer().delete_registered_model_alias(model, alias))


def insist(write: Callable[[], object]) -> None:
    """Do a write that may be repeated, again if need be.

    MLflow looks whether a row is there before it inserts or deletes it; when two do so at once, the slower one fails
    with BAD_REQUEST. On the next attempt the row is, or is not, there to be seen.
    """
    from mlflow.exceptions import MlflowException

    for attempt in range(1, _ATTEMPTS + 1):
        try:
            write()
        except MlflowException as e:
            if e.error_code != "BAD_REQUEST" or attempt == _ATTEMPTS:
                raise
            time.sleep(random.uniform(0, 0.05 * attempt))
        else:
            return


def search_versions(condition: str) -> Iterator[ModelVersion]:
    """All model versions that meet an MLflow search condition, page by page."""
    token: str | None = None
    while True:
        page = client().search_model_versions(condition, max_results=1000, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def download(uri: str, folder: Path) -> Path:
    """Fetch one artifact to `folder`."""
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    told = get_settings().mlflow_tracking_uri
    try:
        return Path(download_artifacts(artifact_uri=uri, dst_path=str(folder), tracking_uri=told))
    except (MlflowException, OSError):
        raise
    except Exception as e:  # each kind of artifact store raises what its own library does
        raise RegistryError(f"{_without_password(uri)} cannot be read: {' '.join(str(e).split())[:200]}") from e
