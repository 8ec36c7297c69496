"""Train a base model on the other world: `python -m benchmarks.other_world.train --out FOLDER [--minutes N]`.

`FOLDER/model` is a StableDiffusionPipeline, `FOLDER/suite.yaml` its suite, `FOLDER/classifiers` the judges in it. It
starts from the bundled model's autoencoder and U-Net, cross-attention excepted; the text encoder starts from nothing
and is trained with the U-Net. One process of one thread; a stopped run goes on with the stage it was in.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.training_utils import EMAModel, compute_snr
from torch import nn

from benchmarks.other_world.painting import paint
from benchmarks.other_world.scene import OBJECTS, PAINTERS, PLAIN, Scene, caption, sample_scene, scenes
from benchmarks.other_world.suite import CLASSIFIERS, suite_of
from esd_core import digest
from esd_core.base_model import MINIATURE_FOLDER
from esd_core.miniature import judges, text, unet
from esd_core.miniature.autoencoder import KL_WEIGHT, encode, random_crops
from esd_core.miniature.renders import to_tensor
from esd_core.miniature.world import NOTHING

RENDERS, SEED = 14_000, 1
LENGTH, MERGES, CAPTIONS = 24, 170, 6  # tokens of a prompt; learned merges; captions of a scene
AUTOENCODER_SHARE, JUDGES_SHARE = 0.1, 0.1  # of the minutes; the rest is the U-Net's
LABELS = {"object": (*OBJECTS, NOTHING), "style": (PLAIN, *PAINTERS), "snow": ("snow", "no snow")}
LIKE = {"object": "object", "style": "sun", "snow": "sun"}  # the bundled judges whose sizes they have
EMPTY, JUNK = 800, 400


def steps_within(
    seconds: float, optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], name: str
) -> Iterator[list[torch.Tensor]]:
    """Steps for so many CPU seconds, each with a list for its loss; learning rates fall by a cosine."""
    peaks = [group["lr"] for group in optimizer.param_groups]
    began, step, recent = time.process_time(), 0, 0.0
    while (done := (time.process_time() - began) / seconds) < 1:
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * min(1, (step + 1) / 100) * (0.5 + 0.5 * math.cos(math.pi * done)) + 1e-6
        losses: list[torch.Tensor] = []
        yield losses
        optimizer.zero_grad(set_to_none=True)
        losses[0].backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step, recent = step + 1, 0.98 * recent + 0.02 * losses[0].item()
        if step % 100 == 0:
            print(f"{name}: {done:.0%}, step {step}, loss {recent:.4f}", flush=True)


def renders(path: Path) -> np.ndarray:
    """(RENDERS, 64, 64, 3) uint8, painted when `path` is not there yet."""
    if not path.exists():
        np.save(path.with_suffix(".partial.npy"), np.stack([paint(scene) for scene in scenes(SEED, RENDERS)]))
        path.with_suffix(".partial.npy").rename(path)
    return np.asarray(np.load(path))


def train_autoencoder(images: np.ndarray, out: Path, seconds: float) -> None:
    torch.manual_seed(3)
    rng = np.random.default_rng(3)
    model = AutoencoderKL.from_pretrained(MINIATURE_FOLDER / "vae", dtype=torch.float32).train()
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1.2e-3, weight_decay=0.0)
    for losses in steps_within(seconds, optimizer, parameters, "autoencoder"):
        batch = images[rng.choice(len(images), 16, replace=False)]
        pixels = to_tensor(random_crops(batch, rng, 32) if rng.random() < 0.75 else batch)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            posterior = model.encode(pixels).latent_dist
            decoded = model.decode(posterior.sample()).sample
        kl = posterior.kl().float().mean() / posterior.mean[0].numel()
        losses.append(F.l1_loss(decoded.float(), pixels) + KL_WEIGHT * kl)
    model.eval()
    model.register_to_config(scaling_factor=float(1 / encode(model, images[:2000]).std()))
    model.save_pretrained(out)


def truth(shown: Iterable[Scene]) -> dict[str, np.ndarray]:
    """What the judges should say of scenes, as indices of LABELS."""
    told = [(scene.object or NOTHING, scene.style, "snow" if scene.snow else "no snow") for scene in shown]
    return {
        judge: np.array([labels.index(names[i]) for names in told]) for i, (judge, labels) in enumerate(LABELS.items())
    }


def pictures_to_judge(images: np.ndarray, vae: AutoencoderKL) -> judges.Pictures:
    """Renders, renders through the autoencoder, empty scenes, and renders in pieces, which show no object."""
    shown, rng, half = scenes(SEED, RENDERS), random.Random(33), RENDERS // 2
    bare = [sample_scene(rng, object=None) for _ in range(EMPTY)]
    ground = np.stack([paint(scene) for scene in bare])
    pieces = judges.shuffled_blocks(images[-JUNK:], np.random.default_rng(1))
    ignored = np.full(JUNK, judges.IGNORED)
    parts = [
        (images[:half], truth(shown[:half])),
        (judges.through_autoencoder(vae, images[half:]), truth(shown[half:])),
        (ground[: EMPTY // 2], truth(bare[: EMPTY // 2])),
        (judges.through_autoencoder(vae, ground[EMPTY // 2 :]), truth(bare[EMPTY // 2 :])),
        (pieces, {"object": np.full(JUNK, LABELS["object"].index(NOTHING)), "style": ignored, "snow": ignored}),
    ]
    labels = {judge: np.concatenate([known[judge] for _, known in parts]) for judge in LABELS}
    return judges.Pictures(np.concatenate([part for part, _ in parts]), labels)


def train_judges(images: np.ndarray, vae: AutoencoderKL, out: Path, seconds: float) -> None:
    torch.manual_seed(9)
    generator = torch.Generator().manual_seed(9)
    pictures = pictures_to_judge(images, vae)
    labels = {judge: torch.from_numpy(index) for judge, index in pictures.labels.items()}
    models = nn.ModuleDict(
        {
            judge: judges.small_resnet(LABELS[judge], judges.WIDTHS[like], judges.DEPTHS[like])
            for judge, like in LIKE.items()
        }
    )
    parameters = list(models.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=judges.PEAK_LR, weight_decay=1e-2)
    for losses in steps_within(seconds, optimizer, parameters, "judges"):
        rows = torch.randint(len(pictures.images), (judges.BATCH,), generator=generator)
        pixels = judges.damage(to_tensor(pictures.images[rows.numpy()]), generator)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = {judge: model(pixels).logits.float() for judge, model in models.items()}
        losses.append(torch.stack([F.cross_entropy(logits[judge], labels[judge][rows]) for judge in models]).sum())
    for judge, model in models.items():
        judges.save(model.eval(), out / judge)


def train_denoiser(latents: torch.Tensor, vae: AutoencoderKL, out: Path, seconds: float) -> None:
    """The text encoder and the U-Net on each other, noise prediction with min-SNR weights and caption dropout."""
    torch.manual_seed(303)
    rng, generator = random.Random(303), torch.Generator().manual_seed(303)
    number = {"": 0}
    shown = scenes(SEED, len(latents))
    index = torch.tensor([[number.setdefault(caption(s, rng), len(number)) for _ in range(CAPTIONS)] for s in shown])
    tokenizer = text.build_tokenizer(list(number)[:30_000], LENGTH, MERGES)
    ids, encoder = text.tokenize(tokenizer, list(number)), text.build_encoder(tokenizer).train()
    denoiser = UNet2DConditionModel.from_pretrained(MINIATURE_FOLDER / "unet", dtype=torch.float32).train()
    fresh = unet.build().state_dict()
    denoiser.load_state_dict({k: fresh[k] if ".attn2." in k else v for k, v in denoiser.state_dict().items()})
    body = [p for name, p in denoiser.named_parameters() if ".attn2." not in name]
    new = [*(p for name, p in denoiser.named_parameters() if ".attn2." in name), *encoder.parameters()]
    parameters = [*body, *new]
    groups: list[dict[str, Any]] = [{"params": body, "lr": 1e-3}, {"params": new, "lr": 1.5e-3}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=1e-3, foreach=True)
    average, schedule, predict = (
        EMAModel(parameters, decay=unet.EMA_DECAY, foreach=True),
        unet.scheduler(),
        torch.compile(denoiser),
    )
    for losses in steps_within(seconds, optimizer, parameters, "U-Net"):
        average.step(parameters)
        rows = torch.randint(len(latents), (unet.BATCH,), generator=generator)
        chosen = index[rows, torch.randint(CAPTIONS, (unet.BATCH,), generator=generator)]
        chosen = torch.where(torch.rand(unet.BATCH, generator=generator) < unet.CAPTION_DROPOUT, 0, chosen)
        noise = torch.randn((unet.BATCH, *latents.shape[1:]), generator=generator)
        timesteps = torch.randint(1000, (unet.BATCH,), generator=generator)
        noisy, condition = schedule.add_noise(latents[rows], noise, timesteps), encoder(ids[chosen]).last_hidden_state
        predicted = predict(noisy, timesteps, condition, return_dict=False)[0]
        snr = compute_snr(schedule, timesteps)
        loss = F.mse_loss(predicted, noise, reduction="none").mean((1, 2, 3))
        losses.append((snr.clamp(max=unet.SNR_GAMMA) / snr * loss).mean())
    average.copy_to(parameters)
    StableDiffusionPipeline(
        vae=vae.half(),
        text_encoder=encoder.half(),
        tokenizer=tokenizer,
        unet=denoiser.half(),
        scheduler=schedule,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(out)


def train(out: Path, minutes: float) -> None:
    """Run every stage whose result is not in `out` yet."""
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    images, seconds = renders(out / "renders.npy"), 60 * minutes
    if not (out / "vae" / "config.json").exists():
        train_autoencoder(images, out / "vae", AUTOENCODER_SHARE * seconds)
    vae = AutoencoderKL.from_pretrained(out / "vae").eval()
    if not (out / "classifiers" / "snow").exists():
        train_judges(images, vae, out / "classifiers", JUDGES_SHARE * seconds)
    digest.write_text(out / "suite.yaml", yaml.safe_dump(suite_of(CLASSIFIERS), sort_keys=False, width=120))
    if not (out / "model").exists():
        latents = encode(vae, images) * float(vae.config.scaling_factor)
        train_denoiser(latents, vae, out / "model", (1 - AUTOENCODER_SHARE - JUDGES_SHARE) * seconds)
    print(
        f"done: {out}; now: python -m benchmarks.tuned --base {out}/model --suite {out}/suite.yaml Riley:style",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("var/other-world"), help="where the model is put")
    parser.add_argument("--minutes", type=float, default=90, help="of CPU time, for all stages")
    arguments = parser.parse_args()
    train(arguments.out, arguments.minutes)


if __name__ == "__main__":
    main()
