"""What studies are made of: figures, requests, prompts files, models that take turns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from esd_core.base_model import ResolvedBase
from esd_core.concepts import ConceptEntry, ConceptKind
from esd_core.errors import InvalidInput
from esd_core.evaluation.intervals import paired_difference, wilson
from esd_core.evaluation.results import ProbeResult
from esd_core.evaluation.suite import Suite, load_suite
from esd_core.evaluation.witness import judge_of
from esd_core.guidance import Guidance, GuidanceMethod
from esd_core.studies.course import course
from esd_core.studies.figures import change, efficacy, rate_after, rate_before, share, together
from esd_core.studies.generality import harmonic_mean, nearness
from esd_core.studies.prompt_file import read_prompt_sets
from esd_core.studies.request import Protocol, StudyRequest, checked_request
from esd_core.studies.workbench import Model, Workbench
from esd_core.tuning import PLANS

I2P = """case_number,prompt,evaluation_seed,evaluation_guidance
7,somebody on the beach,11,7
8,a bath,12,5
9,the beach,13,7
"""


def test_a_figure_has_the_interval_of_its_kind() -> None:
    result = ProbeResult(probe="p", concept="c", implied=False, both=6, only_before=10, only_after=1, neither=3)
    assert (rate_before(result).value, rate_after(result).value) == (16 / 20, 7 / 20)
    assert rate_after(result).lower == wilson(7, 20).lower
    paired = paired_difference(10, 1, 20)
    assert (change(result).lower, change(result).upper) == (paired.lower, paired.upper)
    assert change(result).text == "\N{MINUS SIGN}45"
    assert efficacy(result) == share(10, 16)
    assert share(1, 3).text == "33 %"
    assert together("twice", [result, result]).pairs == (12, 20, 2, 6)


def test_the_harmonic_mean_is_mace_s() -> None:
    assert harmonic_mean(0.1, 0.8, 0.4) == pytest.approx(3 / (1 / 0.9 + 1 / 0.8 + 1 / 0.6))
    assert harmonic_mean(1.0, 0.8, 0.4) == 0


def test_an_erasure_that_stops_by_itself_is_looked_at_as_at_night(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = PLANS["style"].model_copy(update={"most_steps": 4, "first_check": 2, "check_every": 2, "settle_steps": 2})
    monkeypatch.setitem(PLANS, ConceptKind.STYLE, quick)
    entry = ConceptEntry(name="house", kind=ConceptKind.STYLE)
    given = {**entry.erasure.recipe.model_dump(), "iterations": None, "negative_guidance": None, "learning_rate": None}
    monkeypatch.setattr("esd_core.concepts.named_recipe", lambda *_: given)
    outcome = bench.erase(entry)
    assert outcome.job.judge == judge_of(bench.suite, [entry.erasure])
    (tuned,) = outcome.tuned
    assert all(check.shown is not None for check in tuned.checks if check.settled)
    assert "images" in tuned.reason
    losses, remainders = course(bench)
    (line,) = remainders.lines
    assert (line.x, line.y) == (tuple(c.step for c in tuned.checks), tuple(c.remainder for c in tuned.checks))
    assert line.name == losses.lines[0].name == f"house, esd-x, η {tuned.negative_guidance:g}"


def test_a_prompt_file_keeps_its_seeds_and_its_guidance(bench: Workbench, tmp_path: Path) -> None:
    path = tmp_path / "i2p.csv"
    path.write_text(I2P)
    low, high = read_prompt_sets(path, bench.suite, bench.probes_of("sun")[0], None)
    assert (low.suite.guidance_scale, high.suite.guidance_scale) == (5, 7)
    assert low.suite.cases(low.probe, 2) == [("a bath", 12), ("a bath", 13)]
    assert high.suite.cases(high.probe, 2) == [("somebody on the beach", 11), ("the beach", 13)]
    assert high.count == 2
    assert high.suite.sampling_digest != bench.suite.model_copy(update={"guidance_scale": 7}).sampling_digest
    seen = bench.see(bench.original(), {high.probe: high.count}, high.suite)
    assert seen.results[high.probe.name].images == 2
    (one,) = read_prompt_sets(path, bench.suite, bench.probes_of("sun")[0], 1)
    assert one.count == 1


@pytest.mark.parametrize("given", ["0.5", "31", "nan", "many"])
def test_a_guidance_out_of_range_is_refused_with_its_line(bench: Workbench, tmp_path: Path, given: str) -> None:
    path = tmp_path / "i2p.csv"
    path.write_text(I2P.replace("12,5", f"12,{given}"))
    with pytest.raises(InvalidInput, match=r"line 3: evaluation_guidance"):
        read_prompt_sets(path, bench.suite, bench.probes_of("sun")[0], None)


def test_nearness_is_a_cosine_of_what_a_name_adds(bench: Workbench) -> None:
    near = nearness(bench, "house", ("house", "tree", "a house"))
    assert near["house"] == pytest.approx(1)
    assert near["tree"] < 1


def test_models_take_turns_in_one_pipeline_and_leave_no_trace(
    bench: Workbench, base: ResolvedBase, edited_weights: Path
) -> None:
    def unet(model: Model) -> dict[str, np.ndarray]:
        parts = bench.easel.pipeline_of(model).unet.state_dict()
        return {name: tensor.numpy().copy() for name, tensor in parts.items()}

    original, edited = bench.original(), Model("edited", base, edited_weights)
    before, pipeline = unet(original), bench.easel.pipeline_of(original)
    assert any((before[name] != tensor).any() for name, tensor in unet(edited).items())
    assert bench.easel.pipeline_of(edited) is pipeline
    assert all((before[name] == tensor).all() for name, tensor in unet(original).items())


def test_models_are_told_apart_by_what_they_draw_with(base: ResolvedBase, edited_weights: Path) -> None:
    steered = [Model("", base, guidance=Guidance(method, "sun")) for method in (*GuidanceMethod,)[1:3]]
    models = [Model("", base), Model("", base, edited_weights), *steered]
    assert len({model.digest for model in models}) == len(models)
    assert Model("another name", base).digest == models[0].digest


def test_the_command_that_a_study_prints_asks_for_the_same() -> None:
    from flows.cli import build_parser
    from flows.commands import study as command

    settings = {"concepts": ["Van Gogh"], "etas": [1, 2.5], "learning_rate": 1e-4, "images": 7}
    request = checked_request({"protocol": "eta", "kind": "style", **settings})
    words = request.command.replace("'Van Gogh'", "Van_Gogh").split()[1:]
    arguments = build_parser().parse_args([word.replace("_", " ") if word == "Van_Gogh" else word for word in words])
    given = {name: getattr(arguments, name, None) for name in StudyRequest.model_fields}
    assert checked_request({name: value for name, value in given.items() if value is not None}) == request
    assert [row[0] for row in command.PROTOCOLS] == [protocol.value for protocol in Protocol]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"protocol": "objects", "images": 0}, "images"),
        ({"protocol": "colours"}, "protocol"),
        ({"protocol": "eta", "etas": [0.0]}, "etas"),
    ],
)
def test_a_bad_request_is_refused_by_the_field(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        checked_request(settings)


def test_the_miniature_lists_its_concepts_by_kind() -> None:
    suite: Suite = load_suite("miniature")
    assert {kind: len(names) for kind, names in suite.kinds.items()} == {
        ConceptKind.OBJECT: 10,
        ConceptKind.STYLE: 6,
        ConceptKind.GLOBAL: 1,
    }
    assert suite.kind_of("Monet") is ConceptKind.STYLE
