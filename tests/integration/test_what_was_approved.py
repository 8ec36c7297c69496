"""An approval is of what was registered when it was given; what MLflow says later cannot stretch it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from esd_core import digest
from esd_core.concept_list import ApprovalPolicy
from esd_core.errors import ApprovalError, RegistryError, ReleaseError
from tasks.approvals import approval
from tasks.records import registry, tracking
from tasks.records.registry import RegisteredVersion
from tasks.releases.fetching import fetch
from tasks.releases.layout import pointer_key
from tasks.releases.release import publish
from tasks.releases.verifying import verify
from tasks.s3.storage import Bucket
from tasks.settings import Settings
from tests.integration.conftest import Made

Make = Callable[..., Made]
MODEL = "esd-miniature-sun"


def forge_report(version: RegisteredVersion, title: str) -> None:
    """Another report, and a tag that fits it."""
    report = Path(version.artifacts.removeprefix("file://")) / "report.html"
    report.write_text(f"<!doctype html><title>{title}</title>")
    files = {**version.files, "report.html": digest.of_file(report)}
    registry.mark(version, {"esd.files": json.dumps(files, sort_keys=True)})


def test_a_tag_does_not_pass_the_gates(bucket: Bucket, make: Make) -> None:
    version = make(after=15).register()
    registry.mark(version, {"esd.gates": "passed"})
    for override in (False, True):
        with pytest.raises(RegistryError, match=rf"^{MODEL} version 1: tag esd\.gates .* see `esd audit`$"):
            approval.approve(MODEL, 1, "Ada", "it says passed", override=override)
    assert bucket.listing() == {}


def test_another_report_than_the_approved_is_not_published(approved: RegisteredVersion, bucket: Bucket) -> None:
    forge_report(approved, "all is well")
    with pytest.raises(ApprovalError, match=r"was approved with other files, figures or tags .* see `esd audit`"):
        publish(MODEL, 1)
    assert bucket.listing("releases/") == {}
    approval.approve(MODEL, 1, "Ada Lovelace", "looked at the grid")  # the same words, about another thing
    assert verify(publish(MODEL, 1).uri) == []


@pytest.mark.usefixtures("bucket")
def test_two_people_must_have_approved_the_same(make: Make, fresh_settings: Callable[..., Settings]) -> None:
    version = make().register()
    fresh_settings(approval_policy="two-person")
    approval.approve(MODEL, 1, "Ada", "fine")
    forge_report(version, "all is well")
    approval.approve(MODEL, 1, "Grace", "all is well")
    with pytest.raises(ApprovalError, match="two people must approve it, so far only Grace did"):
        publish(MODEL, 1)


@pytest.mark.usefixtures("bucket")
def test_what_two_people_were_asked_for_one_cannot_publish(make: Make) -> None:
    version = make().register()
    registry.mark(version, {registry.POLICY_TAG: "two-person"})
    approval.approve(MODEL, 1, "Ada", "fine")
    registry.mark(version, {registry.POLICY_TAG: "gates"})
    with pytest.raises(ApprovalError, match="not approved under the policy two-person: two people must approve it"):
        publish(MODEL, 1)
    approval.approve(MODEL, 1, "Grace", "fine")
    assert verify(publish(MODEL, 1).uri) == []


def test_a_lost_manifest_is_made_again_only_if_it_is_the_one_that_was_released(
    bucket: Bucket, make: Make, fresh_settings: Callable[..., Settings]
) -> None:
    made = make()
    approval.approve_by_policy(made.register(), made.verdict, ApprovalPolicy.GATES)
    released = publish(MODEL, 1)
    key = f"releases/{MODEL}/1/manifest.json"
    bucket.client.delete_object(Bucket=bucket.name, Key=key)
    fresh_settings(approval_policy="manual")  # which a new manifest would name
    with pytest.raises(ReleaseError, match="what would be made now is not what was released"):
        publish(MODEL, 1)
    assert bucket.get(key) is None
    fresh_settings(approval_policy="gates")
    assert publish(MODEL, 1) == released
    assert verify(released.uri) == []


def test_a_pointer_to_another_folder_is_not_followed(
    approved: RegisteredVersion, bucket: Bucket, tmp_path: Path
) -> None:
    publish(approved.model, 1)
    key = pointer_key(MODEL)
    bucket.put(key, (bucket.get(key) or b"").replace(f"releases/{MODEL}/1/".encode(), b"releases/evil/1/"))
    with pytest.raises(ReleaseError, match=r"the pointer of .* was moved without a record"):
        fetch(MODEL, tmp_path / "out")


@pytest.mark.usefixtures("bucket")
def test_a_version_under_another_models_name_is_not_approved(make: Make) -> None:
    """Else a policy would let the weights of one concept be released as those of another."""
    made = make()
    version = made.register()
    client = tracking.client()
    tags = client.get_model_version(MODEL, "1").tags
    client.create_registered_model("esd-miniature-moon")
    client.create_model_version("esd-miniature-moon", version.artifacts, tags=tags)
    with pytest.raises(RegistryError, match=f"holds the job of {MODEL}"):
        approval.approve("esd-miniature-moon", 1, "Ada", "fine")
    assert registry.find_version(made.job.digest) == version
