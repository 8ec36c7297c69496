"""What a study refuses, it refuses before anything is erased or drawn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from esd_core.concepts import Concept, ConceptKind, Erasure, ErasureJob
from esd_core.errors import EsdError, InvalidInput
from esd_core.recipe import ParameterSubset, Recipe
from esd_core.studies.request import OF_ALL, OWN_SETTINGS, Protocol, StudyRequest, checked_request
from esd_core.studies.study import Study
from esd_core.studies.writing import check_folder
from esd_core.weights import Provenance, read_weights, save_weights
from flows.commands.study import OPTIONS, PROTOCOLS

Studying = Callable[..., tuple[Study, Path]]


@pytest.fixture(autouse=True)
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: Any, **__: Any) -> None:
        raise AssertionError("erased or drawn first")

    monkeypatch.setattr("esd_core.studies.workbench.erase", forbidden)
    monkeypatch.setattr("esd_core.evaluation.artist.generate", forbidden)


@pytest.fixture
def of_another_base(edited_weights: Path, tmp_path: Path) -> Path:
    concept = Concept(name="house", kind=ConceptKind.OBJECT)
    erasure = Erasure(concept=concept, recipe=Recipe(subset=ParameterSubset.ESD_X))
    job = ErasureJob(base="another", base_digest="0" * 64, erasures=(erasure,))
    save_weights(tmp_path / "foreign.safetensors", read_weights(edited_weights).tensors, Provenance.of(job))
    return tmp_path / "foreign.safetensors"


@pytest.mark.parametrize(
    ("protocol", "settings", "said"),
    [
        ("generality", {"concepts": ["house"], "neighbours": ["castle"]}, "'castle'.*it has tree, sun"),
        ("generality", {"concepts": ["house"], "neighbours": ["house"]}, "'house' is no neighbour"),
        ("baselines", {"concepts": ["sun"], "against": "nowhere.safetensors"}, "no weights file"),
        ("baselines", {"concepts": ["boat"], "kind": "object"}, "no probe of the suite measures 'boat'"),
        ("implied", {"prompts": "nowhere.csv"}, "cannot read prompts file"),
        ("eta", {"concepts": ["house", "tree"]}, "one concept"),
        ("implied", {"concepts": ["house"]}, "--prompts"),
        ("objects", {"concepts": ["house", "boat"]}, "no probe of the suite measures 'boat'"),
    ],
)
def test_what_cannot_be_measured(study: Studying, protocol: str, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(EsdError, match=said):
        study(protocol, **settings)


def test_a_rival_that_edits_another_base(study: Studying, of_another_base: Path) -> None:
    with pytest.raises(EsdError, match="these weights edit 'another'"):
        study("baselines", concepts=["sun"], against=str(of_another_base))


@pytest.mark.parametrize("field", ["prompts", "real"])
def test_what_quality_is_to_read(study: Studying, suite_file: Path, tmp_path: Path, field: str) -> None:
    raw = {**yaml.safe_load(suite_file.read_text()), "quality": {"features": "object"}}
    measuring = suite_file.parent / "measuring.yaml"
    measuring.write_text(yaml.safe_dump(raw))
    with pytest.raises(InvalidInput, match=r"cannot read prompts file|holds 0 images"):
        study("quality", suite=str(measuring), concepts=["house"], **{field: str(tmp_path / "nowhere")})


@pytest.mark.parametrize("protocol", ["baselines", "eta", "generality"])
def test_a_suite_that_measures_only_the_concept(study: Studying, suite_file: Path, protocol: str) -> None:
    raw = yaml.safe_load(suite_file.read_text())
    alone = suite_file.parent / "alone.yaml"
    alone.write_text(yaml.safe_dump({**raw, "probes": raw["probes"][2:], "kinds": {"global": ["sun"]}}))
    with pytest.raises(InvalidInput, match="add probes of what must stay"):
        study(protocol, suite=str(alone), concepts=["sun"])


@pytest.mark.parametrize(
    ("settings", "unread"),
    [
        ({"protocol": "styles", "kind": "object"}, "kind"),
        ({"protocol": "implied", "others": 3}, "others"),
        ({"protocol": "objects", "prompts": "i2p.csv", "etas": [2.0]}, "etas, prompts"),
        ({"protocol": "eta", "against": "x.safetensors"}, "against"),
    ],
)
def test_a_setting_that_would_change_nothing(settings: dict[str, Any], unread: str) -> None:
    with pytest.raises(InvalidInput, match=f"does not read {unread}: leave them out"):
        checked_request(settings)


def test_the_command_offers_each_protocol_what_it_reads() -> None:
    offered = {Protocol(name): {OPTIONS[option][0] for option in options} for name, _, options, _ in PROTOCOLS}
    assert offered == OWN_SETTINGS
    assert OF_ALL.union(*OWN_SETTINGS.values()) == set(StudyRequest.model_fields)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for out in (file, file / "below"):
        with pytest.raises(InvalidInput, match="is a file: give a folder"):
            check_folder(out)
    check_folder(tmp_path / "not" / "yet" / "there")
    assert not (tmp_path / "not").exists()
