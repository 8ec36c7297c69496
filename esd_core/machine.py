"""How the work is done on this machine: never part of a job's digest."""

from __future__ import annotations

import ctypes
import gc
from dataclasses import dataclass
from functools import lru_cache
from typing import Any


@dataclass(frozen=True)
class Machine:
    """device: auto, cpu, cuda, cuda:N. gradient_checkpointing: less memory for about a third more time. compile:
    torch.compile of the denoiser, worth its first minutes on long erasures. channels_last: layout of convolutions."""

    device: str = "auto"
    gradient_checkpointing: bool = False
    compile: bool = False
    channels_last: bool = False

    def prepare(self, denoiser: Any) -> None:
        """Set a loaded denoiser up. Compiling in place keeps the parameters' names."""
        import torch

        if self.channels_last:
            denoiser.to(memory_format=torch.channels_last)
        if self.gradient_checkpointing:
            denoiser.enable_gradient_checkpointing()
        if self.compile:
            torch.nn.Module.compile(denoiser)


@lru_cache(maxsize=1)
def pass_over_libraries() -> None:
    """Once in a process, before any model is there: later collections do not look through what libraries made."""
    gc.collect()
    gc.freeze()


def give_back_freed_memory() -> None:
    """Return what was freed to the system: allocators keep it, and what follows often does not fit into its gaps."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
    if trim is not None:
        trim(0)
