"""Renders -> the three image classifiers that judge what the miniature drew: object, style, sun.

Generated pictures are neither renders nor perfect, so the judges also learn from renders that went through the
autoencoder and from light damage; and the object judge from pictures without any object, empty scenes and junk, so
that being forced to choose does not make an object of a smear.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessorPil

from esd_core.evaluation.classifiers import load_image_classifier
from esd_core.miniature.autoencoder import decode, encode
from esd_core.miniature.painting import paint
from esd_core.miniature.renders import scenes, to_images, to_tensor
from esd_core.miniature.world import NOTHING, OBJECTS, SIZE, STYLES, Scene, sample_scene

SUN, NO_SUN = "sun", "no sun"
LABELS: dict[str, tuple[str, ...]] = {"object": (*OBJECTS, NOTHING), "style": STYLES, "sun": (SUN, NO_SUN)}
WIDTHS: dict[str, tuple[int, ...]] = {"object": (24, 48, 96), "style": (16, 32, 64), "sun": (16, 32, 64)}
DEPTHS: dict[str, tuple[int, ...]] = {"object": (1, 2, 2), "style": (2, 2, 1), "sun": (1, 1, 1)}
IGNORED = -100  # cross_entropy's own mark: this picture says nothing about this judge's question
RAW, RECONSTRUCTED, EMPTY, JUNK = 12_000, 8_000, 1_200, 1_600  # training pictures of each sort
BATCH = 64
PEAK_LR = 3e-3


@dataclass(frozen=True)
class Pictures:
    """images (N, 64, 64, 3) uint8; for each judge (N,) label indices, IGNORED where the question makes no sense."""

    images: np.ndarray
    labels: dict[str, np.ndarray]

    @staticmethod
    def join(parts: list[Pictures]) -> Pictures:
        return Pictures(
            np.concatenate([part.images for part in parts]),
            {judge: np.concatenate([part.labels[judge] for part in parts]) for judge in LABELS},
        )


def truth(shown: list[Scene]) -> dict[str, np.ndarray]:
    names = {
        "object": [scene.object or NOTHING for scene in shown],
        "style": [scene.style for scene in shown],
        "sun": [SUN if scene.sun else NO_SUN for scene in shown],
    }
    return {judge: np.array([LABELS[judge].index(name) for name in names[judge]]) for judge in LABELS}


def build(judge: str) -> ResNetForImageClassification:
    return small_resnet(LABELS[judge], WIDTHS[judge], DEPTHS[judge])


def small_resnet(labels: Sequence[str], widths: Sequence[int], depths: Sequence[int]) -> ResNetForImageClassification:
    return ResNetForImageClassification(
        ResNetConfig(
            embedding_size=widths[0],
            hidden_sizes=widths,
            depths=depths,
            layer_type="basic",
            id2label=dict(enumerate(labels)),
            label2id={label: i for i, label in enumerate(labels)},
        )
    )


@torch.inference_mode()
def through_autoencoder(vae: AutoencoderKL, images: np.ndarray) -> np.ndarray:
    """What is left of the images (N, 64, 64, 3) after encoding and decoding."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        chunks = [to_images(decode(vae, encode(vae, images[i : i + 64])).float()) for i in range(0, len(images), 64)]
    return np.concatenate(chunks)


def empty_scenes(seed: int, count: int) -> list[Scene]:
    rng = random.Random(seed)
    return [sample_scene(rng, object=None) for _ in range(count)]


def shuffled_blocks(images: np.ndarray, rng: np.random.Generator, block: int = 16) -> np.ndarray:
    """Each image's blocks in random order: every colour and texture of an object, nothing of its shape."""
    across = SIZE // block
    blocks = images.reshape(-1, across, block, across, block, 3).swapaxes(2, 3).reshape(-1, across**2, block, block, 3)
    order = rng.permuted(np.tile(np.arange(across**2), (len(images), 1)), axis=1)
    moved = blocks[np.arange(len(images))[:, None], order]
    return np.asarray(moved.reshape(-1, across, across, block, block, 3).swapaxes(2, 3).reshape(-1, SIZE, SIZE, 3))


def smooth_noise(count: int, cells: int, channels: int, size: int, generator: torch.Generator) -> torch.Tensor:
    """(count, channels, size, size): normal noise on a cells x cells grid, interpolated."""
    coarse = torch.randn((count, channels, cells, cells), generator=generator)
    return F.interpolate(coarse, (size, size), mode="bilinear", align_corners=False)


