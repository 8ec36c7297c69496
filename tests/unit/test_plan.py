"""The plan says what a night has to do, and does not do again what is registered."""

import gc
import tracemalloc
from pathlib import Path

from esd_core import digest
from esd_core.backbones.families import FAMILIES
from esd_core.base_model import ResolvedBase
from esd_core.concept_list import ConceptList, ListMode
from esd_core.concepts import ConceptEntry, ConceptKind, ErasureJob
from esd_core.evaluation.suite import Suite
from esd_core.recipe import ParameterSubset
from tasks.nights.jobs import comparison_of, job_of
from tasks.nights.plan import Plan, PlanStatus, differences, plan_night
from tasks.records.registry import RegisteredVersion, model_name


def base_of(name: str, digest: str) -> ResolvedBase:
    return ResolvedBase(name, Path("model"), digest * 64, FAMILIES["StableDiffusionPipeline"])


BASE = base_of("miniature", "b")
HOUSE = ConceptEntry(name="house", kind=ConceptKind.OBJECT, iterations=300)
SUN = ConceptEntry(name="sun", kind=ConceptKind.GLOBAL, compare_with=ParameterSubset.ESD_X)


def registered(job: ErasureJob, version: int = 1) -> RegisteredVersion:
    return RegisteredVersion(
        model=model_name(job),
        version=version,
        run_id="run",
        job=job,
        job_digest=job.digest,
        weights_digest="w" * 64,
        status="READY",
        passed=True,
        files={},
        artifacts="file:///artifacts",
    )


def plan_of(*entries: ConceptEntry, known: list[RegisteredVersion]) -> Plan:
    return plan_night(ConceptList(concepts=entries), BASE, known)


def test_what_is_not_registered_is_new() -> None:
    plan = plan_of(HOUSE, SUN, known=[])
    assert [planned.status for planned in plan.jobs] == [PlanStatus.NEW, PlanStatus.NEW]
    assert plan.sentence == "2 new"


def test_what_is_registered_under_its_digest_is_unchanged() -> None:
    known = registered(job_of([HOUSE], BASE))
    plan = plan_of(HOUSE, known=[known])
    assert plan.all_unchanged
    assert plan.jobs[0].version == known
    assert plan.sentence == "everything unchanged"


def test_a_thousand_concepts_take_less_than_ten_megabytes() -> None:
    """As the night has them in memory when it has planned: the list, and the plan with what is registered."""
    own = {"iterations": 300, "learning_rate": 1e-4}
    gc.collect()
    tracemalloc.start()
    rows = tuple(ConceptEntry(name=f"thing {n}", kind=ConceptKind.OBJECT, **own) for n in range(1000))
    files = [f"{name}.json" for name in "abcdefgh"]
    known = [as_registered(registered(job_of([row], BASE)), files) for row in rows[10:]]
    plan = plan_of(*rows, known=known)
    del known
    gc.collect()
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(plan.to_do) == 10
    assert kept < 10e6, kept


def as_registered(version: RegisteredVersion, files: list[str]) -> RegisteredVersion:
    """As it comes from the registry: nothing of it is shared with anything."""
    listed = {file: digest.of_bytes(f"{version.model} {file}".encode()) for file in files}
    return RegisteredVersion.model_validate_json(version.model_copy(update={"files": listed}).model_dump_json())


def test_a_changed_setting_is_named_with_its_old_and_new_value() -> None:
    plan = plan_of(HOUSE.model_copy(update={"iterations": 401}), known=[registered(job_of([HOUSE], BASE))])
    assert plan.jobs[0].status is PlanStatus.CHANGED
    assert plan.jobs[0].changes == ("iterations: 300 -> 401",)


def test_what_was_measured_is_called_auto() -> None:
    measured = job_of([HOUSE.model_copy(update={"iterations": None})], BASE)
    assert differences(measured, job_of([HOUSE], BASE)) == ("iterations: auto -> 300",)
    assert differences(job_of([HOUSE], BASE), measured) == ("iterations: 300 -> auto",)


def test_a_judge_that_nobody_was_before_is_named(tiny_suite: Suite) -> None:
    house = HOUSE.model_copy(update={"iterations": None})
    before, after = job_of([house], BASE), job_of([house], BASE, tiny_suite)
    assert after.judge is not None
    assert differences(before, after) == (f"judge: nobody -> {after.judge[:12]}",)
    assert job_of([HOUSE], BASE, tiny_suite).digest == job_of([HOUSE], BASE).digest


def test_what_was_erased_everywhere_is_told_as_such() -> None:
    from_a_street = HOUSE.model_copy(update={"erase_from": "street"})
    before, after = job_of([HOUSE, SUN], BASE), job_of([from_a_street, SUN], BASE)
    assert differences(before, after) == ("house.erase_from: everything -> street",)


def test_other_base_weights_change_every_job() -> None:
    retrained = base_of("miniature", "c")
    assert differences(job_of([HOUSE], BASE), job_of([HOUSE], retrained)) == ("base model: other weights",)


def test_changes_are_told_against_the_latest_version() -> None:
    first, second = (job_of([HOUSE.model_copy(update={"iterations": n})], BASE) for n in (100, 200))
    plan = plan_of(HOUSE, known=[registered(second, 2), registered(first, 1)])
    assert plan.jobs[0].changes == ("iterations: 200 -> 300",)


def test_going_back_to_earlier_settings_finds_the_earlier_version() -> None:
    first, second = job_of([HOUSE], BASE), job_of([HOUSE.model_copy(update={"seed": 7})], BASE)
    plan = plan_of(HOUSE, known=[registered(first, 1), registered(second, 2)])
    assert plan.jobs[0].version is not None
    assert plan.jobs[0].version.version == 1


def test_what_left_the_list_is_retired_and_other_bases_are_left_alone() -> None:
    elsewhere = base_of("other/folder", "d")
    known = [registered(job_of([SUN], BASE)), registered(job_of([SUN], elsewhere))]
    plan = plan_of(HOUSE, known=known)
    assert [version.model for version in plan.retired] == ["esd-miniature-sun"]
    assert plan.sentence == "1 new, 1 retired"


def test_a_comparison_changes_the_subset_and_nothing_else() -> None:
    job = job_of([SUN], BASE)
    comparison = comparison_of(SUN, BASE)
    assert comparison is not None
    assert differences(job, comparison) == ("subset: esd-u -> esd-x",)


def test_nothing_is_compared_with_itself() -> None:
    same = SUN.model_copy(update={"compare_with": ParameterSubset.ESD_U})
    assert comparison_of(same, BASE) is None


def test_a_joint_list_is_one_job_without_all_concepts() -> None:
    wanted = ConceptList(concepts=(HOUSE, SUN), mode=ListMode.JOINT)
    (planned,) = plan_night(wanted, BASE, []).jobs
    assert [concept.name for concept in planned.job.concepts] == ["house", "sun"]
    assert (planned.job.name, planned.comparison) == ("house + sun", None)
    assert model_name(planned.job).startswith("esd-miniature-joint-house-sun-")


def test_a_joint_job_says_which_concept_changed() -> None:
    before = job_of([HOUSE, SUN], BASE)
    after = job_of([HOUSE, SUN.model_copy(update={"seed": 7})], BASE)
    assert differences(before, after) == ("sun.seed: 0 -> 7",)
