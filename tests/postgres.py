"""A private PostgreSQL cluster on this machine, removed after use."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.processes import free_port

USERS = ("postgres", "nobody")  # PostgreSQL refuses to run as root


class NoPostgres(Exception):
    """What is missing on this machine."""


def _program(name: str) -> str:
    newest = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)
    found = str(newest[0]) if newest else shutil.which(name)
    if found is None:
        raise NoPostgres(f"PostgreSQL's {name} is not on this machine (Debian: postgresql)")
    return found


def _user() -> str | None:
    """Whom to run PostgreSQL as; None: as ourselves."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    found = next((user for user in USERS if user in known), None)
    if found is None:
        raise NoPostgres(f"PostgreSQL does not run as root, and there is no user {' or '.join(USERS)}")
    return found


@contextmanager
def private_cluster(*databases: str) -> Iterator[str]:
    """Address of a server that has the database postgres and these; databases are named behind it."""
    initdb, pg_ctl, psql, user, port = _program("initdb"), _program("pg_ctl"), _program("psql"), _user(), free_port()
    folder = Path(tempfile.mkdtemp(prefix="esd-postgres-"))  # a path that the other user may enter
    if user:
        shutil.chown(folder, user)
    data = str(folder / "data")
    options = f"-c listen_addresses=127.0.0.1 -p {port} -k {folder} -c fsync=off -c max_connections=300"

    def run(*command: str) -> None:
        result = subprocess.run(command, check=False, capture_output=True, text=True, cwd=folder, user=user)
        assert result.returncode == 0, result.stderr

    try:
        run(initdb, "-D", data, "-U", "esd", "--auth=trust", "-E", "UTF8", "--no-locale", "--no-sync")
        run(pg_ctl, "-D", data, "-l", str(folder / "log"), "-o", options, "-w", "-t", "60", "start")
        address = f"postgresql://esd@127.0.0.1:{port}"
        for database in databases:
            run(psql, f"{address}/postgres", "-c", f"CREATE DATABASE {database}")
        yield address
    finally:
        if (folder / "data" / "postmaster.pid").exists():
            run(pg_ctl, "-D", data, "-m", "immediate", "-w", "stop")
        shutil.rmtree(folder)
