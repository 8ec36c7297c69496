"""Training on a few CPU cores: one process of one thread per core, gradients averaged once a step.

Two OpenMP threads on a busy machine collapse; two processes with one all-reduce a step do not.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def _worker(rank: int, world_size: int, port: int, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world_size)
    function(rank, world_size, *arguments)
    dist.destroy_process_group()


def run(function: Callable[..., None], world_size: int, *arguments: Any) -> None:
    """Call `function(rank, world_size, *arguments)` in `world_size` processes and wait; a failure of one fails all."""
    spawn(_worker, args=(world_size, free_port(), function, arguments), nprocs=world_size, join=True)


def average_gradients(parameters: Iterable[torch.nn.Parameter], world_size: int) -> None:
    """Replace each gradient by its mean over the processes, in one all-reduce."""
    if world_size == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.reshape(-1) for g in gradients])
    dist.all_reduce(flat)
    flat /= world_size
    start = 0
    for g in gradients:
        g.copy_(flat[start : start + g.numel()].view_as(g))
        start += g.numel()
