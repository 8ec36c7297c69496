"""The cost benchmark on a tiny base: counts known by hand, and steps made of pieces as the engine makes them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from benchmarks.cost import Measured, engine_step, plain_step
from benchmarks.cost_workers import Engine, Meter, Piece, Plain, Subject, Sum, bank_piece
from esd_core.recipe import ParameterSubset, Precision


def test_attention_and_its_gradient_are_counted_on_a_cpu() -> None:
    query, key, value = (torch.randn(1, 2, length, 8, requires_grad=True) for length in (16, 12, 12))
    meter = Meter(counting=True)
    with meter.measure("forward"):
        attended = F.scaled_dot_product_attention(query, key, value)
    with meter.measure("backward"):
        attended.sum().backward()
    product = 2 * 2 * 16 * 12 * 8  # multiplications and additions of two heads
    assert meter.flops["forward"] == Sum(2 * product, 1)
    assert meter.flops["backward"] == Sum(5 * product, 1)  # scores again, and four gradients


@pytest.fixture(scope="module")
def subject(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return Subject(
        base=str(tiny_base),
        precision=Precision.FLOAT32,
        subset=ParameterSubset.ESD_X,
        scratch=tmp_path_factory.mktemp("cost"),
        iterations=0,
        rollout_steps=4,
        banks=(2,),
        points=4,
        steps=1,
    )


def test_both_sides_evaluate_the_same_model_and_the_engine_skips_gradients(subject: Subject) -> None:
    plain, engine = Meter(counting=True), Meter(counting=True)
    Plain(subject).round(plain)
    Engine(subject).round(engine)
    forward = plain.flops[Piece.EVALUATION].mean
    assert engine.flops[bank_piece(2)].mean == forward
    assert engine.flops[bank_piece(2)].count == 2 * 2 * 4  # with and without the concept, two rollouts of four steps
    assert plain.flops[Piece.TEACHER].mean == 2 * forward
    assert plain.flops[Piece.LEARN].mean > 2.9 * forward
    assert forward < engine.flops[Piece.LEARN].mean < 0.8 * plain.flops[Piece.LEARN].mean


def test_a_step_is_made_of_its_pieces() -> None:
    plain = Measured(
        cpu={Piece.ITERATION: Sum(300.0, 5)},
        flops={Piece.EVALUATION: Sum(2.0, 2), Piece.TEACHER: Sum(2.0, 1), Piece.LEARN: Sum(3.0, 1)},
    )
    assert plain_step(plain).flops == 49 + 2 + 3
    assert plain_step(plain).cpu == 60
    engine = Measured(
        cpu={
            bank_piece(2): Sum(1.0, 1),
            bank_piece(4): Sum(1.5, 1),
            Piece.LEARN: Sum(2.0, 1),
            Piece.CHECKPOINT: Sum(0, 1),
        },
        flops={bank_piece(2): Sum(10.0, 10), Piece.LEARN: Sum(2.1, 1)},
    )
    assert engine_step(engine, points=50, reuse=1).flops == pytest.approx(2 + 2.1)
    assert engine_step(engine, points=50, reuse=1).cpu == pytest.approx(2 * 1.5 + 2)  # four rollouts for 200 steps
    assert engine_step(engine, points=50, reuse=2).cpu == pytest.approx(1 * 1.0 + 2)
