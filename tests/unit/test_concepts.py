"""Concept lists: what people write, and what follows from it."""

from pathlib import Path

import pytest

from esd_core.concepts import Concept, ConceptEntry, ConceptKind, ErasureJob
from esd_core.errors import InvalidInput
from esd_core.list_file import load_concept_list
from esd_core.recipe import ParameterSubset

LISTS = Path(__file__).parents[2] / "infra" / "lists"


def written(folder: Path, text: str) -> Path:
    path = folder / "list.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("kind", "subset"),
    [("style", ParameterSubset.ESD_X), ("object", ParameterSubset.ESD_U), ("global", ParameterSubset.ESD_U)],
)
def test_the_kind_picks_the_papers_subset(kind: str, subset: ParameterSubset) -> None:
    assert ConceptEntry(name="thing", kind=ConceptKind(kind)).erasure.recipe.subset is subset


def test_a_rows_own_settings_win_over_the_defaults() -> None:
    row = ConceptEntry(name="sun", kind=ConceptKind.GLOBAL, subset=ParameterSubset.ESD_ALL, iterations=7)
    assert (row.erasure.recipe.subset, row.erasure.recipe.iterations) == (ParameterSubset.ESD_ALL, 7)


def test_a_comparison_is_no_part_of_the_erasure() -> None:
    plain = ConceptEntry(name="sun", kind=ConceptKind.GLOBAL)
    compared = plain.model_copy(update={"compare_with": ParameterSubset.ESD_X})
    assert compared.erasure == plain.erasure


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("concepts: []", "concepts: Tuple should have at least 1 item"),
        ("concepts: [{name: a, kind: painting}]", "concepts.0.kind: Input should be 'style', 'object' or 'global'"),
        ("concepts: [{name: a, kind: style}, {name: A, kind: object}]", "'A' is listed before, on line 1"),
        ("concepts: [{name: a, kind: style, itrations: 5}]", "concepts.0.itrations: Extra inputs are not permitted"),
        ("concepts: [{name: a, kind: style, iterations: 0}]", "greater than or equal to 1 (given: 0)"),
        ("concepts: [{name: ' ', kind: style}]", "must be printable text that is not blank"),
        ("- a\n- b", "is not a concept list"),
        ("concepts: [", "is not YAML"),
    ],
)
def test_a_bad_list_is_refused_in_one_line_that_names_the_field(tmp_path: Path, text: str, fault: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        load_concept_list(written(tmp_path, text))
    assert fault in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_every_fault_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"concepts\.0\.kind.*concepts\.0\.seed"):
        load_concept_list(written(tmp_path, "concepts: [{name: a, kind: b, seed: -1}]"))


def test_a_missing_list_says_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="it is not there"):
        load_concept_list(tmp_path / "none.yaml")


def test_distinct_names_have_distinct_slugs() -> None:
    names = ["Van Gogh", "van-gogh", "VAN GOGH!", "Vän Gogh", "梵高", "高梵"]
    slugs = {Concept(name=name, kind=ConceptKind.STYLE).slug for name in names}
    assert len(slugs) == len(names)
    assert "van-gogh" in slugs


@pytest.mark.parametrize(("setting", "value"), [("precision", "bfloat16"), ("updates", "in-place")])
def test_concepts_that_cannot_share_a_model_are_refused_with_what_to_do(setting: str, value: str) -> None:
    first = ConceptEntry(name="sun", kind=ConceptKind.GLOBAL)
    other = ConceptEntry.model_validate({"name": "house", "kind": "object", setting: value})
    job = {"base": "miniature", "base_digest": "b" * 64}
    with pytest.raises(InvalidInput) as refusal:
        ErasureJob(**job, erasures=(first.erasure, other.erasure))
    assert f"{value} for 'house': give them all the same {setting}" in str(refusal.value)
    assert "\n" not in str(refusal.value)
    same = first.model_copy(update={setting: getattr(other, setting)})
    assert ErasureJob(**job, erasures=(same.erasure, other.erasure)).name == "sun + house"
