"""The night: plan, have erased what is new or changed, settle what waits, sum up."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from prefect import Flow, flow, runtime
from prefect.client.schemas.objects import FlowRun, State

from esd_core.concept_list import ApprovalPolicy, ConceptList, ListMode
from esd_core.concepts import MINIATURE
from flows.erase import ended, erase_here
from flows.form import Concepts, Images, Indifference, RunnerCount, Share, WrongShare
from tasks.nights import artifacts, notices, steps
from tasks.nights import runners as gpu_runners
from tasks.nights.lists import flat
from tasks.nights.night import Night
from tasks.nights.plan import Plan, PlannedJob
from tasks.nights.shares import part_of


def tonight() -> str:
    return f"night of {datetime.now().astimezone():%Y-%m-%d %H:%M:%S}"


def call_back_runners(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """A hook; Prefect hands on arguments of these names."""
    del flow, state
    gpu_runners.call_back(flow_run.id)


@flow(name="nightly-erasure", flow_run_name=tonight, persist_result=False, on_cancellation=[call_back_runners])
def nightly_erasure(
    concepts: Concepts = (),
    concept_list: str = "",
    runners: RunnerCount = 1,
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
    """Erase every concept of the list that is new or has changed; what fails alone does not stop the others.

    Args:
        concepts: What is to be erased.
        concept_list: Instead of rows and of everything from base on, a YAML file: its path, or s3://BUCKET/KEY.
        runners: Among how many runs of the deployment erase the work is dealt: one for each GPU.
        force: Do everything on the list again, also what is registered and unchanged.
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
    progress = artifacts.start_night(plan)
    if runtime.deployment.id or runners > 1:
        failed = erase_elsewhere(plan, wanted, runners, force, progress)
    else:
        failed = erase_here(plan.to_do, wanted, progress)
    night = steps.report_night(Night.of(plan, steps.settle(plan, failed, wanted)))
    artifacts.show_night(night)
    artifacts.show_report(night, steps.keep_report(night))
    notices.tell(night)
    return ended(night)


def erase_elsewhere(
    plan: Plan, wanted: ConceptList, runners: int, force: bool, progress: artifacts.Progress
) -> dict[str, str]:
    """Have the plan's work done by runners of the GPU work pool; returns why concepts failed, by slug."""

    def parameters(jobs: Sequence[PlannedJob]) -> dict[str, Any]:
        return {**flat(part_of(wanted, jobs)), "force": force}

    return gpu_runners.Runners(runners, parameters).erase(plan.to_do, progress.advance)


def parameters(wanted: ConceptList) -> dict[str, Any]:
    """The flow's parameters for a concept list."""
    return {**flat(wanted), "concepts": wanted.concepts}
