"""What always holds of an erasure, on a tiny random Stable Diffusion."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tqdm import tqdm

from esd_core import digest, point_source
from esd_core.backbones.loading import load_backbone, load_pipeline
from esd_core.base_model import ResolvedBase
from esd_core.concepts import ErasureJob
from esd_core.erasure import ErasureOutcome
from esd_core.errors import BaseModelMismatch, ErasureFailed, WeightsError
from esd_core.held_out import HeldOut
from esd_core.lessons import Lesson
from esd_core.parameters import select
from esd_core.point_source import Bank
from esd_core.recipe import ParameterSubset, Recipe, Updates
from esd_core.score_bank import Points, Prompts, start_noise
from esd_core.student import Batch, Student
from esd_core.weights import apply_weights, read_weights, save_weights
from tests.tiny_erasure import erasure_of, job_of, run, run_killed

MODES: dict[str, dict[str, Any]] = {
    "frozen": {"subset": "esd-x"},
    "student": {"subset": "esd-u", "rollout_from": "student"},
    "student, jittered, reused": {
        "subset": "esd-x", "rollout_from": "student", "timestep_choice": "bucket", "reuse": 2,
    },
    "bucket, reused": {"subset": "esd-all", "timestep_choice": "bucket", "reuse": 2},
    "bfloat16": {"subset": "esd-u-authors", "precision": "bfloat16"},
    "bfloat16, in place": {"subset": "esd-x-strict", "precision": "bfloat16", "updates": "in-place"},
    "erased from": {"subset": "self-attention", "erase_from": "house", "sampler": "euler"},
}  # fmt: skip


def make_job(base: ResolvedBase, **settings: Any) -> ErasureJob:
    return job_of(base, erasure_of("Van Gogh", **settings))


@pytest.fixture(scope="module", params=list(MODES))
def whole(
    request: pytest.FixtureRequest, base: ResolvedBase, tmp_path_factory: pytest.TempPathFactory
) -> ErasureOutcome:
    """A run that was never interrupted, in each mode."""
    return run(make_job(base, **MODES[request.param]), base, tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("steps", [0, 5, 11])
def test_a_killed_run_ends_with_the_same_bits(
    steps: int, whole: ErasureOutcome, base: ResolvedBase, tmp_path: Path
) -> None:
    run_killed(whole.job, base, tmp_path, steps)
    resumed = run(whole.job, base, tmp_path)
    assert resumed.weights_digest == whole.weights_digest
    assert resumed.history.read_text() == whole.history.read_text()


def test_a_damaged_bank_is_named_and_made_again(
    base: ResolvedBase, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = make_job(base, subset="esd-x")
    whole = run(job, base, tmp_path / "whole")
    run_killed(job, base, tmp_path / "killed", 7)
    damaged = list((tmp_path / "killed").glob("bank-*.safetensors"))
    assert damaged
    for path in damaged:
        path.write_bytes(path.read_bytes()[:-100])
    assert run(job, base, tmp_path / "killed").weights_digest == whole.weights_digest
    assert all(f"bank {path} is damaged: it is made again" in caplog.text for path in damaged)


def test_a_finished_job_is_not_done_again(base: ResolvedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_job(base, subset="esd-x")
    first = run(job, base, tmp_path)
    loading = "esd_core.training.load_backbone"
    monkeypatch.setattr(loading, lambda *_: pytest.fail("the base was loaded for a finished job"))
    assert run(job, base, tmp_path) == first


def test_only_the_subset_changes_and_the_loss_falls(base: ResolvedBase, tmp_path: Path) -> None:
    outcome = run(make_job(base, subset="esd-x", iterations=60, negative_guidance=3.0), base, tmp_path)
    weights = read_weights(outcome.weights)
    unet = load_pipeline(base, "cpu").unet
    before = dict(unet.state_dict())
    assert set(weights.tensors) == set(select(unet, ParameterSubset.ESD_X))
    assert any(not torch.equal(tensor, before[name]) for name, tensor in weights.tensors.items())
    history = [json.loads(line) for line in outcome.history.read_text().splitlines()]
    assert [row["step"] for row in history] == list(range(1, 61))
    assert {row["concept"] for row in history} == {"Van Gogh"}
    losses = [row["loss"] for row in history]
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])


def test_evaluations_are_counted(base: ResolvedBase, tmp_path: Path) -> None:
    """12 steps of 2 points, 4 kept of each rollout: 6 rollouts of 4 guided steps; a backward pass counts 1.1."""
    outcome = run(make_job(base, subset="esd-x", points_per_rollout=4), base, tmp_path)
    assert outcome.unet_evaluations == 6 * 4 * 2 + 12 * 2
    assert outcome.forward_equivalents == pytest.approx(6 * 4 * 2 + 12 * 2 * 2.1)


def test_frozen_predictions_stay_frozen(base: ResolvedBase) -> None:
    backbone = load_backbone(base, "cpu")
    told = backbone.encode("Van Gogh")
    student = Student(backbone, [ParameterSubset.ESD_U], Updates.MASTER, keeps_originals=True)
    x, t = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([500])
    frozen = student.predict_frozen(x, t, told)
    student.step(Batch(x, t, told, -frozen), ParameterSubset.ESD_U, 1e-3)
    assert not torch.equal(student.predict(x, t, told), frozen)
    assert torch.equal(student.predict_frozen(x, t, told), frozen)


@pytest.mark.parametrize(
    ("factor", "told"), [(1000.0, "the loss exploded, .* in step 14"), (float("nan"), "the loss became nan")]
)
def test_a_bad_loss_stops_with_a_remedy_and_keeps_the_last_good_checkpoint(
    factor: float, told: str, base: ResolvedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("esd_core.training.SPARING", 0.0)
    job = make_job(base, subset="esd-x", iterations=20)
    whole = run(job, base, tmp_path / "whole")
    target, asked = Lesson.target, []

    def bad(*args: Any) -> torch.Tensor:
        asked.append(1)
        return target(*args) * (factor if len(asked) > 13 else 1)

    folder = tmp_path / "bad"
    with monkeypatch.context() as patch:
        patch.setattr(Lesson, "target", bad)
        with pytest.raises(ErasureFailed, match=f"{told}: lower learning_rate or .* checkpoint is kept"):
            run(job, base, folder)
    assert not (folder / "weights.safetensors").exists()
    with safe_open(folder / "checkpoint.safetensors", framework="pt") as f:
        assert len(json.loads(f.metadata()["progress"])["losses"]) == 12  # a tenth of 20 steps apart
    assert run(job, base, folder).weights_digest == whole.weights_digest


def test_no_bank_is_so_large_that_it_holds_what_is_held_out(
    base: ResolvedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = load_backbone(base, "cpu")
    prompts = Prompts(backbone.encode("Van Gogh"), backbone.encode(""))
    lesson = Lesson(0, "Van Gogh", prompts, False, Recipe(subset=ParameterSubset.ESD_X, points_per_rollout=1, seed=3))
    student = Student(backbone, [ParameterSubset.ESD_X], Updates.MASTER, keeps_originals=False)
    held_out: list[int] = []

    def noise(shape: tuple[int, ...], seeds: Iterable[int], dtype: torch.dtype) -> torch.Tensor:
        held_out.extend(seeds)
        return start_noise(shape, seeds, dtype)

    with monkeypatch.context() as patch:
        patch.setattr(point_source, "start_noise", noise)
        HeldOut(student, [lesson], [prompts])
    assert held_out
    monkeypatch.setattr(Bank, "_roll_out", lambda _, seeds: Points(*[torch.tensor(s) for s in [seeds] * 4]))
    bank = Bank(lesson, student, 600, tmp_path, base.digest)
    with tqdm(disable=True) as bar:
        bank.fill(bar)
    held = set(bank.rows(range(600)).latents.tolist())
    assert len(held) == 600
    assert held >= set(range(3 * 100_003, 3 * 100_003 + 496))
    assert not held.intersection(held_out)


def test_updates_do_not_round_away(base: ResolvedBase, tmp_path: Path) -> None:
    """At lr 1e-5 almost every weight in bfloat16 is too coarse for Adam's steps; float32 copies add them up."""
    shares = {}
    before = load_pipeline(base, "cpu", torch.bfloat16).unet.state_dict()
    for updates in Updates:
        settings = {"precision": "bfloat16", "learning_rate": 1e-5, "iterations": 20, "updates": updates}
        outcome = run(make_job(base, subset="esd-x", **settings), base, tmp_path / updates)
        weights = read_weights(outcome.weights).tensors
        changed = sum(int((tensor.float() != before[name].float()).sum()) for name, tensor in weights.items())
        shares[updates] = changed / sum(tensor.numel() for tensor in weights.values())
    assert shares[Updates.MASTER] > 0.9
    assert shares[Updates.IN_PLACE] < 0.5


