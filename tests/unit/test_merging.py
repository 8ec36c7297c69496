"""Merging in closed form: each concept's edit holds where the concept is, the original weights everywhere else."""

from __future__ import annotations

import json
from itertools import pairwise
from math import inf
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from esd_core.backbones.loading import load_backbone
from esd_core.base_model import ResolvedBase
from esd_core.concepts import ErasureJob
from esd_core.erasure import erase
from esd_core.machine import Machine
from esd_core.merge_rounds import Round, Search, best, disturbs, next_weights
from esd_core.merged_erasure import OF_SEVERAL
from esd_core.merging import (
    OVERSHOOT,
    Layer,
    concept_prompts,
    gram_matrices,
    mergeable,
    merged_edit,
    passes,
    seen_by,
    word_prompts,
)
from esd_core.tuning import SHOWN_AT_MOST
from tests.tiny_erasure import Killed, erasure_of, run, run_killed

SEARCH = Search(first=1.0, heavier=3.0, rounds=4, disturbed=1.2)


@pytest.fixture(autouse=True)
def few_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    few = OF_SEVERAL._replace(prompts=4, others=8, steps=2, search=SEARCH._replace(rounds=1))
    monkeypatch.setattr("esd_core.merged_erasure.OF_SEVERAL", few)


LAYERS: list[tuple[Layer, tuple[int, ...]]] = [
    (nn.Linear(5, 3), (2, 7, 5)),
    (nn.Linear(5, 3), (2, 5)),
    (nn.Conv2d(4, 3, 3, padding=1), (2, 4, 6, 6)),
    (nn.Conv2d(4, 3, 3, stride=2), (2, 4, 7, 7)),
    (nn.Conv2d(4, 3, 1), (2, 4, 6, 6)),
]


def gram(rows: torch.Tensor) -> torch.Tensor:
    return rows.T @ rows / len(rows)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("layer", "shape"), LAYERS)
def test_a_layer_is_a_matrix_on_what_it_sees(layer: Layer, shape: tuple[int, ...]) -> None:
    inputs = random(*shape)
    assert layer.bias is not None
    matrix = torch.cat([layer.weight.flatten(1), layer.bias[:, None]], dim=1)
    by_matrix = seen_by(layer, inputs) @ matrix.T
    output = layer(inputs)
    if isinstance(layer, nn.Conv2d):
        output = output.flatten(2).transpose(1, 2)
    torch.testing.assert_close(by_matrix, output.reshape(by_matrix.shape))


def test_each_edit_holds_on_its_concept_and_leaves_the_rest() -> None:
    """Where concepts and the rest do not overlap, least squares can satisfy all, up to the ridge."""
    axes = torch.eye(6)
    concepts, others = (axes[:2], axes[2:4]), axes[4:]
    edits = [random(3, 6, seed=1), random(3, 6, seed=2)]
    found = merged_edit(edits, [gram(own) for own in concepts], gram(others), [False, False])
    for edit, own in zip(edits, concepts, strict=True):
        torch.testing.assert_close(found @ own.T, OVERSHOOT * edit @ own.T, rtol=3e-3, atol=3e-3)
    assert (found @ others.T).abs().max() < 1e-5


def test_edits_merged_do_less_harm_than_their_sum() -> None:
    """Where they do overlap, the merged layer is nearer to what each place asks for than the sum of the edits is."""
    seen = [random(200, 8, seed=i) * torch.linspace(0.1, 2, 8).roll(3 * i) for i in range(3)]
    others, edits = random(400, 8, seed=9), [random(4, 8, seed=20 + i) for i in range(3)]

    def harm(change: torch.Tensor) -> float:
        own = sum(float(((change - edit) @ rows.T).square().mean()) for edit, rows in zip(edits, seen, strict=True))
        return own + float((change @ others.T).square().mean())

    merged = merged_edit(edits, [gram(rows) for rows in seen], gram(others), [False] * 3) / OVERSHOOT
    assert harm(merged) < 0.6 * harm(sum(edits, torch.zeros(4, 8)))


