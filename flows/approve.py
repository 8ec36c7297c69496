"""A person's decision on a registered version."""

from enum import StrEnum
from typing import Annotated

from prefect import flow
from pydantic import Field

from tasks.approvals import decisions


class Decision(StrEnum):
    APPROVE = "approve"
    REJECT = "reject"


@flow(name="approve", flow_run_name="{decision} {model} {version}", persist_result=False)
def approve(
    model: Annotated[str, Field(min_length=1)],
    version: Annotated[int, Field(ge=1)],
    by: Annotated[str, Field(min_length=1)],
    reason: Annotated[str, Field(min_length=1)],
    decision: Decision = Decision.APPROVE,
    override: bool = False,
) -> None:
    """Add a decision to the approval log.

    Args:
        model: Registered model, e.g. esd-miniature-van-gogh.
        version: Its version number.
        by: Who decides.
        reason: Why.
        decision: A rejected version is never published.
        override: Approve although a gate was not passed; this stays visible for ever.
    """
    if decision is Decision.APPROVE:
        decisions.approve(model, version, by, reason, override)
    else:
        decisions.reject(model, version, by, reason)
