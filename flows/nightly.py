"""The night: plan, erase what is new or changed, measure, register, approve by policy, publish, sum up."""

from datetime import datetime
from typing import Annotated, Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from pydantic import Field

from esd_core.concepts import MINIATURE, ApprovalPolicy, ConceptEntry, ConceptList, ListMode, checked_list
from flows.erase import erase_concept
from tasks import artifacts, steps
from tasks.night import Night, settled

Share = Annotated[float, Field(ge=0, le=1)]


def tonight() -> str:
    return f"night of {datetime.now().astimezone():%Y-%m-%d %H:%M:%S}"


@flow(name="nightly-erasure", flow_run_name=tonight, persist_result=False)
def nightly_erasure(
    concepts: Annotated[list[ConceptEntry], Field(min_length=1)],
    base: str = MINIATURE,
    suite: str = MINIATURE,
    images_per_probe: Annotated[int, Field(ge=1, le=5000)] = 200,
    erased_at_most: Share = 0.10,
    others_drop_at_most: Share = 0.05,
    sequential: bool = True,
    indifference: Annotated[float, Field(ge=0.05, lt=1)] = 0.25,
    wrong_pass: Annotated[float, Field(gt=0, lt=0.5)] = 0.05,
    wrong_fail: Annotated[float, Field(gt=0, lt=0.5)] = 0.05,
    approval: ApprovalPolicy = ApprovalPolicy.MANUAL,
    mode: ListMode = ListMode.SEPARATE,
) -> State[Night]:
    """Erase every concept of the list that is new or has changed; what fails alone does not stop the others.

    Args:
        concepts: What is to be erased.
        base: Base model: hub id pinned as owner/name@commit, a folder, or miniature.
        suite: Evaluation suite: a YAML file, or miniature.
        images_per_probe: Images for each row of the suite, before and after; at most so many for sequential gates.
        erased_at_most: Gate: what may remain of the erased concept, as a share of its base rate.
        others_drop_at_most: Gate: how far the rates of all other concepts may fall on average, as a share of images.
        sequential: Make images until each gate is decided, instead of a fixed number.
        indifference: Share of a limit by which a model may miss it and still be judged either way.
        wrong_pass: Most that a gate may pass of models that are worse.
        wrong_fail: Most that a gate may fail of models that are better.
        approval: Who approves: a person (manual), or the gates.
        mode: A model for each concept (separate), or one model without all of them (joint).
    """
    limits = {"erased_at_most": erased_at_most, "others_drop_at_most": others_drop_at_most}
    test = {"sequential": sequential, "indifference": indifference, "wrong_pass": wrong_pass, "wrong_fail": wrong_fail}
    sampling = {"base": base, "suite": suite, "images_per_probe": images_per_probe}
    rules = {"gates": {**limits, **test}, "approval": approval, "mode": mode}
    wanted = checked_list({**sampling, **rules, "concepts": concepts}, "parameters")
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
    flat = {name: getattr(wanted, name) for name in ("base", "suite", "images_per_probe", "approval", "mode")}
    return {**flat, **wanted.gates.model_dump(), "concepts": list(wanted.concepts)}