def test_more_weight_brings_a_layer_nearer_to_the_concepts_own() -> None:
    seen = [random(200, 8, seed=i) for i in range(2)]
    others, edits = random(400, 8, seed=9), [random(4, 8, seed=20 + i) for i in range(2)]

    def missed(weight: float) -> float:
        found = merged_edit(edits, [weight * gram(seen[0]), gram(seen[1])], gram(others), [False] * 2)
        return float(((found / OVERSHOOT - edits[0]) @ seen[0].T).square().mean())

    assert missed(16.0) < missed(4.0) < missed(1.0)


def test_what_appears_unasked_is_edited_beside_all_words_and_named_concepts_are_not() -> None:
    own, others = torch.eye(6)[:3], torch.eye(6)[3:]
    edit = random(3, 6)
    unasked = merged_edit([edit], [gram(own)], gram(others), [True])
    named = merged_edit([edit], [gram(own)], gram(others), [False])
    torch.testing.assert_close(unasked, edit, rtol=2e-3, atol=2e-3)
    assert (named @ others.T).abs().max() < 1e-5


def test_a_concept_that_left_a_layer_alone_asks_for_the_original_there() -> None:
    own, foreign = torch.eye(4)[:2], torch.eye(4)[2:]
    found = merged_edit([None, random(3, 4)], [gram(own), gram(torch.eye(4))], gram(foreign), [False, False])
    alone = merged_edit([random(3, 4)], [gram(torch.eye(4))], gram(foreign), [False])
    assert (found @ own.T).norm() < (alone @ own.T).norm()


def test_gram_matrices_are_of_the_second_half_where_only_prompts_count() -> None:
    layer, generator = nn.Linear(3, 2), torch.Generator().manual_seed(0)
    prompted = torch.ones(1, 1, 3)
    with gram_matrices({"a": layer}, generator, of_prompts_only=True) as sums:
        layer(torch.cat([torch.full((1, 1, 3), 7.0), prompted]))
        layer(torch.cat([torch.full((1, 1, 3), 9.0), prompted]))
    torch.testing.assert_close(sums["a"], 2 * torch.ones(4, 4))
    layer(torch.ones(2, 1, 3))
    torch.testing.assert_close(sums["a"], 2 * torch.ones(4, 4))  # nothing is added after the block


def test_layers_come_in_groups_that_fit_and_none_is_lost(base: ResolvedBase) -> None:
    denoiser = load_backbone(base, "cpu").denoiser
    layers = mergeable(denoiser, [name for name, _ in denoiser.named_parameters()])
    assert all(isinstance(layer, nn.Linear | nn.Conv2d) for layer in layers.values())
    assert passes(layers) == [layers]
    groups = passes(layers, 20_000)
    assert len(groups) > 1
    assert [name for group in groups for name in group] == list(layers)
    for group in groups:
        size = sum(4 * (layer.weight[0].numel() + 1) ** 2 for layer in group.values())
        assert size <= 20_000 or len(group) == 1


@given(st.lists(st.sampled_from(["cat", "tabby", "small cat"]), min_size=1, unique=True), st.integers(0, 99))
def test_prompts_name_every_name_bare_and_beside_words(names: list[str], seed: int) -> None:
    prompts = concept_prompts(names, ["red", "house"], 24, seed)
    assert prompts == concept_prompts(names, ["red", "house"], 24, seed)
    for name in names:
        own = [prompt for i, prompt in enumerate(prompts) if names[i % len(names)] == name]
        assert all(name in prompt for prompt in own)
        assert {name} < set(own)
    assert not any("cat" in prompt for prompt in word_prompts(["red", "house"], 24, seed))


def round_of(weights: tuple[float, ...], remainders: tuple[float, ...], interference: float) -> Round:
    return Round(weights=weights, remainders=remainders, interference=interference, shown=(None,) * len(weights))


def test_only_what_is_still_there_gets_more_weight_until_nothing_is() -> None:
    goals, first = (0.1, 0.1), (1.0, 1.0)
    rounds = [round_of(first, (0.05, 0.4), 0.3)]
    second = next_weights(rounds, goals, SEARCH)
    assert second is not None
    assert second[0] == first[0]
    assert second[1] > first[1]
    assert next_weights([*rounds, round_of(second, (0.09, 0.1), 0.31)], goals, SEARCH) is None


