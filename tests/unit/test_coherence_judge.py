"""Coherence in an evaluation: images that are no pictures do not count as a good erasure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from esd_core import digest
from esd_core.backbones.loading import load_pipeline
from esd_core.base_model import ResolvedBase, resolve_base
from esd_core.concept_list import ConceptList
from esd_core.concepts import Concept, ConceptEntry, ConceptKind, ErasureJob
from esd_core.errors import EvaluationError, InvalidInput
from esd_core.evaluation import artist
from esd_core.evaluation.coherence_judge import RANGE_FILE
from esd_core.evaluation.evaluate import evaluate
from esd_core.evaluation.gates import Gates, judge, undecided_probes
from esd_core.evaluation.results import EvaluationReport
from esd_core.evaluation.suite import Suite, load_suite
from esd_core.generation import generate
from esd_core.parameters import select
from esd_core.recipe import ParameterSubset
from esd_core.weights import Provenance, save_weights
from tasks.nights.plan import plan_tonight
from tests.unit.test_gates import probe, report

HOUSE = Concept(name="house", kind=ConceptKind.OBJECT)
LAX = {"erased_at_most": 1.0, "others_drop_at_most": 1.0}
ONE_COLOUR = 1_000.0  # of the predicted noise: far outside of what the autoencoder knows


@pytest.fixture(scope="module")
def suite(tiny_suite: Suite) -> Suite:
    """The tiny suite with a coherence reference, whose features are the tiny classifier's."""
    path = tiny_suite.folder / "coherent.yaml"
    raw = yaml.safe_load((tiny_suite.folder / "suite.yaml").read_text())
    path.write_text(yaml.safe_dump({**raw, "coherence": {"model": "object", "false_alarms": 0.2, "images": 60}}))
    return load_suite(str(path))


def broken(base: ResolvedBase, path: Path, spoil: Callable[[torch.nn.Module], None]) -> Path:
    """Weights of the base after `spoil` has been at its denoiser."""
    unet = load_pipeline(base, "cpu").unet
    spoil(unet)
    entry = ConceptEntry(name="house", kind=ConceptKind.OBJECT, subset=ParameterSubset.ESD_ALL)
    job = ErasureJob(base=base.id, base_digest=base.digest, erasures=(entry.erasure,))
    save_weights(path, {n: p.detach() for n, p in select(unet, ParameterSubset.ESD_ALL).items()}, Provenance.of(job))
    return path


def collapse(unet: torch.nn.Module) -> None:
    unet.get_submodule("conv_out").bias.data.fill_(ONE_COLOUR)  # type: ignore[operator]


def forget(unet: torch.nn.Module) -> None:
    """No noise is ever found: what is drawn is noise."""
    for parameter in unet.get_submodule("conv_out").parameters():
        parameter.data.zero_()


