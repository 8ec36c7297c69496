"""MLflow on PostgreSQL: the registry is the same. A private cluster, made for the test and removed after it."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infra.processes import free_port
from tasks import approval, registry
from tasks.settings import Settings
from tests.integration.conftest import Made

USERS = ("postgres", "nobody")  # PostgreSQL refuses to run as root


def _program(name: str) -> str | None:
    newest = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)
    return str(newest[0]) if newest else shutil.which(name)


def _user() -> str | None:
    """Whom to run PostgreSQL as; None: as ourselves."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    found = next((user for user in USERS if user in known), None)
    if found is None:
        pytest.skip(f"PostgreSQL does not run as root, and there is no user {' or '.join(USERS)}")
    return found


@pytest.fixture
def postgres_uri() -> Iterator[str]:
    initdb, pg_ctl = _program("initdb"), _program("pg_ctl")
    if not initdb or not pg_ctl:
        pytest.skip("PostgreSQL's initdb and pg_ctl are not on this machine (Debian: postgresql)")
    user, port = _user(), free_port()
    folder = Path(tempfile.mkdtemp(prefix="esd-postgres-"))  # a path that the other user may enter
    if user:
        shutil.chown(folder, user)
    data = str(folder / "data")
    options = f"-c listen_addresses=127.0.0.1 -p {port} -k {folder} -c fsync=off"

    def run(*command: str) -> None:
        result = subprocess.run(command, check=False, capture_output=True, text=True, cwd=folder, user=user)
        assert result.returncode == 0, result.stderr

    try:
        run(initdb, "-D", data, "-U", "esd", "--auth=trust", "-E", "UTF8", "--no-locale", "--no-sync")
        run(pg_ctl, "-D", data, "-l", str(folder / "log"), "-o", options, "-w", "-t", "60", "start")
        yield f"postgresql://esd@127.0.0.1:{port}/postgres"
    finally:
        if (folder / "data" / "postmaster.pid").exists():
            run(pg_ctl, "-D", data, "-m", "immediate", "-w", "stop")
        shutil.rmtree(folder)


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
    assert set(registry.download_artifacts(version, tmp_path / "files")) == set(made.files)
