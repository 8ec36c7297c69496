"""Runs a command that lives exactly as long as someone holds a lock file: `python leash.py LOCKFILE COMMAND...`

The kernel drops a lock however its holder ends, SIGKILL included, so no server outlives those who use it. The command
gets a process group of its own and is stopped as a group, so that what it started goes with it.
Standard library only: it is run as a file, beside every server.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

GRACE = 8.0  # seconds between SIGTERM and SIGKILL


def _signal_group(leader: int, number: signal.Signals) -> bool:
    """Signal a whole process group; False when nothing of it is left."""
    try:
        os.killpg(leader, number)
    except ProcessLookupError:
        return False
    return True


def run(lock_path: str, command: list[str]) -> int:
    ended = threading.Event()  # somebody asked to stop, or the lock has no holder any more
    signal.signal(signal.SIGTERM, lambda _number, _frame: ended.set())
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)

    def wait_for_lock() -> None:
        with Path(lock_path).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # granted when the last holder is gone; kept until this process ends
            ended.set()
            threading.Event().wait()

    def wait_for_child() -> None:
        child.wait()
        ended.set()

    for wait in (wait_for_lock, wait_for_child):
        threading.Thread(target=wait, daemon=True).start()
    ended.wait()
    _signal_group(child.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(GRACE)
    _signal_group(child.pid, signal.SIGKILL)  # also what the command left behind
    return abs(child.wait())


if __name__ == "__main__":
    sys.exit(run(sys.argv[1], sys.argv[2:]))
