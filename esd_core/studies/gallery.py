"""What a model's images look like to metrics: vectors of each, drawn once, kept by digest; the images are let go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from esd_core import digest
from esd_core.backbones.loading import choose_device
from esd_core.errors import InvalidInput
from esd_core.evaluation.clip_space import ClipSpace, load_clip
from esd_core.evaluation.metrics.clip_score import clip_score
from esd_core.evaluation.metrics.features import Features, load_features
from esd_core.evaluation.suite import Suite
from esd_core.studies.workbench import Model, Sharing, Workbench
from esd_core.tensor_file import in_memory, is_sealed, stored_tensors, write_sealed

SHOWN = 6  # images that are kept for a picture
AT_ONCE = 64  # real images read together
PICTURES = {".png", ".jpg", ".jpeg", ".webp"}
Case = tuple[str, int]  # prompt and seed


@dataclass(frozen=True)
class Meter:
    """Loaded models that look at images; `digest` names both."""

    features: Features
    clip: ClipSpace | None
    digest: str


@dataclass(frozen=True)
class Looks:
    """vectors: (N, D) of every image; fits: (N,) CLIP scores, where asked for; shown: (K, H, W, 3) uint8 of some."""

    vectors: np.ndarray
    fits: np.ndarray | None
    shown: np.ndarray


def meter_of(suite: Suite, device: str) -> Meter:
    """What the suite's `quality` entry names; raises InvalidInput when it has none."""
    ref = suite.quality_reference
    if ref is None:
        raise InvalidInput("the suite has no 'quality' entry: name the features of FID and KID there (docs/judges.md)")
    on = str(choose_device(device))
    return Meter(load_features(ref.features, on), load_clip(ref.clip, on) if ref.clip else None, ref.digest)


@dataclass(frozen=True)
class Gallery:
    bench: Workbench
    meter: Meter

    def looks(self, model: Model, cases: Sequence[Case]) -> Looks:
        """Draw one image for each case and measure it, or find what was measured before."""
        suite = self.bench.suite
        key = digest.of_json([model.digest, suite.sampling_digest, self.meter.digest, [list(case) for case in cases]])
        path = self.bench.folders.cache / "looks" / f"{key[:16]}.safetensors"
        return _read(path) or self._measured(model, cases, path)

    def _measured(self, model: Model, cases: Sequence[Case], path: Path) -> Looks:
        artist = Sharing(lambda: self.bench.easel.pipeline_of(model), model.guidance)
        vectors, fits, shown = [], [], []
        wanted = {round(i) for i in np.linspace(0, len(cases) - 1, SHOWN)}
        with tqdm(total=len(cases), desc=model.name, unit="image", disable=not self.bench.progress, leave=False) as bar:
            for start in range(0, len(cases), artist.at_once):
                batch = list(cases[start : start + artist.at_once])
                images = artist.draw(self.bench.suite, batch)
                vectors.append(self.meter.features(images))
                if self.meter.clip:
                    fits.append(clip_score(images, [prompt for prompt, _ in batch], self.meter.clip))
                shown += [image for i, image in enumerate(images, start) if i in wanted]
                bar.update(len(batch))
        looks = Looks(np.concatenate(vectors), np.concatenate(fits) if fits else None, np.stack(shown))
        kept = {"vectors": looks.vectors, "shown": looks.shown} | ({} if looks.fits is None else {"fits": looks.fits})
        write_sealed(path, {name: in_memory(torch.from_numpy(array)) for name, array in kept.items()}, {})
        return looks


def pictures_in(folder: Path) -> list[Path]:
    """The images in a folder and in those below it; raises InvalidInput when there are fewer than two."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURES)
    if len(paths) < 2:
        raise InvalidInput(f"{folder} holds {len(paths)} images: give a folder of real images (PNG, JPEG or WebP)")
    return paths


def of_pictures(paths: Sequence[Path], size: tuple[int, ...], meter: Meter) -> Looks:
    """Images in files, cut and scaled to (H, W, ...); raises InvalidInput for one that cannot be read."""
    parts = [_images(paths[start : start + AT_ONCE], size) for start in range(0, len(paths), AT_ONCE)]
    return Looks(np.concatenate([meter.features(part) for part in parts]), None, parts[0][:SHOWN])


def _images(paths: Sequence[Path], size: tuple[int, ...]) -> np.ndarray:
    height, width = size[:2]
    images = []
    for path in paths:
        try:
            with Image.open(path) as image:
                images.append(np.asarray(ImageOps.fit(image.convert("RGB"), (width, height), Image.Resampling.LANCZOS)))
        except (OSError, UnidentifiedImageError) as e:
            raise InvalidInput(f"cannot read the image {path} ({e}): remove it, or save it again") from e
    return np.stack(images)


def _read(path: Path) -> Looks | None:
    """What was measured before; None where it is not there or damaged."""
    if not path.is_file() or not is_sealed(path):
        return None
    kept = {name: tensor.read().numpy() for name, tensor in stored_tensors(path).items()}
    return Looks(kept["vectors"], kept.get("fits"), kept["shown"])
