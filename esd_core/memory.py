"""How much memory work takes at most: of the GPU it runs on, else of this process."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import torch

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
