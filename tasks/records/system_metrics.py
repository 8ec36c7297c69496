"""What MLflow's own monitors see of the machine while a job is worked at, for the job's run.

Samples wait in the job's folder until it is registered: work goes on while MLflow is away, and what a killed attempt
saw is kept. Units are in the names, which are MLflow's: percentage, megabytes, watts.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.entities import Metric
    from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor

log = logging.getLogger(__name__)

SAMPLES = "system.jsonl"
PAUSE = 10.0  # seconds between two samples, as MLflow has it


@contextmanager
def watched(folder: Path, pause: float = PAUSE) -> Iterator[None]:
    """Sample the machine into `folder` while the block runs, every `pause` seconds and once at its end."""
    monitors, done = _monitors(), threading.Event()
    _read(monitors)  # how busy processors are is told since the last reading: the first one means nothing
    folder.mkdir(parents=True, exist_ok=True)
    watcher = threading.Thread(target=_watch, args=(monitors, folder / SAMPLES, done, pause), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def metrics_of(folder: Path) -> list[Metric]:
    """All samples in `folder` as metrics of a run, one step each; none where nothing was watched."""
    from mlflow.entities import Metric

    path = folder / SAMPLES
    samples = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        with suppress(ValueError):  # of a line that a kill cut off
            samples.append(json.loads(line))
    return [
        Metric(f"system/{name}", value, sample["at"], step)
        for step, sample in enumerate(samples)
        for name, value in sample["seen"].items()
    ]


def _watch(monitors: Sequence[BaseMetricsMonitor], path: Path, done: threading.Event, pause: float) -> None:
    over = False
    while not over:
        over = done.wait(pause)
        try:
            with path.open("a", encoding="utf-8") as f:
                f.write(json.dumps({"at": time.time_ns() // 1_000_000, "seen": _read(monitors)}) + "\n")
        except OSError as e:
            log.warning("the machine is no longer watched: %s", e)
            return


def _read(monitors: Sequence[BaseMetricsMonitor]) -> dict[str, float]:
    seen: dict[str, float] = {}
    for monitor in monitors:
        monitor.collect_metrics()
        seen |= monitor.aggregate_metrics()
        monitor.clear_metrics()
    return seen


def _monitors() -> list[BaseMetricsMonitor]:
    """Processor, memory, disk, network, and the GPUs of NVIDIA or AMD where there are any."""
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor
    from mlflow.system_metrics.metrics.rocm_monitor import ROCMMonitor

    monitors: list[BaseMetricsMonitor] = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    for gpus in (GPUMonitor, ROCMMonitor):
        with suppress(ImportError, RuntimeError):  # what they raise without a driver or a GPU
            monitors.append(gpus())
    return monitors
