"""After the approval: what is current, fetched, rolled back to and withdrawn, and what consumers are told."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from esd_core.errors import ApprovalError, InvalidInput, ReleaseError
from tasks.approvals import approval, lifecycle
from tasks.approvals.standing import State, standing_of
from tasks.records import mirror, registry
from tasks.releases.fetching import fetch
from tasks.releases.layout import pointer_key
from tasks.releases.pointer import read_pointer
from tasks.releases.release import publish
from tasks.releases.signing import make_key
from tasks.releases.trust import Trust
from tasks.releases.verifying import verify
from tasks.s3.storage import Bucket
from tasks.settings import Settings
from tests.integration.conftest import Made, read_json
from tests.integration.s3_calls import recorded

Make = Callable[..., Made]
MODEL = "esd-miniature-sun"


@pytest.fixture
def two(bucket: Bucket, make: Make) -> Bucket:
    """Versions 1 and 2, both released; 2 is current."""
    for seed in (1, 2):
        version = make(seed=seed).register().version
        approval.approve(MODEL, version, "Ada", f"look {seed}")
        publish(MODEL, version, by="night")
    return bucket


def _state(version: int) -> State:
    return standing_of(approval.read_log(), MODEL, version).state


def _pointer(bucket: Bucket) -> int | None:
    pointer = read_pointer(bucket, MODEL)
    return pointer.version if pointer else None


def _aliases() -> dict[str, int]:
    return mirror.aliases_of(MODEL)


def test_a_new_release_supersedes_the_one_before(two: Bucket) -> None:
    log = [(e.version, e.decision.value, e.by) for e in approval.read_log()]
    first, second = (
        [(1, "approved", "Ada"), (1, "released", "night")],
        [(2, "approved", "Ada"), (2, "released", "night")],
    )
    assert log == [*first, *second, (1, "superseded", "night")]
    assert (_state(1), _state(2), _pointer(two)) == (State.SUPERSEDED, State.RELEASED, 2)
    assert (_aliases()["released"], _aliases()["approved"]) == (2, 2)
    tags, page = mirror.page_of(registry.get_version(MODEL, 2))
    assert tags["esd.state"] == "released"
    assert "in place of version 1" in page
    assert mirror.page_of(registry.get_version(MODEL, 1))[0]["esd.state"] == "superseded"


def test_publishing_an_old_version_again_moves_nothing(two: Bucket) -> None:
    before = two.listing()
    assert publish(MODEL, 1).version == 1
    assert two.listing() == before


def test_rolling_back_is_recorded_and_moves_the_pointer(two: Bucket) -> None:
    uri = lifecycle.rollback(MODEL, 1, "Grace", "grey skies")
    assert uri.endswith(f"releases/{MODEL}/1/")
    assert (_state(1), _state(2), _pointer(two), _aliases()["released"]) == (State.RELEASED, State.SUPERSEDED, 1, 1)
    entry = approval.read_log()[5]
    assert (entry.version, entry.decision.value, entry.by, entry.reason) == (1, "released", "Grace", "grey skies")
    length = len(approval.read_log())
    lifecycle.rollback(MODEL, 1, "Grace", "grey skies")
    assert len(approval.read_log()) == length
    assert verify(uri) == []


def test_only_a_whole_release_can_be_rolled_back_to(two: Bucket, make: Make) -> None:
    make(seed=3).register()
    for version, message in ((3, "is candidate: only a release"), (9, "is candidate: only a release")):
        with pytest.raises(ApprovalError, match=message):
            lifecycle.rollback(MODEL, version, "Grace", "why not")
    two.put(f"releases/{MODEL}/1/grid.png", b"another picture")
    with pytest.raises(ReleaseError, match=r"cannot be rolled back to: grid\.png is too long"):
        lifecycle.rollback(MODEL, 1, "Grace", "grey skies")
    assert _pointer(two) == 2


def test_withdrawing_removes_the_pointer_keeps_the_objects_and_tells_why(two: Bucket, tmp_path: Path) -> None:
    before = set(two.listing("releases/"))
    lifecycle.withdraw(MODEL, 2, "Grace", "a paraphrase brings it back")
    assert (_state(2), _pointer(two)) == (State.WITHDRAWN, None)
    assert before - set(two.listing("releases/")) == {pointer_key(MODEL)}
    assert "released" not in _aliases()
    for reference in (MODEL, f"{MODEL}@2", two.uri(f"releases/{MODEL}/2")):
        with pytest.raises(ReleaseError, match=r"version 2 was withdrawn by Grace on .*: a paraphrase brings it back"):
            fetch(reference, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert "withdrawn by Grace: a paraphrase brings it back" in verify(two.uri(f"releases/{MODEL}/2"))
    with pytest.raises(ApprovalError, match="only a release that another one took the place of"):
        lifecycle.rollback(MODEL, 2, "Ada", "it was fine")
    lifecycle.rollback(MODEL, 1, "Grace", "until version 3")
    assert _pointer(two) == 1


def test_what_was_never_released_cannot_be_withdrawn(two: Bucket, make: Make) -> None:
    assert make(seed=3).register().version == 3
    length = len(approval.read_log())
    with pytest.raises(ApprovalError, match="is candidate, not released: `esd reject`"):
        lifecycle.withdraw(MODEL, 3, "Grace", "no")
    assert len(approval.read_log()) == length
    assert _pointer(two) == 2


def test_withdrawing_and_publishing_at_once_end_as_the_log_says(two: Bucket, make: Make) -> None:
    version = make(seed=3).register().version
    approval.approve(MODEL, version, "Ada", "fine")
    with ThreadPoolExecutor(2) as people:
        publishing = people.submit(publish, MODEL, version)
        people.submit(lifecycle.withdraw, MODEL, 2, "Grace", "no").result()
        publishing.result()
    assert (_pointer(two), _state(2), _state(3)) == (3, State.WITHDRAWN, State.RELEASED)


def test_fetching_is_verified_cached_and_whole(two: Bucket, settings: Settings, tmp_path: Path) -> None:
    folder = fetch(MODEL)
    assert folder.parent == settings.releases_folder
    assert verify(str(folder)) == []
    assert json.loads((folder / "manifest.json").read_text())["version"] == 2
    with recorded(two) as calls:
        assert fetch(MODEL) == folder
    gets = [path for name, _, path in calls.sent if name == "GetObject"]
    assert not [path for path in gets if not path.endswith(("latest.json", "manifest.json", "manifest.sig"))]
    out = fetch(f"{MODEL}@1", tmp_path / "out")
    assert json.loads((out / "manifest.json").read_text())["version"] == 1
    (out / "weights.safetensors").write_bytes(b"damaged on disk")
    fetch(f"{MODEL}@1", tmp_path / "out")
    assert verify(str(out)) == []


def test_fetching_what_was_altered_is_refused(two: Bucket, tmp_path: Path) -> None:
    manifest = read_json(two.get(f"releases/{MODEL}/2/manifest.json"))
    assert isinstance(manifest["files"], dict)
    key = manifest["files"]["weights.safetensors"]["key"]
    content = two.get(key)
    assert content
    two.put(key, content[:-1] + b"!")
    with pytest.raises(ReleaseError, match=r"weights\.safetensors was altered"):
        fetch(MODEL, tmp_path / "out")
    assert not (tmp_path / "out" / "weights.safetensors").exists()
    two.put(pointer_key(MODEL), (two.get(pointer_key(MODEL)) or b"").replace(b'"version": 2', b'"version": 1'))
    with pytest.raises(ReleaseError, match=r"the pointer of .* was moved without a record"):
        fetch(MODEL, tmp_path / "out")


def test_a_folder_with_other_things_in_it_is_not_a_release(two: Bucket, tmp_path: Path) -> None:
    assert two.name
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ReleaseError, match=r"'notes\.txt' is not in the manifest"):
        fetch(MODEL, tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.usefixtures("bucket")
@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("no-such-model", "has no release"),
        ("../etc", "names no release"),
        ("model@one", "names no release"),
        ("model@", "names no release"),
        (f"model@{'9' * 5000}", "names no release"),
        ("s3://bucket/somewhere/else", "is not where a release lies"),
        ("esd-miniature-sun@7", "is one that nobody has decided on, not released"),
    ],
)
def test_what_is_not_there_is_one_line(reference: str, message: str) -> None:
    with pytest.raises((InvalidInput, ReleaseError), match=message) as caught:
        fetch(reference)
    assert "\n" not in str(caught.value)


def test_a_signed_release_verifies_with_its_key_and_no_other(
    bucket: Bucket, make: Make, fresh_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    public, other = make_key(tmp_path / "team.pem"), make_key(tmp_path / "other.pem")
    version = make().register()
    approval.approve(MODEL, version.version, "Ada", "fine")
    fresh_settings(signing="required")
    with pytest.raises(ReleaseError, match="set ESD_SIGNING_KEY"):
        publish(MODEL, 1)
    assert bucket.listing("releases/") == {}
    fresh_settings(signing_key=str(tmp_path / "team.pem"), verifying_key=str(public))
    uri = publish(MODEL, 1).uri
    assert verify(uri) == []
    folder = fetch(MODEL, tmp_path / "out")
    assert verify(str(folder), Trust(key=public)) == []
    assert any(
        "was made with another key than other.pem.pub" in fault for fault in verify(str(folder), Trust(key=other))
    )
    with pytest.raises(ReleaseError, match=r"is not fetched: .*another key than other"):
        fetch(MODEL, tmp_path / "again", Trust(key=other))
    bucket.client.delete_object(Bucket=bucket.name, Key=f"releases/{MODEL}/1/manifest.sig")
    assert verify(uri) == ["manifest.sig is missing: the release is not signed"]
