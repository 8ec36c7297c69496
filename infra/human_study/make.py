"""From folders of images to a study that can be shown.

The images are copied under names that say nothing, as PNG of at most 512 pixels and without metadata, so that neither
an address nor a file's format or size tells a real work from a drawn one.
"""

from __future__ import annotations

import csv
import io
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from esd_core import digest
from esd_core.errors import InvalidInput
from infra.human_study.definition import Definition, Method
from infra.human_study.study import IMAGES, ORIGINAL, REAL, SIMILAR, STUDY_FILE, Question, Study, Trial, read_study

LONGEST_SIDE = 512  # pixels: what Stable Diffusion draws
DRAWN = re.compile(r"(?P<case>[A-Za-z0-9_-]+)_\d+\.png")  # as `esd generate` names them
WORKS = {".png", ".jpg", ".jpeg", ".webp"}


def make_study(definition: Definition, out: Path) -> Study:
    """Write the study's folder: images first, study.json last. Raises InvalidInput where images are missing."""
    images = _Images(out / IMAGES)
    rng = random.Random(definition.seed)
    works = _works(definition)
    trials = [
        Trial(
            number=1,
            question=rated.question,
            method=rated.method,
            artist=rated.artist,
            erased=rated.erased,
            image=images.add(rated.path),
            references=tuple(
                images.add(path)
                for path in rng.sample([w for w in works[rated.artist] if w != rated.path], definition.references)
            ),
        )
        for rated in _rated(definition, works)
    ]
    order = rng.sample(range(1, len(trials) + 1), len(trials))  # so that a number says nothing of the method
    study = Study(
        title=definition.title,
        trials_per_participant=min(definition.trials_per_participant or len(trials), len(trials)),
        trials=tuple(trial.model_copy(update={"number": n}) for n, trial in zip(order, trials, strict=True)),
    )
    if (out / STUDY_FILE).exists() and read_study(out).digest != study.digest:
        raise InvalidInput(f"{out} holds another study, perhaps with answers: choose another folder")
    images.write()
    digest.write_text(out / STUDY_FILE, study.model_dump_json(indent=1))
    return study


@dataclass(frozen=True)
class _Rated:
    """An image that is to be rated."""

    question: Question
    method: str
    artist: str
    path: Path
    erased: str | None = None


def _rated(definition: Definition, works: dict[str, list[Path]]) -> Iterator[_Rated]:
    for artist, paths in works.items():
        yield from (_Rated(Question.RESEMBLANCE, REAL, artist, path) for path in paths)
        if definition.similar:
            similar = _pictures(definition.similar / artist)
            yield from (_Rated(Question.RESEMBLANCE, SIMILAR, artist, path) for path in similar)
    artists = _artists(definition.prompts)
    original = _drawn(definition.original, artists, definition.prompts)
    for path, artist in original.items():
        yield _Rated(Question.RESEMBLANCE, ORIGINAL, artist, path)
    for method in definition.methods:
        yield from _rated_of(method, artists, definition.prompts, {path.name for path in original})


def _rated_of(method: Method, artists: dict[str, str], prompts: Path, expected: set[str]) -> Iterator[_Rated]:
    drawn = _drawn(method.images, artists, prompts)
    unequal = sorted(expected ^ {path.name for path in drawn})
    if unequal:
        raise InvalidInput(
            f"{method.images} and the original model's images differ in {len(unequal)} files, such as {unequal[0]}: "
            f"draw both with the same prompts and as many images of each"
        )
    if method.erased not in artists.values():
        raise InvalidInput(f"method {method.name!r} erases {method.erased!r}, who is no artist of {prompts}")
    for path, artist in drawn.items():
        question = Question.REMOVAL if artist == method.erased else Question.INTERFERENCE
        yield _Rated(question, method.name, artist, path, method.erased)


def _works(definition: Definition) -> dict[str, list[Path]]:
    """Real works of every artist whom a prompt names."""
    needed = definition.references + 1  # a work that is rated does not stand beside itself
    works = {}
    for artist in sorted(set(_artists(definition.prompts).values())):
        works[artist] = _pictures(definition.works / artist)
        if len(works[artist]) < needed:
            raise InvalidInput(
                f"{definition.works / artist} holds {len(works[artist])} works, but {definition.references} stand "
                f"beside each image: add works until there are {needed}, or lower `references`"
            )
    return works


def _pictures(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InvalidInput(f"{folder} is not there: each artist needs a folder named as in the prompts file")
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in WORKS and not path.name.startswith("."))


def _artists(prompts: Path) -> dict[str, str]:
    """case_number -> artist."""
    try:
        with prompts.open(encoding="utf-8-sig", newline="") as f:
            rows = list(csv.DictReader(f))
    except OSError as e:
        raise InvalidInput(f"cannot read prompts file {prompts}: {e.strerror}") from e
    except (UnicodeDecodeError, csv.Error) as e:
        raise InvalidInput(f"{prompts} is not a CSV file in UTF-8: {e}") from e
    artists = {str(row.get("case_number")).strip(): (row.get("artist") or "").strip() for row in rows}
    if not artists or not all(artists.values()) or "None" in artists:
        raise InvalidInput(f"{prompts} must name an artist for each prompt: columns case_number and artist")
    return artists


def _drawn(folder: Path, artists: dict[str, str], prompts: Path) -> dict[Path, str]:
    """The images of a folder of `esd generate`, each with the artist whom its prompt names."""
    if not folder.is_dir():
        raise InvalidInput(f"{folder} is not there: draw its images with `esd generate --out {folder}`")
    drawn = {}
    for path in sorted(folder.iterdir()):
        if match := DRAWN.fullmatch(path.name):
            if match["case"] not in artists:
                raise InvalidInput(f"{path} belongs to no case_number of {prompts}: give the file it was drawn from")
            drawn[path] = artists[match["case"]]
    if not drawn:
        raise InvalidInput(f"{folder} holds no images named CASE_N.png: draw them with `esd generate --out {folder}`")
    return drawn


@dataclass(frozen=True)
class _Images:
    """Copies of images, named by their contents."""

    folder: Path
    names: dict[Path, str] = field(default_factory=dict)
    copies: dict[str, bytes] = field(default_factory=dict)

    def add(self, path: Path) -> str:
        if path not in self.names:
            data = _plain_png(path)
            self.names[path] = f"{digest.of_bytes(data)[:20]}.png"
            self.copies[self.names[path]] = data
        return self.names[path]

    def write(self) -> None:
        for name, data in self.copies.items():
            with digest.whole_file(self.folder / name) as partial:
                partial.write_bytes(data)


def _plain_png(path: Path) -> bytes:
    try:
        with Image.open(path) as opened:
            picture = ImageOps.exif_transpose(opened).convert("RGB")
    except (OSError, UnidentifiedImageError) as e:
        raise InvalidInput(f"{path} cannot be read as an image: {e}") from e
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    plain = Image.new("RGB", picture.size)  # pixels only: a copy would carry the file's comments along
    plain.paste(picture)
    data = io.BytesIO()
    plain.save(data, format="PNG")
    return data.getvalue()
