"""What a concept's other names and retained prompts change, measured in predictions on the tiny base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from esd_core.backbones.base import Backbone, repeat
from esd_core.backbones.loading import load_backbone
from esd_core.base_model import ResolvedBase
from esd_core.lessons import lessons_of
from esd_core.objective import esd_target
from esd_core.recipe import Anchor, RolloutSampler
from esd_core.rollout import guided_rollout
from esd_core.score_bank import Points, start_noise
from esd_core.weights import apply_weights, read_weights
from tests.tiny_erasure import erasure_of, job_of, run

ETA = 10.0  # the random base hardly tells prompts apart
STEPS: dict[str, Any] = {"subset": "esd-x", "iterations": 60, "negative_guidance": ETA, "points_per_rollout": 4}
KEPT = "a tree on the beach"


@pytest.fixture(scope="module")
def frozen(base: ResolvedBase) -> Backbone:
    return load_backbone(base, "cpu")


@pytest.fixture(scope="module")
def plain(base: ResolvedBase, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    """The base without Van Gogh, nothing retained."""
    return edited(base, tmp_path_factory.mktemp("plain"))


def points_of(prompt: str, frozen: Backbone) -> Points:
    """Points of a held-out rollout of a prompt, with what the frozen model says of them."""
    told, null = frozen.encode(prompt), frozen.encode("")
    noise = start_noise(frozen.latent_shape, range(900, 908), torch.float32)
    rollout = guided_rollout(frozen.predict, frozen.sampler(RolloutSampler.DDIM, 4), noise, told, null, 3.0)
    return Points.concatenate(
        Points(p.latents, p.timestep.expand(len(p.latents)), p.eps_prompt, p.eps_null) for p in rollout
    )


def edited(base: ResolvedBase, folder: Path, **settings: Any) -> Backbone:
    """The base without Van Gogh."""
    outcome = run(job_of(base, erasure_of("Van Gogh", **{**STEPS, **settings})), base, folder)
    backbone = load_backbone(base, "cpu")
    apply_weights(backbone.denoiser, read_weights(outcome.weights), base.digest)
    return backbone


@torch.no_grad()
def distance(backbone: Backbone, prompt: str, points: Points, target: torch.Tensor) -> float:
    """Mean squared difference of the prediction of a prompt from a target."""
    told = repeat(backbone.encode(prompt), len(points))
    return float((backbone.predict(points.latents, points.timesteps, told) - target).square().mean())


def test_a_retained_prompt_moves_less_at_equal_erasure(
    base: ResolvedBase, frozen: Backbone, plain: Backbone, tmp_path: Path
) -> None:
    keeping = edited(base, tmp_path, retain=(KEPT,))
    kept, gone = points_of(KEPT, frozen), points_of("Van Gogh", frozen)
    moved = distance(plain, KEPT, kept, kept.eps_concept)
    assert distance(keeping, KEPT, kept, kept.eps_concept) < 0.5 * moved
    target = gone.target(Anchor.EMPTY, ETA)
    left, left_plain, gap = (distance(b, "Van Gogh", gone, target) for b in (keeping, plain, frozen))
    assert left_plain < 0.5 * gap
    assert left < 0.5 * gap


def test_another_name_is_erased_with_the_concept(
    base: ResolvedBase, frozen: Backbone, plain: Backbone, tmp_path: Path
) -> None:
    both = edited(base, tmp_path, also_known_as=("Monet",))
    points = points_of("Monet", frozen)
    target = points.target(Anchor.EMPTY, ETA)
    assert distance(both, "Monet", points, target) < 0.8 * distance(plain, "Monet", points, target)


def test_lessons_are_a_concepts_names_then_what_it_keeps(base: ResolvedBase, frozen: Backbone) -> None:
    gogh = erasure_of("Van Gogh", subset="esd-x", also_known_as=("Vincent",), retain=(KEPT,), erase_from="a house")
    lessons = lessons_of(job_of(base, gogh, erasure_of("sun", subset="esd-u")), frozen)
    assert [(lesson.part, lesson.text, lesson.keeps) for lesson in lessons] == [
        (0, "Van Gogh", False),
        (0, "Vincent", False),
        (0, KEPT, True),
        (1, "sun", False),
    ]
    assert [lesson.texts[0] for lesson in lessons] == ["a house", "a house", KEPT, "sun"]


def test_what_is_kept_is_held_to_the_frozen_prediction(base: ResolvedBase, frozen: Backbone) -> None:
    points = points_of(KEPT, frozen)
    erasing, keeping = lessons_of(job_of(base, erasure_of("sun", subset="esd-x", retain=(KEPT,))), frozen)
    assert torch.equal(keeping.target(points, 3.0), points.eps_concept)
    expected = esd_target(points.eps_null, points.eps_concept, points.eps_null, 3.0)
    assert torch.equal(erasing.target(points, 3.0), expected)


def test_in_a_context_the_concept_is_erased_towards_the_context(base: ResolvedBase, frozen: Backbone) -> None:
    """Beside random words the target starts from those words alone, and what is kept there is their prediction."""
    erasure = erasure_of("Van Gogh", subset="esd-x", contexts=2, keep="empty-and-words")
    bare, *in_context = lessons_of(job_of(base, erasure), frozen)
    assert [lesson.name for lesson in (bare, *in_context)] == ["Van Gogh"] * 3
    for lesson in in_context:
        assert lesson.context
        assert lesson.text == f"{lesson.context} Van Gogh"
        words = frozen.encode(lesson.context)["encoder_hidden_states"]
        assert torch.equal(lesson.prompts.null["encoder_hidden_states"], words)
        assert torch.equal(lesson.companions[0]["encoder_hidden_states"], words)
    points = points_of("Van Gogh", frozen)
    gap = points.eps_concept - points.eps_null
    assert torch.allclose(in_context[0].target(points, 2.0), points.eps_null - 2 * gap, atol=1e-6)
    assert torch.equal(bare.companions[0]["encoder_hidden_states"], frozen.encode("")["encoder_hidden_states"])
