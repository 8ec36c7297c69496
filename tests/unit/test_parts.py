"""Parts of a file, worked on side by side."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tasks.s3.parts import WORKERS, Part, parts_of, side_by_side

ENDS_EARLY = """
import threading, time
from tasks.s3.parts import parts_of, side_by_side

def send(part):
    print(part.number, flush=True)
    time.sleep(0.1)

threading.Thread(target=lambda: list(side_by_side(send, parts_of(1000, 1))), daemon=True).start()
time.sleep(0.25)
"""


def test_results_come_in_order_however_many_parts_there_are() -> None:
    for size in (1, WORKERS, 100):
        assert list(side_by_side(lambda part: part.number, parts_of(size, 1))) == list(range(1, size + 1))


def test_when_one_fails_those_not_begun_are_left() -> None:
    begun = []

    def send(part: Part) -> None:
        begun.append(part.number)
        if part.number == 3:
            raise OSError("broken pipe")

    with pytest.raises(OSError, match="broken pipe"):
        list(side_by_side(send, parts_of(1000, 1)))
    assert len(begun) < 100


def test_a_process_that_ends_does_not_send_the_whole_file_first() -> None:
    command = [sys.executable, "-c", ENDS_EARLY]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert WORKERS <= len(done.stdout.split()) < 500
