"""An erasure that had to be pushed gives back what it took along, if the concept does not come back with it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from esd_core import tuning
from esd_core.backbones.loading import load_backbone
from esd_core.base_model import ResolvedBase
from esd_core.concepts import ConceptEntry, ConceptKind, Erasure, ErasureJob
from esd_core.erasure import TRAINED, ErasureOutcome
from esd_core.merged_erasure import OF_ONE, Merging
from esd_core.tuning import Plan
from esd_core.weights import read_weights
from tests.tiny_erasure import Killed, erasure_of, job_of, run

PUSHED = Plan(move=1, first_eta=1, first_check=6, check_every=2, settle_steps=2, most_steps=6, enough=-9, sure=-9)
IN_TIME = PUSHED.model_copy(update={"enough": 9, "sure": 9})


def house(gives_back: bool = True) -> Erasure:
    return erasure_of("house", iterations=None, subset="esd-u", gives_back=gives_back)


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "PLANS", dict.fromkeys(tuning.PLANS, PUSHED))


@pytest.mark.usefixtures("plan")
def test_what_was_pushed_disturbs_less_afterwards(base: ResolvedBase, tmp_path: Path) -> None:
    outcome = run(job_of(base, house()), base, tmp_path)
    (tuned,) = outcome.tuned
    assert tuned.pushed
    assert outcome.merging[-1].interference < tuned.checks[-1].interference
    original = {name: p.detach() for name, p in load_backbone(base, "cpu").denoiser.named_parameters()}
    changed = [name for name, t in read_weights(outcome.weights).tensors.items() if not torch.equal(t, original[name])]
    assert changed
    assert not any(".norm" in name for name in changed)  # what is neither linear nor a convolution is given back whole
    assert not (tmp_path / TRAINED).exists()


@pytest.mark.usefixtures("plan")
def test_killed_while_it_gives_back_it_ends_with_the_same_bits(base: ResolvedBase, tmp_path: Path) -> None:
    job = job_of(base, house())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Merging, "merged", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            run(job, base, tmp_path / "killed")
    assert run(job, base, tmp_path / "killed").weights_digest == run(job, base, tmp_path / "whole").weights_digest


@pytest.mark.usefixtures("plan")
def test_a_concept_that_would_come_back_keeps_what_was_trained(
    base: ResolvedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(base, house())
    monkeypatch.setattr("esd_core.merged_erasure.OF_ONE", OF_ONE._replace(slack=-99.0))  # no remainder is low enough
    kept = run(job, base, tmp_path / "kept")
    monkeypatch.setattr("esd_core.erasure._gives_back", lambda *_: False)
    trained = run(job, base, tmp_path / "trained")
    assert kept.weights_digest == trained.weights_digest
    assert kept.merging == ()
    assert kept.unet_evaluations > trained.unet_evaluations


@pytest.mark.parametrize(
    ("plan", "gives_back"), [(IN_TIME, True), (PUSHED, False)], ids=["in time", "nobody asks for it"]
)
def test_what_was_not_pushed_or_shall_not_give_back_stays_as_trained(
    base: ResolvedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plan: Plan, gives_back: bool
) -> None:
    monkeypatch.setattr(tuning, "PLANS", dict.fromkeys(tuning.PLANS, plan))
    assert run(job_of(base, house(gives_back)), base, tmp_path).merging == ()


@pytest.mark.usefixtures("plan")
def test_what_is_merged_gives_back_in_the_merging_alone(
    base: ResolvedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An edit that was given back already is too weak to be merged."""
    monkeypatch.setattr("esd_core.merged_erasure.OF_SEVERAL", OF_ONE)
    erasures = (house(), erasure_of("sun", subset="esd-u"))
    job = ErasureJob(base=base.id, base_digest=base.digest, erasures=erasures, merged=True)
    whole = run(job, base, tmp_path)
    alone = ErasureOutcome.model_validate_json((tmp_path / job.trainings[0].digest[:16] / "outcome.json").read_bytes())
    assert alone.tuned[0].pushed
    assert alone.merging == ()
    assert len(whole.merging[0].weights) == len(erasures)


def test_only_objects_give_back_by_themselves() -> None:
    asked = {kind: ConceptEntry(name="x", kind=kind).erasure.recipe.gives_back for kind in ConceptKind}
    assert asked == {ConceptKind.STYLE: False, ConceptKind.OBJECT: True, ConceptKind.GLOBAL: False}