def test_gradient_checkpointing_and_memory_layout_change_only_the_rounding(base: ResolvedBase, tmp_path: Path) -> None:
    job = make_job(base, subset="esd-u")
    plain = read_weights(run(job, base, tmp_path / "plain").weights).tensors
    saving = run(job, base, tmp_path / "saving", gradient_checkpointing=True, channels_last=True)
    for name, tensor in read_weights(saving.weights).tensors.items():
        assert torch.allclose(tensor, plain[name], atol=2e-3), name  # two steps of the learning rate


def test_erasing_from_a_text_differs(base: ResolvedBase, tmp_path: Path) -> None:
    plain = run(make_job(base, subset="esd-x"), base, tmp_path / "plain")
    source = run(make_job(base, erase_from="house", subset="esd-x"), base, tmp_path / "from")
    assert plain.weights_digest != source.weights_digest


def test_weights_load_with_plain_diffusers_and_strictly_here(base: ResolvedBase, tmp_path: Path) -> None:
    outcome = run(make_job(base, subset="esd-x"), base, tmp_path)
    plain, strict = load_pipeline(base, "cpu").unet, load_pipeline(base, "cpu").unet
    result = plain.load_state_dict(load_file(outcome.weights), strict=False)
    assert not result.unexpected_keys
    apply_weights(strict, read_weights(outcome.weights), base.digest)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), strict.parameters(), strict=True))


