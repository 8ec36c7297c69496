"""Erasing: one runner's share of the night, or what a person types; concept by concept, the cheapest first."""

from collections.abc import Sequence
from typing import Any

from prefect import flow, runtime
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from esd_core.concept_list import ApprovalPolicy, ConceptList, ListMode
from esd_core.concepts import MINIATURE
from esd_core.kept_models import keeping
from flows.form import Concepts, Images, Indifference, Share, WrongShare
from tasks.nights import artifacts, concept_runs, notices, steps
from tasks.nights.night import Night, reason
from tasks.nights.plan import PlannedJob
from tasks.nights.shares import cost, part_of


def share_name() -> str:
    parameters = runtime.flow_run.parameters
    rows = parameters.get("concepts") or []
    names = [row.name if hasattr(row, "name") else str(row["name"]) for row in rows]
    few = ", ".join(names[:3]) or str(parameters.get("concept_list") or "nothing")
    return f"erase {few}" + (f" and {len(names) - 3} more" if len(names) > 3 else "")


@flow(name="erase", flow_run_name=share_name, persist_result=False)
def erase(
    concepts: Concepts = (),
    concept_list: str = "",
    force: bool = False,
    base: str = MINIATURE,
    suite: str = MINIATURE,
    images_per_probe: Images = 200,
    erased_at_most: Share = 0.10,
    others_drop_at_most: Share = 0.05,
    coherent_at_least: Share = 0.0,
    sequential: bool = True,
    indifference: Indifference = 0.25,
    wrong_pass: WrongShare = 0.05,
    wrong_fail: WrongShare = 0.05,
    approval: ApprovalPolicy = ApprovalPolicy.MANUAL,
    mode: ListMode = ListMode.SEPARATE,
) -> State[Night]:
    """Erase, measure, register, approve by policy and publish these concepts, on this machine.

    Args:
        concepts: What is to be erased.
        concept_list: Instead of rows and of everything from base on, a YAML file: its path, or s3://BUCKET/KEY.
        force: Do it again, also what is registered and unchanged.
        base: Base model: hub id pinned as owner/name@commit, a folder, or miniature.
        suite: Evaluation suite: a YAML file, or miniature, imagenette, artists, nudity.
        images_per_probe: Images for each row of the suite, before and after; at most so many for sequential gates.
        erased_at_most: Gate: what may remain of the erased concept, as a share of its base rate.
        others_drop_at_most: Gate: how far the rates of all other concepts may fall on average, as a share of images.
        coherent_at_least: Gate: share of the erased concept's images that are pictures at all; 0 does not ask for it.
        sequential: Make images until each gate is decided, instead of a fixed number.
        indifference: Share of a limit by which a model may miss it and still be judged either way.
        wrong_pass: Most that a gate may pass of models that are worse.
        wrong_fail: Most that a gate may fail of models that are better.
        approval: Who approves: a person (manual), or the gates.
        mode: A model for each concept (separate), or one without all of them: merged of models erased alone, or joint.
    """
    wanted = steps.read_list(dict(locals()))
    plan = steps.plan(wanted, force)
    failed = erase_here(plan.jobs, wanted, artifacts.start_night(plan))
    night = Night.of(plan, steps.settle(plan, failed, wanted))
    artifacts.show_night(night)
    if not runtime.flow_run.parent_flow_run_id:  # else its night tells
        notices.tell(night)
    return ended(night)


def erase_here(jobs: Sequence[PlannedJob], wanted: ConceptList, progress: artifacts.Progress) -> dict[str, str]:
    """Do the jobs one after the other in this process; returns why concepts failed, by slug."""
    failed = {}
    concept_runs.end_orphans()
    with concept_runs.of_one_share(), keeping():
        for done, planned in enumerate(sorted(jobs, key=cost), start=1):
            state = erase_concept(planned, part_of(wanted, [planned]), return_state=True)
            if not state.is_completed():
                failed[planned.slug] = reason(state)
            progress.advance(done)
    return failed


@flow(name=concept_runs.FLOW, flow_run_name="{planned.slug}", persist_result=False)
def erase_concept(planned: PlannedJob, wanted: ConceptList) -> State[Any]:
    """Erase, measure and register the concept unless that is done already; then approve and publish it by policy."""
    if planned.version:
        return Completed(message="registered already")
    progress = artifacts.start_concept(planned)
    if planned.again:
        steps.start_over(planned)
    outcome = steps.erase(planned.job, wanted)
    progress.advance(1)
    report = steps.evaluate(planned.job, wanted)
    progress.advance(2)
    if planned.comparison:
        steps.erase(planned.comparison, wanted)
        steps.keep_comparison(planned, steps.evaluate(planned.comparison, wanted))
    verdict = steps.judge_by_gates(report, wanted.gates)
    grid = steps.report_concept(planned, verdict)
    version = steps.register(outcome, report, verdict, planned.again)
    progress.advance(3)
    artifacts.show_concept(version, report, verdict, grid)
    record = steps.approve_by_policy(version, verdict, wanted.approval)
    if record and record.approved:
        steps.publish(version.model, version.version)
    progress.advance(4)
    return Completed(message=f"registered as {version.model} {version.version}")


def ended(night: Night) -> State[Night]:
    final = Failed if night.failed else Completed
    return final(message=night.sentence, data=night)
