"""Processes of this machine, looked at from outside."""

from __future__ import annotations

import contextlib
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from uuid import UUID


def engine_of(run: UUID) -> int | None:
    """Process id of the engine that runs a flow run; None while there is none."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            variables = (process / "environ").read_bytes()
            command = (process / "cmdline").read_bytes()
            if re.search(rb"PREFECT__FLOW_RUN_ID=" + str(run).encode(), variables) and b"prefect" in command:
                return int(process.name)
    return None


def descendants(pid: int) -> list[int]:
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], check=True, capture_output=True, text=True).stdout
    parents = {int(child): int(parent) for child, parent in (line.split() for line in listed.splitlines())}
    found = [pid]
    for known in found:
        found += [child for child, parent in parents.items() if parent == known]
    return found[1:]


def loads_torch(pid: int) -> bool:
    """Whether a process has torch's library in its memory."""
    try:
        return "libtorch" in Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


def wait_for(
    condition: Callable[[], object], seconds: float, story: Callable[[], str] = lambda: "", every: float = 0.2
) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s\n{story()}"
        time.sleep(every)