def test_what_does_not_fit_is_refused(base: ResolvedBase, tmp_path: Path) -> None:
    weights = read_weights(run(make_job(base, subset="esd-x"), base, tmp_path).weights)
    unet = load_pipeline(base, "cpu").unet
    with pytest.raises(BaseModelMismatch, match="erase 'Van Gogh' again"):
        apply_weights(unet, weights, "0" * 64)
    name = next(iter(weights.tensors))
    for change, complaint in (
        ({name: torch.zeros(3)}, "another shape"),
        ({"alien.weight": torch.zeros(3)}, "does not belong"),
    ):
        path = tmp_path / "changed.safetensors"
        save_weights(path, {**weights.tensors, **change}, weights.provenance)
        with pytest.raises(WeightsError, match=complaint):
            apply_weights(unet, read_weights(path), base.digest)
    save_weights(path, {k: v for k, v in weights.tensors.items() if k != name}, weights.provenance)
    with pytest.raises(WeightsError, match="is missing"):
        apply_weights(unet, read_weights(path), base.digest)


@pytest.mark.parametrize("content", [b"", b"not safetensors at all", b"\x80\x04pickle"])
def test_files_that_are_not_weights_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="not a whole safetensors file"):
        read_weights(path)
    with pytest.raises(WeightsError, match="no weights file"):
        read_weights(tmp_path / "missing.safetensors")


def test_an_empty_subset_raises() -> None:
    with pytest.raises(ErasureFailed, match="selects no parameter"):
        select(torch.nn.Linear(2, 2), ParameterSubset.ESD_X)


def test_the_digest_names_the_result(base: ResolvedBase) -> None:
    assert make_job(base, subset="esd-x").digest == make_job(base, subset="esd-x").digest
    assert make_job(base, subset="esd-x").digest != make_job(base, subset="esd-x", seed=1).digest
    moved = make_job(base, subset="esd-x").model_copy(update={"base": "elsewhere"})
    assert moved.digest == make_job(base, subset="esd-x").digest
    assert len(digest.of_json({"b": 1, "a": 2})) == 64
