"""A release that nobody shall use any more."""

from typing import Annotated

from prefect import flow
from pydantic import Field

from tasks.approvals import decisions


@flow(name="withdraw", flow_run_name="{model} {version}", persist_result=False)
def withdraw(
    model: Annotated[str, Field(min_length=1)],
    version: Annotated[int, Field(ge=1)],
    by: Annotated[str, Field(min_length=1)],
    reason: Annotated[str, Field(min_length=1)],
) -> None:
    """Record that a release is withdrawn: its pointer goes, its objects stay, and `esd fetch` refuses it.

    Args:
        model: Registered model, e.g. esd-miniature-van-gogh.
        version: Its version number.
        by: Who decides.
        reason: Why; those who try to fetch it are told.
    """
    decisions.withdraw(model, version, by, reason)
