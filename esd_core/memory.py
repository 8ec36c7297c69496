"""How much memory work takes at most: of the GPU it runs on, else of this process. And what follows without enough."""

from __future__ import annotations

import resource
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from esd_core.errors import OutOfMemory
from esd_core.machine import give_back_freed_memory

CLEAR_REFS, RESET_PEAK = Path("/proc/self/clear_refs"), "5"  # proc(5), Linux


def start_peak_memory(device: torch.device) -> None:
    """From now on a new peak is looked for; where the system cannot forget, it stays that of the whole process."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif CLEAR_REFS.exists():
        try:
            CLEAR_REFS.write_text(RESET_PEAK)
        except OSError:
            return


def peak_memory(device: torch.device) -> int:
    """Bytes: what torch has had allocated on a GPU at most, else what this process has had in memory."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


@contextmanager
def memory_errors() -> Iterator[None]:
    """Running out of memory becomes OutOfMemory, which says what to turn; what the work held is released first."""
    try:
        yield
    except (RuntimeError, MemoryError) as e:  # torch raises RuntimeError on a CPU, a subclass of it on a GPU
        exhausted = isinstance(e, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(e)
        if not exhausted:
            raise
        traceback.clear_frames(e.__traceback__)  # their variables hold models and images for as long as the error lives
        give_back_freed_memory()
        raise OutOfMemory(
            "out of memory: turn on gradient checkpointing (--gradient-checkpointing, or "
            "ESD_GRADIENT_CHECKPOINTING=true), lower batch_size, or train a smaller subset (esd-x-strict); what was "
            "done is kept, the same command continues"
        ) from e
