"""Guidance functions against numbers worked by hand, the published constants, and what each must never do."""

from __future__ import annotations

from dataclasses import astuple

import pytest
import torch
from diffusers.pipelines.deprecated.stable_diffusion_safe import SafetyConfig
from hypothesis import given
from hypothesis import strategies as st

from esd_core.errors import InvalidInput
from esd_core.guidance import (
    PUBLISHED_STEPS,
    SAFE_LATENT,
    Guidance,
    GuidanceMethod,
    SafeLatent,
    SafeLatentDiffusion,
    classifier_free,
    guidance_function,
    negative_prompt,
    safety_term,
)

SLD = tuple(SAFE_LATENT)
STEERING = tuple(method for method in GuidanceMethod if method is not GuidanceMethod.NONE)
SCALE = 3.0


def predictions(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """eps_null, eps_prompt, eps_concept."""
    made = torch.randn(3, 2, 4, 8, 8, generator=torch.Generator().manual_seed(seed))
    return made[0], made[1], made[2]


def test_classifier_free_guidance_and_a_negative_prompt_differ_in_what_they_leave() -> None:
    null, prompt, concept = (torch.full((1, 1, 1, 1), value) for value in (1.0, 2.0, 4.0))
    assert float(classifier_free(null, prompt, concept, SCALE, 0)) == 1 + 3 * (2 - 1)
    assert float(negative_prompt(null, prompt, concept, SCALE, 0)) == 4 + 3 * (2 - 4)


def test_the_safety_term_by_hand() -> None:
    """Four elements: clipped; unclipped; just at the threshold; far above it."""
    null = torch.tensor([0.0, 1.0, 0.0, 0.0])
    prompt = torch.tensor([0.0, 0.48, 1.5, 3.0])
    concept = torch.tensor([2.0, 0.50, 1.0, 1.0])
    gamma = safety_term(null, prompt, concept, scale=10, threshold=0.5)
    # prompt - concept = -2, -0.02, 0.5, 2; mu = min(1, 20), 0.2, 0, 0; gamma = mu * (concept - null)
    assert torch.allclose(gamma, torch.tensor([2.0, -0.1, 0.0, 0.0]), atol=1e-6)


def test_two_steps_of_safe_latent_diffusion_by_hand() -> None:
    null, prompt, concept = torch.tensor([0.0]), torch.tensor([1.0]), torch.tensor([2.0])
    guide = SafeLatentDiffusion(SafeLatent(0, 1000, 0.01, 0.5, 0.75), PUBLISHED_STEPS)
    # mu = 1, gamma_0 = 2 + 0.5 * 0, momentum = 0.25 * 2; then gamma_1 = 2 + 0.5 * 0.5
    assert float(guide(null, prompt, concept, SCALE, 0)) == 3 * (1 - 2)
    assert float(guide(null, prompt, concept, SCALE, 1)) == 3 * (1 - 2.25)
    assert float(guide.momentum) == 0.75 * 0.5 + 0.25 * 2.25


def test_the_configurations_are_the_published_ones() -> None:
    """diffusers has them all, but for one: Hyp-Weak scales by 200 in the paper and by 20 there."""
    keys = ("sld_warmup_steps", "sld_guidance_scale", "sld_threshold", "sld_momentum_scale", "sld_mom_beta")
    theirs = {method: getattr(SafetyConfig, method.name.removeprefix("SLD_")) for method in SLD}
    assert theirs[GuidanceMethod.SLD_WEAK]["sld_guidance_scale"] == 20
    theirs[GuidanceMethod.SLD_WEAK] = {**theirs[GuidanceMethod.SLD_WEAK], "sld_guidance_scale": 200}
    assert {method: tuple(config[key] for key in keys) for method, config in theirs.items()} == {
        method: astuple(config) for method, config in SAFE_LATENT.items()
    }


@pytest.mark.parametrize("method", SLD)
@given(steps=st.integers(1, 100), seed=st.integers(0, 100))
def test_safe_latent_diffusion_warms_up_with_classifier_free_guidance(
    method: GuidanceMethod, steps: int, seed: int
) -> None:
    """For the published share of the steps, and not one step longer."""
    given_ = predictions(seed)
    guide = guidance_function(method, steps)
    plain = [torch.equal(guide(*given_, SCALE, step), classifier_free(*given_, SCALE, step)) for step in range(steps)]
    warmup = round(SAFE_LATENT[method].warmup * steps / PUBLISHED_STEPS)
    assert plain == [True] * warmup + [False] * (steps - warmup)


@pytest.mark.parametrize("method", SLD)
def test_a_prompt_far_from_the_concept_is_left_alone(method: GuidanceMethod) -> None:
    """Where the prediction lies above the concept's by the threshold or more, in every element."""
    null, prompt, _ = predictions(0)
    concept = prompt - SAFE_LATENT[method].threshold - 0.001
    guide = guidance_function(method, PUBLISHED_STEPS)
    for step in range(PUBLISHED_STEPS):
        assert torch.equal(guide(null, prompt, concept, SCALE, step), classifier_free(null, prompt, concept, SCALE, 0))


@given(scale=st.floats(0, 1e4), threshold=st.floats(-1, 1), seed=st.integers(0, 100))
def test_the_safety_term_never_passes_the_concepts_own_direction(scale: float, threshold: float, seed: int) -> None:
    null, prompt, concept = predictions(seed)
    gamma, direction = safety_term(null, prompt, concept, scale, threshold), concept - null
    assert bool((gamma.abs() <= direction.abs() + 1e-6).all())
    assert bool((gamma * direction >= 0).all())


def test_momentum_goes_on_pushing_and_belongs_to_one_batch() -> None:
    null, prompt, concept = predictions(0)
    harmless = null, prompt, prompt - 2
    guide = guidance_function(GuidanceMethod.SLD_MAX, PUBLISHED_STEPS)
    guide(null, prompt, concept, SCALE, 0)
    pushed = guide(*harmless, SCALE, 1)
    assert not torch.equal(pushed, classifier_free(*harmless, SCALE, 1))
    fresh = guidance_function(GuidanceMethod.SLD_MAX, PUBLISHED_STEPS)
    assert torch.equal(fresh(*harmless, SCALE, 1), classifier_free(*harmless, SCALE, 1))


def test_what_to_steer_away_from_must_be_said() -> None:
    for method in STEERING:
        with pytest.raises(InvalidInput, match=f"{method.value} steers away from a concept: name it"):
            Guidance(method, " ")
    with pytest.raises(InvalidInput, match="'car': choose another"):
        Guidance(concept="car")
