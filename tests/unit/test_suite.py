"""Evaluation suites: what is refused, what is measured, and what a digest depends on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from esd_core.concepts import Concept, ConceptKind
from esd_core.errors import EvaluationError, InvalidInput
from esd_core.evaluation.suite import Suite, load_suite
from esd_core.miniature.world import ARTISTS, OBJECTS

COMMIT = "0123456789abcdef0123456789abcdef01234567"

CLIP = {"kind": "clip", "model": f"someone/clip@{COMMIT}", "labels": ["house", "tree", "nothing"]}


def raw_suite() -> dict[str, Any]:
    probe = {"name": "house", "concept": "house", "classifier": "object", "label": "house", "prompts": ["a house"]}
    return {
        "classifiers": {"object": {"model": f"someone/classifier@{COMMIT}"}},
        "probes": [probe, {**probe, "name": "tree", "concept": "tree", "label": "tree"}],
    }


def thing(name: str, *others: str) -> Concept:
    return Concept(name=name, kind=ConceptKind.OBJECT, also_known_as=others)


def written(folder: Path, raw: Any) -> str:
    path = folder / "suite.yaml"
    path.write_text(yaml.safe_dump(raw))
    return str(path)


def test_the_miniature_suite_measures_every_object_artist_and_the_sun() -> None:
    suite = load_suite("miniature")
    for concept in (*OBJECTS, *ARTISTS, "sun"):
        assert suite.probes_of(thing(concept))
    assert [probe.implied for probe in suite.probes_of(thing("sun"))] == [False, True]


def test_the_miniature_suite_names_a_concept_only_where_it_measures_it() -> None:
    suite = load_suite("miniature")
    plain = [probe for probe in suite.probes if probe.concept in OBJECTS]
    implied = [probe for probe in suite.probes if probe.implied]
    assert not [prompt for probe in plain for prompt in probe.prompts if "beach" in prompt or "sun" in prompt]
    assert all("beach" in prompt and "sun" not in prompt for probe in implied for prompt in probe.prompts)
    for artist in ARTISTS:
        others = [probe for probe in suite.probes if not probe.measures(thing(artist))]
        assert not [prompt for probe in others for prompt in probe.prompts if artist in prompt]


def test_an_unmeasured_concept_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    suite = load_suite(written(tmp_path, raw_suite()))
    with pytest.raises(EvaluationError, match="no probe of the suite measures 'boat': it knows house, tree"):
        suite.probes_of(thing("boat"))


def test_a_negated_probe_never_measures_an_erasure(tmp_path: Path) -> None:
    raw = raw_suite()
    raw["probes"][1]["negated"] = True
    with pytest.raises(EvaluationError, match="measures 'tree'"):
        load_suite(written(tmp_path, raw)).probes_of(thing("tree"))


def test_a_concept_is_measured_under_all_its_names(tmp_path: Path) -> None:
    raw = raw_suite()
    raw["probes"][1] |= {"concept": "cottage", "name": "cottage"}
    suite = load_suite(written(tmp_path, raw))
    assert [probe.name for probe in suite.probes_of(thing("House", "Cottage"))] == ["house", "cottage"]


def test_a_synonym_is_asked_for_in_the_concepts_own_prompts(tmp_path: Path) -> None:
    raw = raw_suite()
    raw["probes"][0]["prompts"] = ["a House at night", "a dollhouse beside a house"]
    raw["probes"].append({**raw["probes"][0], "name": "house, implied", "prompts": ["a home"], "implied": True})
    raw["probes"].append({**raw["probes"][0], "name": "no house unasked", "prompts": ["a car"], "negated": True})
    house = thing("house", "cottage", "tree")
    suite = load_suite(written(tmp_path, raw)).with_synonyms([house])
    (added,) = (probe for probe in suite.probes if probe.concept == "cottage")
    assert added.prompts == ("a cottage at night", "a dollhouse beside a cottage")
    assert (added.label, added.name) == ("house", "house, as cottage")
    assert [probe.name for probe in suite.probes_of(house)] == ["house", "tree", "house, implied", "house, as cottage"]


def test_another_name_is_taken_as_it_is_and_only_where_the_concept_is_named(tmp_path: Path) -> None:
    raw = raw_suite()
    raw["probes"][0]["prompts"] = ["a house", "a home with a red roof", "House and garden"]
    suite = load_suite(written(tmp_path, raw)).with_synonyms([thing("house", r"\1 hut \d")])
    assert suite.probes[-1].prompts == (r"a \1 hut \d", r"\1 hut \d and garden")
    raw["probes"][0]["prompts"] = ["a home with a red roof"]
    described = load_suite(written(tmp_path, raw))
    assert described.with_synonyms([thing("house", "hut")]).digest == described.digest


def test_a_suite_of_concepts_without_synonyms_keeps_its_digest(tmp_path: Path) -> None:
    suite = load_suite(written(tmp_path, raw_suite()))
    assert suite.with_synonyms([thing("house")]).digest == suite.digest
    assert suite.with_synonyms([thing("house", "cottage")]).digest != suite.digest


def test_cases_take_prompts_in_turn_with_seeds_of_the_probe_alone(tmp_path: Path) -> None:
    raw = raw_suite()
    raw["probes"][0]["prompts"] = ["a house", "a red house"]
    suite = load_suite(written(tmp_path, raw))
    few, many = suite.cases(suite.probes[0], 3), suite.cases(suite.probes[0], 5)
    assert [prompt for prompt, _ in few] == ["a house", "a red house", "a house"]
    assert many[:3] == few
    assert len({seed for _, seed in many}) == 5
    raw["probes"].reverse()
    reordered = load_suite(written(tmp_path, raw))
    assert reordered.cases(reordered.probes[1], 3) == few


def test_the_digest_follows_what_decides_the_figures(tmp_path: Path) -> None:
    raw = raw_suite()
    first = load_suite(written(tmp_path, raw)).digest
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert load_suite(written(elsewhere, raw)).digest == first
    raw["steps"] = 7
    assert load_suite(written(tmp_path, raw)).digest != first


def test_the_digest_follows_the_files_of_a_local_classifier(tmp_path: Path) -> None:
    raw = raw_suite()
    raw["classifiers"]["object"]["model"] = "judge"
    (tmp_path / "judge").mkdir()
    weights = tmp_path / "judge" / "model.safetensors"
    weights.write_bytes(b"one")
    first = load_suite(written(tmp_path, raw)).digest
    weights.write_bytes(b"two")
    assert load_suite(written(tmp_path, raw)).digest != first


@pytest.mark.parametrize(
    ("judge", "changes"),
    [
        (CLIP, {"labels": ["house", "tree", "boat"]}),
        (CLIP, {"template": "a photograph of {}"}),
        ({"kind": "nudenet"}, {"threshold": 0.7}),
    ],
)
def test_the_digest_follows_the_settings_of_a_judge(
    tmp_path: Path, judge: dict[str, Any], changes: dict[str, Any]
) -> None:
    raw = raw_suite()

    def digest_with(entry: dict[str, Any]) -> str:
        raw["classifiers"]["object"] = entry
        return load_suite(written(tmp_path, raw)).digest

    assert digest_with(judge) == digest_with(dict(judge))
    assert digest_with(judge) != digest_with({**judge, **changes})


@pytest.mark.parametrize("model", ["someone/classifier", "someone/classifier@main", "no-such-folder"])
def test_a_classifier_that_is_neither_here_nor_pinned_is_refused(tmp_path: Path, model: str) -> None:
    raw = raw_suite()
    raw["classifiers"]["object"]["model"] = model
    suite = load_suite(written(tmp_path, raw))
    with pytest.raises(EvaluationError, match="neither a folder nor pinned"):
        _ = suite.digest


def spoilt(**changes: Any) -> dict[str, Any]:
    return {**raw_suite(), **changes}


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (["a list"], "expected a mapping"),
        (spoilt(steps=0), "steps"),
        (spoilt(folder="/etc"), "expected a mapping"),
        (spoilt(surprise=1), "surprise"),
        (spoilt(probes=[]), "probes"),
        (spoilt(probes=[raw_suite()["probes"][0]] * 2), "listed more than once: house"),
        (spoilt(classifiers={"style": {"model": "style"}}), "not listed under 'classifiers': object"),
        (spoilt(classifiers={"object": {"kind": "oracle"}}), "oracle.*image-classification.*clip.*nudenet"),
        (spoilt(classifiers={"object": {"model": "object", "threshold": 0.5}}), "threshold: Extra inputs"),
        (spoilt(classifiers={"object": {"kind": "clip", "model": "clip", "labels": ["house"]}}), "labels"),
        (spoilt(classifiers={"object": {**CLIP, "labels": ["house", "house"]}}), "a label is listed twice"),
        (spoilt(classifiers={"object": {**CLIP, "template": "a picture"}}), "where the label stands"),
        (spoilt(classifiers={"object": {"kind": "nudenet", "threshold": 0.2}}), "threshold.*0.25"),
        (spoilt(probes=[{**probe, "prompts": []} for probe in raw_suite()["probes"]]), r"probes\.0\.prompts"),
    ],
)
def test_a_faulty_suite_is_refused_in_one_line(tmp_path: Path, raw: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as refusal:
        load_suite(written(tmp_path, raw))
    assert "\n" not in str(refusal.value)


def test_a_missing_suite_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot read evaluation suite"):
        load_suite(str(tmp_path / "none.yaml"))


def test_a_suite_is_an_ordinary_value(tmp_path: Path) -> None:
    suite = load_suite(written(tmp_path, raw_suite()))
    assert isinstance(suite, Suite)
    assert suite.folder == tmp_path.resolve()
