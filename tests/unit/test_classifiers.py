"""Judges: any transformers image classifier, zero-shot CLIP, NudeNet; labels by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nudenet.nudenet
import numpy as np
import pytest
import skimage.data
import torch
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel, ResNetForImageClassification

from esd_core.errors import EvaluationError
from esd_core.evaluation.classifier_refs import ClipRef, ImageClassifierRef, NudeNetRef
from esd_core.evaluation.classifiers import load_classifier, load_image_classifier
from esd_core.evaluation.classifiers.clip import load_clip_classifier
from esd_core.evaluation.classifiers.image_classifier import ImageClassifier
from esd_core.evaluation.classifiers.nudenet import EXPOSED, LABELS, NOT_COUNTED, NUDITY, NudeNet, load_nudenet


def random_images(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)


def test_it_answers_what_the_model_answers(tiny_classifier: Path) -> None:
    images = random_images(5)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    model = ResNetForImageClassification.from_pretrained(tiny_classifier).eval()
    with torch.inference_mode():
        expected = model(pixels).logits.argmax(-1).numpy()
    assert (load_image_classifier(str(tiny_classifier)).classify(images) == expected).all()


def test_the_batch_size_changes_nothing(tiny_classifier: Path) -> None:
    judge, images = load_image_classifier(str(tiny_classifier)), random_images(7)
    assert (judge.classify(images, batch_size=2) == judge.classify(images, batch_size=64)).all()


def test_an_image_shows_its_likeliest_label_and_no_other(tiny_classifier: Path) -> None:
    judge, images = load_image_classifier(str(tiny_classifier)), random_images(6)
    assert (judge.sees(images).sum(1) == 1).all()
    assert (judge.shows(images, "tree") == (judge.classify(images) == 1)).all()
    assert judge.sees(images[:0]).shape == (0, 3)


def test_other_image_sizes_are_resized_by_the_processor(tiny_classifier: Path) -> None:
    large = np.zeros((2, 48, 48, 3), np.uint8)
    assert load_image_classifier(str(tiny_classifier)).classify(large).shape == (2,)


def test_half_precision_files_are_computed_in_float32(tiny_classifier: Path, tmp_path: Path) -> None:
    ResNetForImageClassification.from_pretrained(tiny_classifier).half().save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_bytes((tiny_classifier / "preprocessor_config.json").read_bytes())
    assert load_image_classifier(str(tmp_path)).model.dtype is torch.float32


def test_an_unknown_label_names_the_known_ones(tiny_classifier: Path) -> None:
    judge = load_image_classifier(str(tiny_classifier))
    assert judge.index_of("tree") == 1
    with pytest.raises(EvaluationError, match="no label 'boat': use one of house, tree, nothing"):
        judge.index_of("boat")


def test_one_of_several_synonyms_is_enough() -> None:
    labels = ("tench, Tinca tinca", "church, church building", "crane", "crane, bird", *map(str, range(30)))
    judge = ImageClassifier("imagenet", labels, model=None, processor=None)
    assert judge.index_of("tench") == 0
    assert judge.index_of("church building") == 1
    assert judge.index_of("crane") == 2
    with pytest.raises(EvaluationError, match="its 34 labels include 'church, church building'"):
        judge.index_of("church buildings")


@pytest.mark.parametrize("ref", ["nobody/nothing", "nobody/nothing@main", "missing"])
def test_unpinned_classifiers_are_refused(ref: str) -> None:
    with pytest.raises(EvaluationError, match="neither a folder nor pinned"):
        load_image_classifier(ref)


def test_a_folder_that_is_no_classifier_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="cannot load model") as refusal:
        load_image_classifier(str(tmp_path))
    assert "\n" not in str(refusal.value)


def test_only_safetensors_are_read(tiny_classifier: Path, tmp_path: Path) -> None:
    for file in tiny_classifier.glob("*.json"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    torch.save(
        ResNetForImageClassification.from_pretrained(tiny_classifier).state_dict(), tmp_path / "pytorch_model.bin"
    )
    with pytest.raises(EvaluationError, match="cannot load model"):
        load_image_classifier(str(tmp_path))


def test_clip_sees_the_text_that_the_model_finds_likeliest(tiny_clip: Path) -> None:
    labels, images = ("house", "tree by Monet", "nothing"), random_images(8)
    judge = load_clip_classifier(str(tiny_clip), labels, "a picture of {}")
    tokens = AutoTokenizer.from_pretrained(tiny_clip)(
        [f"a picture of {label}" for label in labels], padding=True, return_tensors="pt"
    )
    pixels = AutoImageProcessor.from_pretrained(tiny_clip)(list(images), return_tensors="pt")
    with torch.inference_mode():
        logits = CLIPModel.from_pretrained(tiny_clip).eval()(**tokens, **pixels).logits_per_image
    assert (judge.classify(images) == logits.argmax(-1).numpy()).all()
    assert (judge.shows(images, "nothing") == (logits.argmax(-1).numpy() == 2)).all()


def test_the_template_decides_what_clip_compares_with(tiny_clip: Path) -> None:
    plain = load_clip_classifier(str(tiny_clip), ("house", "tree"), "{}")
    whole = load_clip_classifier(str(tiny_clip), ("a picture of a house", "a picture of a tree"), "{}")
    put_in = load_clip_classifier(str(tiny_clip), ("house", "tree"), "a picture of a {}")
    assert (put_in.texts == whole.texts).all()
    assert not np.allclose(put_in.texts, plain.texts)
    assert put_in.labels == ("house", "tree")


@pytest.fixture(scope="module")
def nude_net() -> NudeNet:
    return load_nudenet(0.6)


def test_nudenet_finds_the_face_in_a_photograph_of_an_astronaut(nude_net: NudeNet) -> None:
    (seen,) = nude_net.sees(skimage.data.astronaut()[None])
    assert [label for label, shown in zip(nude_net.labels, seen, strict=True) if shown] == ["FACE_FEMALE"]


@pytest.mark.parametrize("photograph", [skimage.data.chelsea, skimage.data.coffee, skimage.data.rocket])
def test_nudenet_finds_nobody_where_nobody_is(nude_net: NudeNet, photograph: Any) -> None:
    assert not nude_net.sees(photograph()[None]).any()


def test_a_part_below_the_threshold_is_not_seen() -> None:
    astronaut = skimage.data.astronaut()[None]
    assert not load_nudenet(0.95).shows(astronaut, "FACE_FEMALE").any()


def test_nudenet_is_given_the_colours_it_learned_from() -> None:
    """Its best score is for the picture as it is, not for the one with red and blue exchanged."""
    astronaut = skimage.data.astronaut()[None]
    between = load_nudenet(0.77)
    assert between.shows(astronaut, "FACE_FEMALE").all()
    assert not between.shows(np.ascontiguousarray(astronaut[..., ::-1]), "FACE_FEMALE").any()


def test_the_batch_changes_nothing_for_nudenet(nude_net: NudeNet) -> None:
    images = np.stack([skimage.data.astronaut()[:300, 50:450], skimage.data.coffee()[:300, :400]] * 2)
    seen = nude_net.sees(images, batch_size=3)
    assert seen[:, LABELS.index("FACE_FEMALE")].tolist() == [True, False, True, False]


class Recorded:
    """A detector that found what is given: pictures of exposed parts are not kept here."""

    def __init__(self, *found: list[dict[str, Any]]) -> None:
        self.found = found

    def detect_batch(self, images: list[np.ndarray], batch_size: int) -> list[list[dict[str, Any]]]:
        assert batch_size == len(images) == len(self.found)
        return list(self.found)


def test_any_exposed_part_is_nudity_and_a_covered_one_is_not() -> None:
    def part(name: str, score: float) -> dict[str, Any]:
        return {"class": name, "score": score, "box": [0, 0, 9, 9]}

    found = [
        [part("FEET_EXPOSED", 0.7), part("FACE_MALE", 0.9)],
        [part("BELLY_EXPOSED", 0.5), part("BELLY_COVERED", 0.9)],
        [],
    ]
    judge = NudeNet("nudenet", LABELS, Recorded(*found), 0.6)
    named = [{label for label, shown in zip(LABELS, row, strict=True) if shown} for row in judge.sees(random_images(3))]
    assert named == [{NUDITY, "FEET_EXPOSED", "FACE_MALE"}, {"BELLY_COVERED"}, set()]


def test_every_class_of_the_package_is_a_label() -> None:
    assert {*EXPOSED, *NOT_COUNTED} == set(vars(nudenet.nudenet)["__labels"])
    assert all(label.endswith("_EXPOSED") for label in EXPOSED)


def test_an_entry_of_a_suite_becomes_its_judge(tiny_classifier: Path, tiny_clip: Path) -> None:
    image = load_classifier(ImageClassifierRef(model=str(tiny_classifier)))
    clip = load_classifier(ClipRef(kind="clip", model=str(tiny_clip), labels=("sun", "moon")))
    nude = load_classifier(NudeNetRef(kind="nudenet"))
    assert [judge.labels[:2] for judge in (image, clip, nude)] == [
        ("house", "tree"),
        ("sun", "moon"),
        (NUDITY, "ANUS_EXPOSED"),
    ]
