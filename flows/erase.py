"""Erasing: one runner's share of the night, or what a person types; concept by concept, the cheapest first."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from prefect import flow, runtime
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from esd_core.concept_list import ApprovalPolicy, ConceptList, ListMode
from esd_core.concepts import MINIATURE
from esd_core.evaluation.results import EvaluationReport
from esd_core.kept_models import keeping
from flows.form import Concepts, Images, Indifference, Share, WrongShare
from tasks.nights import artifacts, concept_runs, notices, steps
from tasks.nights.beside import one_behind
from tasks.nights.night import Night, NightFailed, reason
from tasks.nights.plan import PlannedJob
from tasks.nights.shares import cost, part_of


@dataclass(frozen=True)
class Made:
    """A concept that is erased and measured, and the bar that shows how far it is."""

    outcome: Any  # an ErasureOutcome, whose module loads torch
    report: EvaluationReport
    progress: artifacts.Progress


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
    """Do the jobs one after the other in this process; returns why concepts failed, by slug.

    While one is erased and measured, the one before it is registered and published.
    """
    failed = {}
    concept_runs.end_orphans()
    with concept_runs.of_one_share(), keeping():
        ends = one_behind(
            sorted(jobs, key=cost),
            lambda planned: erase_concept(planned, part_of(wanted, [planned])),
            lambda planned, made: finish_concept(planned, part_of(wanted, [planned]), made.result, return_state=True),
        )
        for done, (planned, state) in enumerate(ends, start=1):
            if not state.is_completed():
                failed[planned.slug] = reason(state)
            progress.advance(done)
    return failed


def erase_concept(planned: PlannedJob, wanted: ConceptList) -> Made | None:
    """Erase and measure the concept; None where that is done already."""
    if planned.version:
        return None
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
    return Made(outcome, report, progress)


@flow(name=concept_runs.FLOW, flow_run_name="{planned.slug}", persist_result=False)
def finish_concept(planned: PlannedJob, wanted: ConceptList, made: Callable[[], Made | None]) -> State[Any]:
    """Register what was made of the concept, approve and publish it by policy; or fail with what was in the way."""
    concept = made()
    if concept is None:
        return Completed(message="registered already")
    verdict = steps.judge_by_gates(concept.report, wanted.gates)
    grid = steps.report_concept(planned, verdict)
    version = steps.register(concept.outcome, concept.report, verdict, planned.again)
    concept.progress.advance(3)
    artifacts.show_concept(version, concept.report, verdict, grid)
    record = steps.approve_by_policy(version, verdict, wanted.approval)
    if record and record.approved:
        steps.publish(version.model, version.version)
    concept.progress.advance(4)
    return Completed(message=f"registered as {version.model} {version.version}")


def ended(night: Night) -> State[Night]:
    if night.failed:
        return Failed(message=night.sentence, data=NightFailed(night))
    return Completed(message=night.sentence, data=night)