def test_images_decide_where_somebody_looks() -> None:
    seen = Round(weights=(1.0, 1.0), remainders=(0.9, -0.5), interference=0.1, shown=(SHOWN_AT_MOST, 0.5))
    weights = next_weights([seen], (inf, inf), SEARCH)
    assert weights is not None
    assert weights[0] == 1.0
    assert weights[1] > 1.0
    assert next_weights([seen], (0.9, 0.0), SEARCH) == weights
    both = next_weights([seen], (0.8, 0.0), SEARCH)  # a few images may miss what held-out points see
    assert both is not None
    assert min(both) > 1.0


@given(st.lists(st.tuples(st.floats(-1, 1), st.floats(0, 1.2)), min_size=SEARCH.rounds, max_size=20))
def test_weights_never_fall_and_the_search_ends(answers: list[tuple[float, float]]) -> None:
    rounds: list[Round] = []
    weights: tuple[float, ...] | None = (1.0,)
    for remainder, interference in answers:
        if weights is not None:
            rounds.append(round_of(weights, (remainder,), interference))
            weights = next_weights(rounds, (0.0,), SEARCH)
    assert len(rounds) <= SEARCH.rounds
    assert all(a.weights < b.weights for a, b in pairwise(rounds))
    chosen = best(rounds, (0.0,), SEARCH)
    assert not disturbs(chosen, rounds, SEARCH)
    assert chosen.excess((0.0,)) <= rounds[0].excess((0.0,))


def merged_job(base: ResolvedBase) -> ErasureJob:
    erasures = (erasure_of("Van Gogh", subset="esd-x"), erasure_of("sun", subset="esd-u"))
    return ErasureJob(base=base.id, base_digest=base.digest, erasures=erasures, merged=True)


def test_a_merged_job_is_one_model_of_concepts_erased_alone(base: ResolvedBase, tmp_path: Path) -> None:
    job = merged_job(base)
    outcome = run(job, base, tmp_path / "a")
    original = {name: p.detach() for name, p in load_backbone(base, "cpu").denoiser.named_parameters()}
    merged = load_file(outcome.weights)
    changed = {name for name, tensor in merged.items() if not torch.equal(tensor, original[name])}
    assert any(".attn2." in name for name in changed)
    assert any(".resnets." in name for name in changed)
    assert not any(".norm" in name for name in changed)  # no linear layer, no convolution
    told = [json.loads(line)["concept"] for line in outcome.history.read_text().splitlines()]
    assert told == ["Van Gogh"] * 12 + ["sun"] * 12
    assert outcome.merging
    assert run(job, base, tmp_path / "b").weights_digest == outcome.weights_digest


def test_concepts_erased_alone_already_are_not_erased_again(base: ResolvedBase, tmp_path: Path) -> None:
    job, alone = merged_job(base), tmp_path / "jobs"
    single = ErasureJob(base=base.id, base_digest=base.digest, erasures=job.erasures[:1])
    run(single, base, alone / single.digest[:16])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("esd_core.student.Student.step", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            erase(job, base, tmp_path / "merged", Machine("cpu"), alone=alone, progress=False)
    assert [path.name for path in alone.iterdir()] == [single.digest[:16]] or len(list(alone.iterdir())) == 2
    outcome = erase(job, base, tmp_path / "merged", Machine("cpu"), alone=alone, progress=False)
    assert outcome.weights_digest == run(job, base, tmp_path / "elsewhere").weights_digest


def test_a_killed_merged_job_ends_with_the_same_bits(base: ResolvedBase, tmp_path: Path) -> None:
    job = merged_job(base)
    run_killed(job, base, tmp_path / "killed", steps=17)
    assert run(job, base, tmp_path / "killed").weights_digest == run(job, base, tmp_path / "whole").weights_digest


def test_merged_and_joint_jobs_have_digests_and_names_of_their_own(base: ResolvedBase) -> None:
    merged = merged_job(base)
    joint = merged.model_copy(update={"merged": False})
    assert merged.digest != joint.digest
    assert (merged.slug[:7], joint.slug[:6]) == ("merged-", "joint-")
    assert merged.settings["merged"] is True
    assert "merged" not in joint.settings
