"""From an approved version to a release in S3."""

from typing import Annotated

from prefect import flow
from pydantic import Field

from tasks.nights import artifacts, steps


@flow(name="publish", flow_run_name="{model} {version}", persist_result=False)
def publish(model: Annotated[str, Field(min_length=1)], version: Annotated[int, Field(ge=1)]) -> str:
    """Check the approval and every digest again, and publish; returns the release's address.

    Args:
        model: Registered model, e.g. esd-miniature-van-gogh.
        version: Its version number.
    """
    release = steps.publish(model, version)
    artifacts.show_release(model, version, release)
    return release.uri
