"""Which runner does what: the night's jobs dealt in shares of about equal cost, the cheapest of each share first."""

from __future__ import annotations

from collections.abc import Sequence

from esd_core import tuning
from esd_core.concept_list import ConceptList
from esd_core.concepts import ErasureJob
from tasks.nights.plan import PlannedJob


def cost(planned: PlannedJob) -> int:
    """What a job costs, in training samples: its steps at most times their batch size, with those of its comparison.

    It orders jobs and balances shares; how long a sample takes does not matter for either.
    """
    jobs = (planned.job, planned.comparison) if planned.comparison else (planned.job,)
    return sum(_samples(one, part) for job in jobs for one in job.trainings for part in range(len(one.erasures)))


def _samples(job: ErasureJob, part: int) -> int:
    recipe = job.erasures[part].recipe
    plan = tuning.plan_of(job.erasures, part, judged=job.judge is not None)
    return tuning.most_steps(recipe, plan) * recipe.batch_size


def deal(jobs: Sequence[PlannedJob], runners: int) -> list[tuple[PlannedJob, ...]]:
    """At most `runners` shares, none empty: the dearest job goes first, always to the share that costs least so far."""
    shares: list[list[PlannedJob]] = [[] for _ in range(min(runners, len(jobs)))]
    for planned in sorted(jobs, key=cost, reverse=True):
        min(shares, key=lambda share: sum(map(cost, share))).append(planned)
    return [tuple(sorted(share, key=cost)) for share in shares]


def part_of(wanted: ConceptList, jobs: Sequence[PlannedJob]) -> ConceptList:
    """The list with only these jobs' rows, in the jobs' order."""
    rows = {entry.name: entry for entry in wanted.concepts}
    names = [concept.name for planned in jobs for concept in planned.job.concepts]
    return wanted.model_copy(update={"concepts": tuple(rows[name] for name in names)})
