"""What always holds of an erasure, on a tiny random Stable Diffusion."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from esd_core import digest
from esd_core.backbones import stable_diffusion as sd
from esd_core.base_model import ResolvedBase
from esd_core.concepts import Concept, ConceptKind, ErasureJob
from esd_core.erasure import ErasureOutcome, erase
from esd_core.errors import BaseModelMismatch, ErasureFailed, WeightsError
from esd_core.parameters import select
from esd_core.recipe import ParameterSubset, Recipe
from esd_core.score_bank import Points
from esd_core.student import Student
from esd_core.weights import apply_weights, read_weights, save_weights

SETTINGS: dict[str, Any] = {
    "iterations": 12, "batch_size": 2, "rollout_steps": 4, "points_per_rollout": 2, "learning_rate": 1e-3,
}  # fmt: skip
MODES: dict[str, dict[str, Any]] = {
    "frozen": {"subset": "esd-x"},
    "student": {"subset": "esd-u", "rollout_from": "student"},
    "bucket, reused": {"subset": "esd-all", "timestep_choice": "bucket", "reuse": 2},
}


def make_job(base: ResolvedBase, erase_from: str | None = None, **settings: Any) -> ErasureJob:
    concept = Concept(name="Van Gogh", kind=ConceptKind.STYLE, erase_from=erase_from)
    return ErasureJob(base=base.id, base_digest=base.digest, concept=concept, recipe=Recipe(**{**SETTINGS, **settings}))


def run(job: ErasureJob, base: ResolvedBase, folder: Path) -> ErasureOutcome:
    return erase(job, base, folder, "cpu", progress=False)


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


def kill_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    original: Callable[..., float] = Student.step
    done = 0

    def step(self: Student, *args: Any) -> float:
        nonlocal done
        done += 1
        if done > steps:
            raise Killed
        return original(self, *args)

    monkeypatch.setattr(Student, "step", step)


@pytest.mark.parametrize("mode", list(MODES))
@pytest.mark.parametrize("steps", [0, 5, 11])
def test_a_killed_run_ends_with_the_same_bits(
    mode: str, steps: int, base: ResolvedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(base, **MODES[mode])
    whole = run(job, base, tmp_path / "whole")
    with monkeypatch.context() as patch:
        kill_after(patch, steps)
        with pytest.raises(Killed):
            run(job, base, tmp_path / "killed")
    assert not (tmp_path / "killed" / "outcome.json").exists()
    resumed = run(job, base, tmp_path / "killed")
    assert resumed.weights_digest == whole.weights_digest
    assert resumed.history.read_text() == whole.history.read_text()


@pytest.mark.parametrize("file", ["checkpoint.safetensors", "bank"])
def test_damaged_files_are_made_again(
    file: str, base: ResolvedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(base, subset="esd-x")
    whole = run(job, base, tmp_path / "whole")
    with monkeypatch.context() as patch:
        kill_after(patch, 7)
        with pytest.raises(Killed):
            run(job, base, tmp_path / "killed")
    (path,) = (tmp_path / "killed").glob(f"{file}*.safetensors" if file == "bank" else file)
    path.write_bytes(path.read_bytes()[:-100])
    assert run(job, base, tmp_path / "killed").weights_digest == whole.weights_digest


def test_a_finished_job_is_not_done_again(base: ResolvedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_job(base, subset="esd-x")
    first = run(job, base, tmp_path)
    monkeypatch.setattr(sd, "load_pipeline", lambda *_: pytest.fail("the base was loaded for a finished job"))
    assert run(job, base, tmp_path) == first


def test_only_the_subset_changes_and_the_loss_falls(base: ResolvedBase, tmp_path: Path) -> None:
    outcome = run(make_job(base, subset="esd-x", iterations=60, negative_guidance=3.0), base, tmp_path)
    weights = read_weights(outcome.weights)
    unet = sd.load_pipeline(base, "cpu").unet
    before = dict(unet.state_dict())
    assert set(weights.tensors) == set(select(unet, ParameterSubset.ESD_X))
    assert any(not torch.equal(tensor, before[name]) for name, tensor in weights.tensors.items())
    losses = [float(line.split('"loss": ')[1].rstrip("}")) for line in outcome.history.read_text().splitlines()]
    assert len(losses) == 60
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])


def test_evaluations_are_counted(base: ResolvedBase, tmp_path: Path) -> None:
    """12 steps of 2 points, 4 kept of each rollout: 6 rollouts of 4 guided steps; a training step counts three."""
    outcome = run(make_job(base, subset="esd-x", points_per_rollout=4), base, tmp_path)
    assert outcome.unet_evaluations == 6 * 4 * 2 + 12 * 2 * 3


def test_frozen_predictions_stay_frozen(base: ResolvedBase) -> None:
    pipeline = sd.load_pipeline(base, "cpu")
    embeds = sd.encode_prompt(pipeline, "Van Gogh")
    student = Student(pipeline.unet, Recipe(**SETTINGS, subset=ParameterSubset.ESD_U), embeds)
    x, t = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor(500)
    frozen = student.predict_frozen(x, t, embeds)
    points = Points(x, t.expand(1), frozen, torch.zeros_like(frozen))
    student.step(points)
    assert not torch.equal(student.predict(x, t, embeds).detach(), frozen)
    assert torch.equal(student.predict_frozen(x, t, embeds), frozen)


def test_a_loss_that_is_not_finite_stops_with_a_remedy(
    base: ResolvedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(base, subset="esd-x")
    target = Student.target
    monkeypatch.setattr(Student, "target", lambda *args: target(*args) * float("inf"))
    with pytest.raises(ErasureFailed, match="lower learning_rate"):
        run(job, base, tmp_path)
    assert not (tmp_path / "weights.safetensors").exists()


def test_erasing_from_a_text_differs(base: ResolvedBase, tmp_path: Path) -> None:
    plain = run(make_job(base, subset="esd-x"), base, tmp_path / "plain")
    source = run(make_job(base, erase_from="house", subset="esd-x"), base, tmp_path / "from")
    assert plain.weights_digest != source.weights_digest


def test_weights_load_with_plain_diffusers_and_strictly_here(base: ResolvedBase, tmp_path: Path) -> None:
    outcome = run(make_job(base, subset="esd-x"), base, tmp_path)
    plain, strict = sd.load_pipeline(base, "cpu").unet, sd.load_pipeline(base, "cpu").unet
    result = plain.load_state_dict(load_file(outcome.weights), strict=False)
    assert not result.unexpected_keys
    apply_weights(strict, read_weights(outcome.weights), base.digest)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), strict.parameters(), strict=True))


def test_what_does_not_fit_is_refused(base: ResolvedBase, tmp_path: Path) -> None:
    weights = read_weights(run(make_job(base, subset="esd-x"), base, tmp_path).weights)
    unet = sd.load_pipeline(base, "cpu").unet
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
