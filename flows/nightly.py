"""The night: plan, erase what is new or changed, measure, register, approve by policy, publish, sum up."""

from datetime import datetime
from typing import Annotated, Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from pydantic import Field

from esd_core.concepts import MINIATURE, ApprovalPolicy, ConceptEntry, ConceptList, checked_list
from flows.erase import erase_concept
from tasks import artifacts, steps
from tasks.night import Night, settled

Share = Annotated[float, Field(ge=0, le=1)]


def tonight() -> str:
    return f"night of {datetime.now().astimezone():%Y-%m-%d %H:%M:%S}"


@flow(name="nightly-erasure", flow_run_name=tonight, persist_result=False)
def nightly_erasure(
    concepts: Annotated[list[ConceptEntry], Field(min_length=1, description="What is to be erased.")],
    base: Annotated[str, Field(description="Hub id pinned as owner/name@commit, a folder, or miniature.")] = MINIATURE,
    suite: Annotated[str, Field(description="Evaluation suite: a YAML file, or miniature.")] = MINIATURE,
    images_per_probe: Annotated[int, Field(ge=1, le=5000, description="Images for each row of the suite.")] = 24,
    erased_at_most: Annotated[
        Share, Field(description="Gate: the concept's rate, as a share of its base rate.")
    ] = 0.10,
    others_drop_at_most: Annotated[Share, Field(description="Gate: mean drop of all other concepts' rates.")] = 0.05,
    approval: Annotated[
        ApprovalPolicy, Field(description="Who approves: a person, or the gates.")
    ] = ApprovalPolicy.MANUAL,
) -> State[Night]:
    """Erase every concept of the list that is new or has changed; what fails alone does not stop the others."""
    gates = {"erased_at_most": erased_at_most, "others_drop_at_most": others_drop_at_most}
    sampling = {"base": base, "suite": suite, "images_per_probe": images_per_probe}
    wanted = checked_list({**sampling, "gates": gates, "approval": approval, "concepts": concepts}, "parameters")
    plan = steps.plan(wanted)
    progress = artifacts.start_night(plan)
    rows = []
    for planned in plan.jobs:
        rows.append(settled(planned, erase_concept(planned, wanted, return_state=True)))
        progress.advance(len(rows))
    night = steps.report_night(Night.of(plan, rows))
    artifacts.show_night(night)
    final = Failed if night.failed else Completed
    return final(message=night.sentence, data=night)


def parameters(wanted: ConceptList) -> dict[str, Any]:
    """The flow's parameters for a concept list."""
    flat = {name: getattr(wanted, name) for name in ("base", "suite", "images_per_probe", "approval")}
    return {**flat, **wanted.gates.model_dump(), "concepts": list(wanted.concepts)}