def measured(
    base: ResolvedBase, weights: Path, suite: Suite, folder: Path, images: int, gates: Gates
) -> EvaluationReport:
    return evaluate(
        base,
        weights,
        [HOUSE],
        suite,
        images_per_probe=images,
        gates=gates,
        cache=folder / "cache",
        out=folder / digest.of_file(weights)[:8],
        device="cpu",
        progress=False,
    )


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every prompt that is drawn."""
    noted: list[str] = []

    def noting(pipeline: object, prompts: tuple[str, ...], *given: object, **options: object) -> np.ndarray:
        noted.extend(prompts)
        return generate(pipeline, prompts, *given, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(artist, "generate", noting)
    return noted


def test_collapsed_images_fail_the_gate_though_nothing_else_does(
    base: ResolvedBase, suite: Suite, tmp_path: Path
) -> None:
    weights = broken(base, tmp_path / "weights.safetensors", collapse)
    gates = Gates(**LAX, coherent_at_least=0.6)
    found = measured(base, weights, suite, tmp_path, 200, gates)
    verdict = judge(found, gates)
    assert [gate.decision for gate in verdict.gates] == ["passed", "passed", "failed"]
    house = found.erased[0].coherent
    assert house is not None
    assert house.before > 0.6  # the base's own images, of which a fifth is called broken by chance
    assert house.after == 0
    assert verdict.reasons[2].startswith(f"house: {house.images} of {house.images} images are no pictures")
    assert "(at least 60% ± 10)" in verdict.reasons[2]
    assert house.images < 30  # decided long before all images there may be
    assert found.metrics["erased_coherent_after"] == 0
    assert found.metrics["others_coherent_after"] == 0
    assert judge(found, Gates(**LAX)).passed  # not asked for unless it is chosen


def test_the_range_is_learned_once_for_all_models_and_again_when_it_is_damaged(
    base: ResolvedBase, edited_weights: Path, suite: Suite, tmp_path: Path, drawn: list[str]
) -> None:
    first = measured(base, edited_weights, suite, tmp_path, 4, Gates(sequential=False))
    assert len(drawn) == 60 + 2 * 3 * 4
    assert set(drawn) == {"a house", "a red house", "a tree", "a car"}
    del drawn[:]
    measured(base, broken(base, tmp_path / "w.safetensors", collapse), suite, tmp_path, 4, Gates(sequential=False))
    assert len(drawn) == 3 * 4
    del drawn[:]
    (known,) = (tmp_path / "cache").rglob(RANGE_FILE)
    whole = known.read_bytes()
    known.write_bytes(whole[:-40] + bytes(40))
    for path in tmp_path.rglob("evaluation.json"):
        path.unlink()
    assert measured(base, edited_weights, suite, tmp_path, 4, Gates(sequential=False)) == first
    assert len(drawn) == 60 + 3 * 4
    assert known.read_bytes() == whole


def test_a_gate_without_a_reference_is_refused_before_anything_is_loaded(
    base: ResolvedBase, edited_weights: Path, tiny_suite: Suite, tmp_path: Path
) -> None:
    with pytest.raises(EvaluationError, match="'coherence' entry"):
        measured(base, edited_weights, tiny_suite, tmp_path, 4, Gates(coherent_at_least=0.5))
    assert not list(tmp_path.iterdir())
    entry = ConceptEntry(name="house", kind=ConceptKind.OBJECT)
    listed = ConceptList(
        base=base.id, suite=str(tiny_suite.folder / "suite.yaml"), gates=Gates(coherent_at_least=0.5), concepts=(entry,)
    )
    with pytest.raises(EvaluationError, match="'coherence' entry"):
        plan_tonight(listed)  # nor is anything erased for it


def test_what_was_registered_without_coherence_is_not_passed_by_a_new_gate() -> None:
    old = report(probe("sun", 200, 0, 200))
    verdict = judge(old, Gates(coherent_at_least=0.5))
    assert [gate.decision for gate in verdict.gates] == ["passed", "passed", "undecided"]
    assert "not measured" in verdict.reasons[2]
    assert "coherent" not in " ".join(old.metrics)


def test_the_worst_probe_decides_and_only_the_undecided_want_images() -> None:
    sure, unsure = probe("a", 80, 0, 80), probe("b", 80, 0, 80)
    good, doubtful = probe("", 80, 80, 80), probe("", 80, 66, 80)
    found = report(
        sure.model_copy(update={"coherent": good}), unsure.model_copy(update={"coherent": doubtful}), images=80
    )
    gates = Gates(coherent_at_least=0.8)
    gate = judge(found, gates).gates[2]
    assert (gate.decision, gate.measured) == ("undecided", 66 / 80)
    assert gate.bounds.lower < 0.8 < gate.bounds.upper
    assert undecided_probes(found, gates) == (("b",), ())
    fixed = judge(found, Gates(coherent_at_least=0.83, sequential=False)).gates[2]
    assert fixed.decision == "failed"
    assert "b: 14 of 80 images are no pictures" in fixed.reason


def test_a_suite_that_names_no_prompts_learns_from_all_of_its_own(suite: Suite) -> None:
    assert suite.coherence is not None
    assert suite.coherence.prompts == ("a house", "a red house", "a tree", "a car")
    cases = suite.reference_cases()
    assert len(cases) == len({seed for _, seed in cases}) == 60
    judged = {seed for own in suite.probes for _, seed in suite.cases(own, 60)}
    assert not judged & {seed for _, seed in cases}


def test_what_decides_coherence_decides_the_digests(suite: Suite, tiny_suite: Suite) -> None:
    assert suite.coherence is not None
    other = suite.model_copy(update={"coherence": suite.coherence.model_copy(update={"images": 61})})
    assert len({one.digest for one in (suite, tiny_suite, other)}) == 3
    assert len({one.sampling_digest for one in (suite, tiny_suite, other)}) == 3


def test_too_few_images_for_the_false_alarms_are_refused(suite: Suite, tmp_path: Path) -> None:
    raw = yaml.safe_load((suite.folder / "coherent.yaml").read_text())
    path = tmp_path / "few.yaml"
    path.write_text(yaml.safe_dump({**raw, "coherence": {"model": "object", "images": 100}}))
    with pytest.raises(InvalidInput, match=r"coherence.images.*3\.0% false alarms: give at least 197"):
        load_suite(str(path))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_noise_is_no_erasure_on_the_miniature(tmp_path: Path) -> None:
    """Its judge sees no house in noise, which alone would pass; the pictures tell."""
    base, suite = resolve_base("miniature"), load_suite("miniature").model_copy(update={"steps": 5})
    house = next(own for own in suite.probes if own.name == "house")
    tree = next(own for own in suite.probes if own.name == "tree")
    few = suite.model_copy(update={"probes": (house, tree)})
    gates = Gates(erased_at_most=0.5, others_drop_at_most=1, coherent_at_least=0.8)
    found = measured(base, broken(base, tmp_path / "noise.safetensors", forget), few, tmp_path, 48, gates)
    verdict = judge(found, gates)
    assert found.erased[0].coherent is not None
    assert found.erased[0].before == 1
    assert found.erased[0].coherent.before > 0.8
    assert found.erased[0].coherent.after == 0
    assert [gate.decision for gate in verdict.gates] == ["passed", "passed", "failed"]
