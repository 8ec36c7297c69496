"""A person's decision on a registered version."""

from enum import StrEnum
from typing import Annotated

from prefect import flow
from pydantic import Field

from tasks import steps


class Decision(StrEnum):
    APPROVE = "approve"
    REJECT = "reject"


@flow(name="approve", flow_run_name="{decision} {model} {version}", persist_result=False)
def approve(
    model: Annotated[str, Field(min_length=1, description="Registered model, e.g. esd-miniature-van-gogh.")],
    version: Annotated[int, Field(ge=1, description="Its version number.")],
    by: Annotated[str, Field(min_length=1, description="Who decides.")],
    reason: Annotated[str, Field(min_length=1, description="Why.")],
    decision: Annotated[Decision, Field(description="A rejected version is never published.")] = Decision.APPROVE,
) -> None:
    """Add a decision to the approval log."""
    if decision is Decision.APPROVE:
        steps.approve(model, version, by, reason)
    else:
        steps.reject(model, version, by, reason)