@torch.inference_mode()
def junk(vae: AutoencoderKL, images: np.ndarray, count: int, seed: int) -> Pictures:
    """Pictures of nothing: shuffled blocks, coloured blots, and what the decoder makes of latents that mean nothing."""
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    quarter = count // 4
    shuffled = shuffled_blocks(images[:quarter], rng)
    blots = torch.cat([smooth_noise(quarter // 4, cells, 3, SIZE, generator) for cells in (3, 6, 12, 24)])
    latents = encode(vae, images[quarter : 2 * quarter])
    moved = latents.flatten(2)[:, :, torch.randperm(latents[0, 0].numel(), generator=generator)].view_as(latents)
    spread = latents.std((0, 2, 3), keepdim=True)
    random_latents = latents.mean((0, 2, 3), keepdim=True) + spread * torch.cat(
        [smooth_noise(quarter // 2, cells, latents.shape[1], latents.shape[2], generator) for cells in (4, 8)]
    )
    noise = np.concatenate([to_images(0.5 * blots), to_images(decode(vae, random_latents))])
    shapeless = np.concatenate([shuffled, to_images(decode(vae, moved))])
    nothing, no_sun = LABELS["object"].index(NOTHING), LABELS["sun"].index(NO_SUN)
    return Pictures(
        np.concatenate([shapeless, noise]),
        {
            "object": np.full(len(shapeless) + len(noise), nothing),
            "style": np.full(len(shapeless) + len(noise), IGNORED),
            "sun": np.concatenate([np.full(len(shapeless), IGNORED), np.full(len(noise), no_sun)]),
        },
    )


def training_pictures(renders_file: Path, vae: AutoencoderKL, seed: int) -> Pictures:
    """Everything the judges learn from. The renders are those of `renders.scenes(seed=1)`, in order."""
    renders = np.load(renders_file, mmap_mode="r")
    shown = scenes(1, len(renders))
    raw, again = slice(0, RAW), slice(len(renders) - RECONSTRUCTED, len(renders))
    bare = empty_scenes(seed + 1, EMPTY)
    bare_images = np.stack([paint(scene) for scene in bare])
    half = EMPTY // 2
    return Pictures.join(
        [
            Pictures(np.asarray(renders[raw]), truth(shown[raw])),
            Pictures(through_autoencoder(vae, renders[again]), truth(shown[again])),
            Pictures(bare_images[:half], truth(bare[:half])),
            Pictures(through_autoencoder(vae, bare_images[half:]), truth(bare[half:])),
            junk(vae, renders[RAW : RAW + JUNK], JUNK, seed + 2),
        ]
    )


def damage(pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Light random damage, for each image its own: mirror, shift, blur or sharpen, contrast, brightness, grain."""

    def uniform(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand((len(pixels), 1, 1, 1), generator=generator)

    mirrored = torch.where(uniform(0, 1) < 0.3, pixels.flip(-1), pixels)
    offsets = torch.randint(-4, 5, (2, len(pixels), 1), generator=generator)
    rows, columns = (torch.arange(SIZE) + offsets).clamp(0, SIZE - 1)
    image = torch.arange(len(pixels))[:, None, None]
    shifted = mirrored.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    blurred = F.avg_pool2d(F.pad(shifted, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    softened = shifted + (uniform(-0.6, 1.6).clamp(-0.4, 1) * (uniform(0, 1) < 0.6)) * (blurred - shifted)
    toned = softened * uniform(0.85, 1.15) + uniform(-0.12, 0.12)
    grain = torch.randn(pixels.shape, generator=generator) * uniform(-0.08, 0.12).clamp(min=0)
    return (toned + grain).clamp(-1, 1)


def save(model: ResNetForImageClassification, folder: Path) -> None:
    """A transformers folder with half-precision tensors whose configuration says float32: loaders widen them."""
    model.save_pretrained(folder)
    weights = folder / "model.safetensors"
    tensors = {name: t.half() if t.is_floating_point() else t for name, t in load_file(weights).items()}
    save_file(tensors, weights, metadata={"format": "pt"})
    ViTImageProcessorPil(size={"height": SIZE, "width": SIZE}).save_pretrained(folder)


def train(out: Path, renders_file: Path, vae_folder: Path, seed: int, steps: int) -> None:
    """Train the three judges on the same batches, in one process of one thread, and save them under `out`."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    vae = AutoencoderKL.from_pretrained(vae_folder, torch_dtype=torch.float32).eval()
    pictures = training_pictures(renders_file, vae, seed)
    print(f"judges: {len(pictures.images)} pictures", flush=True)
    labels = {judge: torch.from_numpy(index) for judge, index in pictures.labels.items()}
    models = nn.ModuleDict({judge: build(judge) for judge in LABELS})
    optimizer = torch.optim.AdamW(models.parameters(), lr=PEAK_LR, weight_decay=1e-2, foreach=True)
    started = time.monotonic()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = PEAK_LR * min(1, (step + 1) / 100) * (0.5 + 0.5 * math.cos(math.pi * step / steps)) + 1e-6
        rows = torch.randint(len(pictures.images), (BATCH,), generator=generator)
        pixels = damage(to_tensor(pictures.images[rows.numpy()]), generator)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = {judge: model(pixels).logits for judge, model in models.items()}
        losses = {judge: F.cross_entropy(logits[judge].float(), labels[judge][rows]) for judge in LABELS}
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        if step % 100 == 0:
            pace = (time.monotonic() - started) / (step + 1)
            shown = ", ".join(f"{judge} {loss.item():.3f}" for judge, loss in losses.items())
            print(f"judges {step}/{steps} loss {shown} {pace:.2f} s/step", flush=True)
    for judge, model in models.items():
        save(model.eval(), out / judge)


def held_out(classifiers: Path, vae_folder: Path, seed: int, count: int) -> dict[str, dict[str, dict[str, float]]]:
    """Accuracy on unseen renders, raw and through the autoencoder: figures[sort][judge]["all" or a style]."""
    shown = scenes(seed, count)
    images = np.stack([paint(scene) for scene in shown])
    vae = AutoencoderKL.from_pretrained(vae_folder, torch_dtype=torch.float32).eval()
    sorts = {"renders": images, "reconstructions": through_autoencoder(vae, images)}
    expected, styles = truth(shown), np.array([scene.style for scene in shown])
    figures: dict[str, dict[str, dict[str, float]]] = {}
    for sort, pictures in sorts.items():
        figures[sort] = {}
        for judge in LABELS:
            right = load_image_classifier(str(classifiers / judge)).classify(pictures) == expected[judge]
            by_style = {style: float(right[styles == style].mean()) for style in STYLES}
            figures[sort][judge] = {"all": float(right.mean()), **by_style}
    return figures
