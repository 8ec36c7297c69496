"""Killed anywhere, any number of times: the same bits in the end, and never from wrong ones."""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import safe_open

from esd_core.base_model import ResolvedBase, resolve_base
from esd_core.checkpoint import CHECKPOINT, Checkpoint, Progress
from esd_core.concepts import ConceptKind, ErasureJob
from esd_core.machine import Machine
from esd_core.recipe import ParameterSubset
from esd_core.student import Batch, Student
from esd_core.tensor_file import SEAL, in_memory, is_sealed, stored_tensors, write_sealed
from esd_core.training import Training
from esd_core.tuning import PLANS
from tests.tiny_erasure import erasure_of, job_of, run, run_killed

OPEN: dict[str, Any] = {"negative_guidance": None, "iterations": None, "learning_rate": None}
STUDENT: dict[str, Any] = {"rollout_from": "student", "reuse": 2}
QUICK: dict[str, Any] = {"most_steps": 8, "first_check": 2, "check_every": 2, "settle_steps": 2, "stage_steps": 2}
MODES: dict[str, list[dict[str, Any]]] = {
    "bank, tuned": [{**OPEN, "also_known_as": ("Vincent",)}],
    "student, tuned": [{**OPEN, **STUDENT, "keep": "empty-and-words"}],
    "bank, joint": [{"iterations": 6, "retain": ("a tree",)}, {"subset": "esd-u", "iterations": 3, "batch_size": 1}],
    "student, joint, tuned": [{**OPEN, **STUDENT}, {**OPEN, **STUDENT}],
    "bank and student, joint": [{"iterations": 5}, {**STUDENT, "iterations": 5, "retain": ("a tree",)}],
}


@pytest.fixture(autouse=True)
def every_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """None is left out for the time that it takes."""
    monkeypatch.setattr("esd_core.training.SPARING", 0.0)


@pytest.fixture
def quick_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """A style is looked at soon, raised soon, and given up soon."""
    monkeypatch.setitem(PLANS, ConceptKind.STYLE, PLANS["style"].model_copy(update=QUICK))


def job_in(mode: str, base: ResolvedBase) -> ErasureJob:
    names = ("Van Gogh", "sun")
    erasures = [erasure_of(n, **{"subset": "esd-x", **s}) for n, s in zip(names, MODES[mode], strict=False)]
    return job_of(base, *erasures)


def steps_in(folder: Path) -> int:
    with safe_open(folder / CHECKPOINT, framework="pt") as f:
        return len(json.loads(f.metadata()["progress"])["losses"])


