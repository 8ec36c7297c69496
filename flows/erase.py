"""One concept, from its job to its release: one runner's share of the night."""

from prefect import flow

from esd_core.concepts import ConceptList
from tasks import artifacts, steps
from tasks.night import Findings, Settled
from tasks.plan import PlannedJob


@flow(name="erase-concept", flow_run_name="{planned.slug}", persist_result=False)
def erase_concept(planned: PlannedJob, wanted: ConceptList) -> Settled:
    """Erase, measure and register the concept unless that is done already; then approve and publish it by policy."""
    findings = steps.recall(planned, wanted.gates) if planned.version else erase_and_register(planned, wanted)
    version = findings.version
    record = steps.approve_by_policy(version, findings.verdict, wanted.approval)
    release = steps.publish(version.model, version.version) if record and record.approved else None
    return Settled(planned=planned, findings=findings, record=record, release=release)


def erase_and_register(planned: PlannedJob, wanted: ConceptList) -> Findings:
    outcome = steps.erase(planned.job, wanted)
    report = steps.evaluate(planned.job, wanted)
    if planned.comparison:
        steps.erase(planned.comparison, wanted)
        steps.keep_comparison(planned, steps.evaluate(planned.comparison, wanted))
    verdict = steps.judge_by_gates(report, wanted.gates)
    grid = steps.report_concept(planned, verdict)
    version = steps.register(outcome, report, verdict)
    artifacts.show_concept(planned.job, report, verdict, grid)
    return Findings(version=version, report=report, verdict=verdict)
