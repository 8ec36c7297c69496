"""Names of registered models: base and concepts, and no two for one thing or one for two."""

from __future__ import annotations

from esd_core.concepts import ConceptEntry, ConceptKind, Erasure, ErasureJob
from tasks.records.registry import model_name

COMMIT = "133a221b8aa7292a167afc5127cb63fb5005638b"


def erasure_of(name: str, erase_from: str | None = None) -> Erasure:
    return ConceptEntry(name=name, kind=ConceptKind.GLOBAL, erase_from=erase_from).erasure


def named(base: str, *erasures: Erasure) -> str:
    return model_name(ErasureJob(base=base, base_digest="b" * 64, erasures=erasures))


def test_model_names_say_base_and_concept() -> None:
    assert named("miniature", erasure_of("Van Gogh")) == "esd-miniature-van-gogh"
    hub = f"CompVis/stable-diffusion-v1-4@{COMMIT}"
    assert named(hub, erasure_of("nudity")) == "esd-stable-diffusion-v1-4-133a221-nudity"
    assert named("miniature", erasure_of("red", erase_from="car")) == "esd-miniature-red-from-car"


def test_joint_models_are_named_after_all_their_concepts() -> None:
    first = named("miniature", erasure_of("Van Gogh"), erasure_of("sun"))
    assert first.startswith("esd-miniature-joint-van-gogh-sun-")
    assert first != named("miniature", erasure_of("Van Gogh"), erasure_of("Sun"))
    assert first != named("miniature", erasure_of("Van Gogh sun"))


def test_folders_of_one_name_are_different_bases() -> None:
    assert len({named(b, erasure_of("sun")) for b in ("/a/model", "/b/model", "miniature", "/c/miniature")}) == 4
