"""IAM policies of infra/iam: every S3 call that the code makes is allowed to its role, and nothing more is granted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tasks.approvals import approval, approval_log, lifecycle, overview
from tasks.approvals.audit import audit
from tasks.releases import release
from tasks.releases.fetching import fetch
from tasks.releases.release import publish
from tasks.releases.verifying import verify
from tasks.s3.storage import Bucket, open_bucket
from tasks.settings import Settings
from tests.integration.conftest import Made
from tests.integration.s3_calls import Calls, recorded

IAM = Path(__file__).parents[2] / "infra" / "iam"
ROLES = ("runner", "publisher", "approver", "reader")
MODEL = "esd-miniature-sun"
BUCKET = "arn:aws:s3:::${bucket}"

# What S3 asks permission for; from its service authorization reference.
ACTIONS = {
    "PutObject": "s3:PutObject",
    "CreateMultipartUpload": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "CompleteMultipartUpload": "s3:PutObject",
    "GetObject": "s3:GetObject",
    "HeadObject": "s3:GetObject",
    "DeleteObject": "s3:DeleteObject",
    "ListObjectsV2": "s3:ListBucket",
    "HeadBucket": "s3:ListBucket",
    "ListMultipartUploads": "s3:ListBucketMultipartUploads",
    "ListParts": "s3:ListMultipartUploadParts",
}
BY_HEADER = {"x-amz-tagging": "s3:PutObjectTagging", "x-amz-object-lock-mode": "s3:PutObjectRetention"}

Make = Callable[..., Made]


class Need(NamedTuple):
    """What one call asks permission for, and the conditional header it carries."""

    action: str
    resource: str
    if_none_match: bool = False
    creates: bool = False


def _statements(name: str) -> list[dict[str, Any]]:
    statements: list[dict[str, Any]] = json.loads((IAM / f"{name}.json").read_text())["Statement"]
    return statements


def _grants(role: str) -> list[tuple[str, str]]:
    """Each action and resource that a role's policy allows."""
    return [(action, resource) for s in _statements(role) for action in s["Action"] for resource in s["Resource"]]


def _covers(grant: tuple[str, str], need: Need) -> bool:
    return grant[0] == need.action and fnmatchcase(need.resource, grant[1].replace("[", "[[]"))


def _needs(calls: Calls) -> set[Need]:
    needs = set()
    for operation, headers, path in calls.sent:
        key = path.partition("?")[0].lstrip("/")  # the bucket is put before it later
        resource = f"{BUCKET}/{key}" if key else BUCKET
        creates = operation in ("PutObject", "CompleteMultipartUpload")
        needs.add(Need(ACTIONS[operation], resource, "if-none-match" in headers, creates))
        needs |= {Need(action, resource) for header, action in BY_HEADER.items() if header in headers}
    return needs


@pytest.fixture
def version(settings: Settings, fresh_settings: Callable[..., Settings], make: Make) -> Callable[[int], None]:
    """Make and register versions in a bucket with object lock, tags, and weights of two parts."""
    assert settings.s3_bucket
    fresh_settings(s3_bucket="locked-releases", s3_tags="team=ml", s3_lock_days="1", s3_part_mib="5")
    bucket = open_bucket()
    with suppress(bucket.client.exceptions.BucketAlreadyOwnedByYou):
        bucket.client.create_bucket(Bucket=bucket.name, ObjectLockEnabledForBucket=True)
    return lambda seed: _registered(make(seed=seed, rows=450_000))


def _registered(made: Made) -> None:
    made.register()


def _do(role: str, bucket: Bucket, tmp_path: Path) -> set[Need]:
    """All that a role does, recorded, by one who has seen nothing yet."""
    approval_log._fetch.cache_clear()
    with recorded(bucket) as calls:
        {"runner": _run, "approver": _approve, "publisher": _publish, "reader": _read}[role](tmp_path)
    return _needs(calls)


def _run(_: Path) -> None:
    open_bucket().check()
    approval.decisions()
    release.released()
    overview.status()


def _approve(_: Path) -> None:
    approval.approve(MODEL, 3, "Ada", "fine")
    approval.reject(MODEL, 3, "Grace", "no")


def _publish(_: Path) -> None:
    with recorded(open_bucket(), cut_at=("UploadPart", 2)), suppress(ConnectionAbortedError):
        publish(MODEL, 2)
    publish(MODEL, 2)
    lifecycle.rollback(MODEL, 1, "Grace", "grey skies")
    lifecycle.withdraw(MODEL, 1, "Grace", "grey skies")
    lifecycle.rollback(MODEL, 2, "Grace", "better than none")


def _read(tmp_path: Path) -> None:
    fetch(MODEL, tmp_path / "out")
    verify(open_bucket().uri(f"releases/{MODEL}/2"))
    audit()


def test_each_role_may_do_what_it_does_and_nothing_more(version: Callable[[int], None], tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        version(seed)
    for number in (1, 2):
        approval.approve(MODEL, number, "Ada", "fine")
    publish(MODEL, 1)
    bucket = open_bucket()
    for role in ("runner", "approver", "publisher", "reader"):
        needs, grants = _do(role, bucket, tmp_path), _grants(role)
        denied = [need for need in needs if not any(_covers(grant, need) for grant in grants)]
        assert not denied, f"{role} may not: {denied}"
        unused = [grant for grant in grants if not any(_covers(grant, need) for need in needs)]
        assert not unused, f"{role} is granted what it does not do: {unused}"
        refused = [need for need in needs if any(_refuses(statement, need) for statement in _statements("bucket"))]
        assert not refused, f"the bucket's own policy refuses {role}: {refused}"


def _refuses(statement: dict[str, Any], need: Need) -> bool:
    """Whether a Deny of the bucket policy hits a call over TLS."""
    actions = [statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"]
    condition = statement.get("Condition", {})
    if "aws:SecureTransport" in condition.get("Bool", {}):
        return False
    if not any(_covers((action, resource), need) for action in actions for resource in statement["Resource"]):
        return False
    if "Null" in condition:
        return need.creates and not need.if_none_match
    return True


@pytest.mark.parametrize(
    "key", ["approvals/000001.json", f"releases/{MODEL}/1/manifest.json", "weights/abc.safetensors"]
)
def test_the_bucket_refuses_overwriting_and_removing_what_counts(key: str) -> None:
    resource = f"{BUCKET}/{key}"
    for need in (Need("s3:PutObject", resource, False, True), Need("s3:DeleteObject", resource)):
        assert any(_refuses(statement, need) for statement in _statements("bucket"))
    assert not any(_refuses(s, Need("s3:PutObject", resource, True, True)) for s in _statements("bucket"))


@pytest.mark.parametrize("role", ROLES)
def test_a_policy_is_plain_and_names_no_wildcard_action(role: str) -> None:
    statements = _statements(role)
    assert len({statement["Sid"] for statement in statements}) == len(statements)
    assert all(set(statement) == {"Sid", "Effect", "Action", "Resource"} for statement in statements)
    assert not [action for action, _ in _grants(role) if "*" in action]
    assert all(resource.startswith(BUCKET) for _, resource in _grants(role))


def _writes(role: str) -> Iterable[str]:
    return sorted(resource for action, resource in _grants(role) if action == "s3:PutObject")


def test_only_the_approver_and_the_publisher_write() -> None:
    assert [_writes(role) for role in ("runner", "reader")] == [[], []]
    assert _writes("approver") == [f"{BUCKET}/approvals/*"]
