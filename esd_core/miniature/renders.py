"""Renders of the world, made once by several processes and kept as one memory-mapped array."""

from __future__ import annotations

import random
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch

from esd_core.miniature.painting import paint
from esd_core.miniature.world import Scene, sample_scene

CHUNK = 500


def scenes(seed: int, count: int) -> list[Scene]:
    """The world's scenes number 0 to count - 1 under this seed."""
    rng = random.Random(seed)
    return [sample_scene(rng) for _ in range(count)]


def _paint_all(chunk: list[Scene]) -> np.ndarray:
    return np.stack([paint(scene) for scene in chunk])


def render(path: Path, seed: int, count: int, processes: int = 2) -> np.ndarray:
    """(count, 64, 64, 3) uint8, painted when `path` is not there yet."""
    if not path.exists():
        todo = scenes(seed, count)
        chunks = [todo[i : i + CHUNK] for i in range(0, count, CHUNK)]
        with ProcessPoolExecutor(processes) as pool:
            images = np.concatenate(list(pool.map(_paint_all, chunks)))
        partial = path.with_suffix(".partial.npy")
        np.save(partial, images)
        partial.rename(path)
    return np.load(path, mmap_mode="r")


def to_tensor(images: np.ndarray) -> torch.Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float32 in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_images(pixels: torch.Tensor) -> np.ndarray:
    """(B, 3, H, W) in [-1, 1] -> (B, H, W, 3) uint8."""
    return ((pixels.clamp(-1, 1) + 1) * 127.5 + 0.5).byte().permute(0, 2, 3, 1).numpy()
