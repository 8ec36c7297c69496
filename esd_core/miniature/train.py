"""Rebuild the bundled base model from scratch: `python -m esd_core.miniature.train --out FOLDER`.

Each stage is skipped when its result is already in the work folder, so that a stopped run goes on where it was.
Takes about two hours on two cores. The result is `FOLDER/model` (a diffusers pipeline) and `FOLDER/classifiers`.
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from esd_core import digest
from esd_core.miniature import autoencoder, judges, renders, text, unet, workers
from esd_core.miniature.text import Reading

RENDERS, RENDER_SEED = 24_000, 1
AUTOENCODER_STEPS, AUTOENCODER_SEED = 6000, 11
JUDGE_STEPS, JUDGE_SEED = 1600, 0
CAPTION_SEED = 1


@dataclass(frozen=True)
class Lesson:
    """A text encoder, and the U-Net trained on its embeddings, starting from the lesson before."""

    name: str
    reading: Reading
    length: int  # tokens
    text_steps: int
    text_seed: int
    unet_steps: int
    unet_seed: int


LESSONS = (
    Lesson("first", Reading.END, 24, 600, 21, 8000, 31),
    Lesson("final", Reading.WORD, text.LENGTH, 500, 22, 4000, 32),
)


def assemble(work: Path, out: Path) -> None:
    """Put the trained parts into one StableDiffusionPipeline folder, weights in float16."""
    final = work / LESSONS[-1].name
    StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(work / "vae", dtype=torch.float16),
        text_encoder=CLIPTextModel.from_pretrained(final / "text_encoder", dtype=torch.float16),
        tokenizer=CLIPTokenizer.from_pretrained(final / "tokenizer"),
        unet=UNet2DConditionModel.from_pretrained(final / "unet", dtype=torch.float16),
        scheduler=unet.scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(out)
    for config in out.glob("*/config.json"):
        known = json.loads(config.read_text(encoding="utf-8"))
        known.pop("_name_or_path", None)  # the training machine's folders are nobody's business
        if "dtype" in known:
            known["dtype"] = "float32"  # so that a plain from_pretrained computes in one precision throughout
        digest.write_text(config, json.dumps(known, indent=2) + "\n")


def latents_of(work: Path, images: np.ndarray) -> torch.Tensor:
    """Scaled latents of every render, (RENDERS, 8, 8, 8)."""
    vae = AutoencoderKL.from_pretrained(work / "vae")
    return autoencoder.encode(vae, images) * float(vae.config.scaling_factor)


def teach(lesson: Lesson, before: Path | None, work: Path, latents: torch.Tensor, processes: int) -> None:
    """Train a lesson's text encoder, then its U-Net on it; `done` marks the end."""
    folder = work / lesson.name
    text.train(folder, lesson.text_steps, lesson.text_seed, lesson.reading, lesson.length)
    tensors = (latents, *unet.embed_captions(folder, CAPTION_SEED, RENDERS))
    for tensor in tensors:
        tensor.share_memory_()
    start_from = None if before is None else before / "unet"
    workers.run(
        unet.train, processes, *tensors, folder / "unet", lesson.unet_steps, lesson.unet_seed, unet.PEAK_LR, start_from
    )
    (folder / "done").touch()


def train(work: Path, processes: int) -> None:
    """Run every stage whose result is not in `work` yet."""
    work.mkdir(parents=True, exist_ok=True)
    print(f"painting {RENDERS} renders", flush=True)
    images = renders.render(work / "renders.npy", RENDER_SEED, RENDERS, processes)
    if not (work / "vae" / "config.json").exists():
        workers.run(autoencoder.train, processes, images, work / "vae", AUTOENCODER_STEPS, AUTOENCODER_SEED)
    if not (work / "classifiers" / "sun").exists():
        judges.train(work / "classifiers", work / "renders.npy", work / "vae", JUDGE_SEED, JUDGE_STEPS)
    before = None
    for lesson in LESSONS:
        if not (work / lesson.name / "done").exists():
            teach(lesson, before, work, latents_of(work, images), processes)
        before = work / lesson.name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("var/miniature"), help="where the model is put")
    parser.add_argument("--processes", type=int, default=2, help="one for each core; the figures are those of two")
    arguments = parser.parse_args()
    train(arguments.out / "work", arguments.processes)
    assemble(arguments.out / "work", arguments.out / "model")
    shutil.copytree(arguments.out / "work" / "classifiers", arguments.out / "classifiers", dirs_exist_ok=True)
    print(
        f"done: {arguments.out}; figures: python -m esd_core.miniature.measure --base {arguments.out}/model --out DIR"
    )


if __name__ == "__main__":
    main()
