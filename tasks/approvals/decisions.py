"""What people decide on versions, as Prefect tasks."""

from __future__ import annotations

from prefect import task

from tasks.approvals import approval, lifecycle
from tasks.approvals.approval_log import ApprovalRecord
from tasks.nights.steps import OUTSIDE


@task(task_run_name="approve {model} {version}", **OUTSIDE)
def approve(model: str, version: int, by: str, reason: str, override: bool) -> ApprovalRecord:
    return approval.approve(model, version, by, reason, override=override)


@task(task_run_name="reject {model} {version}", **OUTSIDE)
def reject(model: str, version: int, by: str, reason: str) -> ApprovalRecord:
    return approval.reject(model, version, by, reason)


@task(task_run_name="roll back {model} to {version}", **OUTSIDE)
def rollback(model: str, version: int, by: str, reason: str) -> str:
    return lifecycle.rollback(model, version, by, reason)


@task(task_run_name="withdraw {model} {version}", **OUTSIDE)
def withdraw(model: str, version: int, by: str, reason: str) -> ApprovalRecord:
    return lifecycle.withdraw(model, version, by, reason)