@pytest.mark.usefixtures("quick_plan")
@pytest.mark.parametrize("mode", list(MODES))
def test_killed_at_random_steps_it_ends_with_the_same_bits(mode: str, base: ResolvedBase, tmp_path: Path) -> None:
    job = job_in(mode, base)
    whole = run(job, base, tmp_path / "whole")
    total = len(whole.history.read_text().splitlines())
    drawn = random.Random(mode)
    for _ in range(2):
        run_killed(job, base, tmp_path / "killed", drawn.randint(1, total // 2 - 1))
    resumed = run(job, base, tmp_path / "killed")
    assert resumed.weights_digest == whole.weights_digest
    assert resumed.history.read_text() == whole.history.read_text()
    assert resumed.tuned == whole.tuned


def die_in_step(step: int, mode: str, base_folder: str, folder: str) -> None:
    """SIGKILL of this very process, in the middle of an optimizer step."""
    gradients, steps = Student.gradients, iter(range(1, step))

    def last(self: Student, batch: Batch, subset: ParameterSubset) -> float:
        if next(steps, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return gradients(self, batch, subset)

    base = resolve_base(base_folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Student, "gradients", last)
        patch.setattr("esd_core.training.SPARING", 0.0)
        run(job_in(mode, base), base, Path(folder))


def test_a_real_sigkill_leaves_nothing_half_written(tiny_base: Path, tmp_path: Path) -> None:
    mode, base = "bank and student, joint", resolve_base(str(tiny_base))
    arguments = (6, mode, base.id, str(tmp_path / "killed"))
    code = f"from tests.unit.test_checkpoint import die_in_step; die_in_step{arguments!r}"
    killed = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert steps_in(tmp_path / "killed") == 5
    job = job_in(mode, base)
    resumed = run(job, base, tmp_path / "killed")
    assert resumed.weights_digest == run(job, base, tmp_path / "whole").weights_digest


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_bit(place: float, path: Path) -> None:
    """place: from 0, the first byte, to 1, the last."""
    data = bytearray(path.read_bytes())
    data[round(place * (len(data) - 1))] ^= 1
    path.write_bytes(data)


def seal_another(prefix: str, change: Callable[[torch.Tensor], torch.Tensor | None], path: Path) -> None:
    """As another version may have written it: whole, but one of its tensors is other."""
    with safe_open(path, framework="pt") as f:
        about = f.metadata()
    tensors = {name: tensor.read() for name, tensor in stored_tensors(path).items()}
    name = max(name for name in tensors if name.startswith(prefix))
    del tensors[SEAL]
    changed = change(tensors.pop(name))
    others = tensors if changed is None else {**tensors, name: changed}
    write_sealed(path, {name: in_memory(tensor) for name, tensor in others.items()}, about)
    assert is_sealed(path)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "cut short": cut_short,
    "empty": lambda path: os.truncate(path, 0),
    "its first bit": partial(flip_a_bit, 0.0),
    "a bit of a tensor": partial(flip_a_bit, 0.7),
    "its last bit": partial(flip_a_bit, 1.0),
    "no points of the last lesson": partial(seal_another, "points/2/latents", lambda _: None),
    "a weight missing": partial(seal_another, "weights/", lambda _: None),
    "a weight of another shape": partial(seal_another, "weights/", lambda weight: weight.flatten()[:1]),
}


def bits(training: Training) -> dict[str, torch.Tensor]:
    """All that a checkpoint holds."""
    points = {name: tensor for source in training.sources for name, tensor in source.state().items()}
    return points | {name: tensor.read().clone() for name, tensor in training.student.state().items()}


def test_a_damaged_checkpoint_is_named_and_leaves_everything_untouched(
    base: ResolvedBase, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = job_in("bank and student, joint", base)
    run_killed(job, base, tmp_path, 7)
    training = Training(job, base, tmp_path, tmp_path, Machine(device="cpu"), progress=False)
    before = bits(training)
    for number, (damage, inflict) in enumerate(DAMAGES.items()):
        path = tmp_path / f"{number}.safetensors"
        path.write_bytes(training.checkpoint.path.read_bytes())
        inflict(path)
        with caplog.at_level(logging.WARNING):
            assert replace(training.checkpoint, path=path).restore() is None, damage
        assert f"checkpoint {path} is damaged" in caplog.text
        after = bits(training)
        assert after.keys() == before.keys(), damage
        assert all(torch.equal(after[name], tensor) for name, tensor in before.items()), damage
    progress = training.checkpoint.restore()
    assert progress is not None
    assert len(progress.losses) == 7
    assert bits(training).keys() > before.keys()


def test_after_a_damaged_checkpoint_it_ends_with_the_same_bits(base: ResolvedBase, tmp_path: Path) -> None:
    job = job_in("bank and student, joint", base)
    run_killed(job, base, tmp_path / "killed", 7)
    DAMAGES["no points of the last lesson"](tmp_path / "killed" / CHECKPOINT)
    resumed = run(job, base, tmp_path / "killed")
    assert resumed.weights_digest == run(job, base, tmp_path / "whole").weights_digest


def test_checkpoints_take_a_small_part_of_the_time(
    base: ResolvedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where writing is slow there is the first one, and none until ten times as long has passed."""
    now, written = [0.0], []

    def slow(_: Checkpoint, progress: Progress) -> None:
        written.append(len(progress.losses))
        now[0] += 1.0

    def step(self: Training, state: Progress, part: int) -> None:
        now[0] += 0.5
        steps(self, state, part)

    steps = Training._step
    monkeypatch.setattr("esd_core.training.SPARING", 10.0)
    monkeypatch.setattr(Checkpoint, "write", slow)
    monkeypatch.setattr(Training, "_step", step)
    monkeypatch.setattr("esd_core.training.time", SimpleNamespace(monotonic=lambda: now[0]))
    run(job_of(base, erasure_of("sun", subset="esd-x", iterations=50)), base, tmp_path)
    assert written == [5, 25, 45]
