"""Back to an earlier release."""

from typing import Annotated

from prefect import flow
from pydantic import Field

from tasks.approvals import decisions


@flow(name="rollback", flow_run_name="{model} back to {version}", persist_result=False)
def rollback(
    model: Annotated[str, Field(min_length=1)],
    version: Annotated[int, Field(ge=1)],
    by: Annotated[str, Field(min_length=1)],
    reason: Annotated[str, Field(min_length=1)],
) -> str:
    """Verify an earlier release and let the model's pointer name it again; returns its address.

    Args:
        model: Registered model, e.g. esd-miniature-van-gogh.
        version: The version to go back to; it must have been released before.
        by: Who decides.
        reason: Why.
    """
    return decisions.rollback(model, version, by, reason)
