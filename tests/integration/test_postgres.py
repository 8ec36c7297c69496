"""MLflow on PostgreSQL: the registry is the same. A private cluster, made for the test and removed after it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tasks.approvals import approval
from tasks.records import registry
from tasks.settings import Settings
from tests.integration.conftest import Made
from tests.postgres import NoPostgres, private_cluster


@pytest.fixture
def postgres_uri() -> Iterator[str]:
    try:
        with private_cluster() as address:
            yield f"{address}/postgres"
    except NoPostgres as e:
        pytest.skip(str(e))


@pytest.mark.postgres
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("settings")
def test_a_version_is_registered_approved_and_read(
    postgres_uri: str, fresh_settings: Callable[..., Settings], make: Callable[..., Made], tmp_path: Path
) -> None:
    fresh_settings(mlflow_tracking_uri=postgres_uri)
    made = make()
    version = made.register()
    assert made.register() == version
    assert registry.find_version(made.job.digest) == version
    approval.approve(version.model, version.version, "Ada", "fine")
    assert registry.list_versions() == [version]
    assert set(registry.download_artifacts(version, tmp_path / "files")) >= set(made.files)
