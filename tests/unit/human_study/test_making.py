"""From folders of images to a study: what is shown to whom, and what is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from esd_core.errors import EsdError, InvalidInput
from infra.human_study.definition import read_definition
from infra.human_study.make import make_study
from infra.human_study.study import ORIGINAL, REAL, SIMILAR, Question, read_study
from tests.painted_study import (
    DRAWN,
    ERASED,
    OTHER,
    REFERENCES,
    SIMILAR_WORKS,
    TRIALS,
    WORKS,
    write_study,
)


def test_every_image_is_asked_about_under_its_question(folder: Path) -> None:
    study = read_study(folder)
    assert len(study.trials) == TRIALS
    assert Counter((trial.question, trial.method) for trial in study.trials) == {
        (Question.RESEMBLANCE, REAL): 2 * WORKS,
        (Question.RESEMBLANCE, SIMILAR): 2 * SIMILAR_WORKS,
        (Question.RESEMBLANCE, ORIGINAL): 2 * DRAWN,
        (Question.REMOVAL, "ESD-x"): DRAWN,
        (Question.INTERFERENCE, "ESD-x"): DRAWN,
    }
    removed = {trial.artist for trial in study.trials if trial.question is Question.REMOVAL}
    kept = {trial.artist for trial in study.trials if trial.question is Question.INTERFERENCE}
    assert (removed, kept) == ({ERASED}, {OTHER})


def test_beside_an_image_stand_other_works_of_its_artist(folder: Path) -> None:
    study = read_study(folder)
    works: dict[str, set[str]] = {ERASED: set(), OTHER: set()}
    for trial in study.trials:
        if trial.method == REAL:
            works[trial.artist].add(trial.image)
    for trial in study.trials:
        assert len(set(trial.references)) == REFERENCES
        assert set(trial.references) <= works[trial.artist] - {trial.image}


def test_each_participant_has_an_order_of_their_own_that_stays(folder: Path) -> None:
    study = read_study(folder)
    ada = study.order_for("ada")
    assert ada == read_study(folder).order_for("ada")
    assert ada != study.order_for("grace")
    assert {trial.number for trial in ada} == {trial.number for trial in study.trials}


def test_who_sees_only_some_images_sees_as_many_of_each_method(painted: Path, tmp_path: Path) -> None:
    definition = read_definition(painted).model_copy(update={"trials_per_participant": 10})
    study = make_study(definition, tmp_path / "study")
    shares = Counter((trial.question, trial.method) for trial in study.order_for("ada"))
    assert shares == dict.fromkeys(study.groups, 2)


def test_works_are_shrunk_to_the_size_of_drawn_images(painted: Path, tmp_path: Path) -> None:
    big = tmp_path / "works" / ERASED / "0.jpg"
    big.parent.mkdir(parents=True)
    Image.new("RGBA", (3000, 1500), "red").convert("RGB").save(big)
    definition = read_definition(painted).model_copy(update={"similar": tmp_path / "works"})
    (tmp_path / "works" / OTHER).mkdir()
    study = make_study(definition, tmp_path / "study")
    (trial,) = (trial for trial in study.trials if trial.method == SIMILAR)
    with Image.open(tmp_path / "study" / "images" / trial.image) as image:
        assert (image.format, image.size) == ("PNG", (512, 256))


def test_making_a_study_again_keeps_its_answers(painted: Path, folder: Path) -> None:
    made = read_study(folder)
    assert make_study(read_definition(painted), folder) == made
    other = read_definition(painted).model_copy(update={"seed": 1})
    with pytest.raises(InvalidInput, match="holds another study"):
        make_study(other, folder)


@pytest.mark.parametrize(
    ("fields", "spoil", "remedy"),
    [
        ({"methods": []}, None, "methods"),
        ({"methods": [{"name": REAL, "erased": ERASED, "images": "esd-x"}]}, None, "choose another name"),
        ({"methods": [{"name": "ESD-x", "erased": ERASED, "images": "esd-x"}] * 2}, None, "give each its own name"),
        ({"methods": [{"name": "ESD-x", "erased": "Hokusai", "images": "esd-x"}]}, None, "'Hokusai'"),
        ({"works": "nowhere"}, None, "needs a folder named as in the prompts file"),
        ({"original": "nowhere"}, None, "esd generate --out"),
        ({"original": "works"}, None, "no images named CASE_N.png"),
        ({"references": 6}, None, "add works until there are 7"),
        ({"referenzes": 6}, None, "referenzes"),
        ({}, "esd-x/1_1.png", "differ in 1 files, such as 1_1.png"),
        ({}, "prompts.csv", "prompts.csv"),
    ],
)
def test_a_faulty_study_is_refused_with_a_remedy(
    fields: dict[str, object], spoil: str | None, remedy: str, tmp_path: Path
) -> None:
    path = write_study(tmp_path, **fields)
    if spoil:
        (tmp_path / spoil).unlink()
    with pytest.raises(EsdError) as refused:
        make_study(read_definition(path), tmp_path / "study")
    assert remedy in str(refused.value)
    assert not (tmp_path / "study" / "study.json").exists()


def test_prompts_without_artists_are_refused(tmp_path: Path) -> None:
    path = write_study(tmp_path)
    (tmp_path / "prompts.csv").write_text("case_number,prompt,evaluation_seed\n0,a house,1\n1,a tree,1\n")
    with pytest.raises(InvalidInput, match="columns case_number and artist"):
        make_study(read_definition(path), tmp_path / "study")
    (tmp_path / "prompts.csv").write_bytes("case_number,artist\n0,Dal\xed\n".encode("latin-1"))
    with pytest.raises(InvalidInput, match="not a CSV file in UTF-8"):
        make_study(read_definition(path), tmp_path / "study")
