"""What orchestration costs, on real servers with PostgreSQL: `python -m benchmarks.night [--planning-only]`.

A night's fixed cost, its cost for each concept with one and two runners, what of a concept's time within a share is no
U-Net's, how long a list of 1,000 takes to plan, and how much memory the planning process needs for it. Recipes are
short: orchestration costs the same for long ones.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from benchmarks.share import GATES, NAMES, RECIPE
from tests.postgres import private_cluster
from tests.survival.yard import Yard, opened

TITLES = {
    "unet": "the U-Net at work, forwards and backwards",
    "waiting": "the U-Net waiting for the processor",
    "erasing": "the rest of erasing",
    "evaluating": "the rest of evaluating",
    "elsewhere": "between these steps",
    "overhead": "not in the U-Net, in all",
}
ASKED = {"mlflow": "requests to MLflow", "s3": "requests to S3"}
FILES = ("weights", "outcome", "history", "evaluation", "grid", "report", "verdict", "model")  # of a version
LISTED, NEW = 1000, 10
NIGHTS = [(concepts, runners) for runners in (1, 2) for concepts in (1, 2, 4, 8)]


def night(yard: Yard, concepts: int, runners: int, seed: int) -> float:
    """Seconds of one night on the miniature."""
    rows = [{"name": name, "kind": "object", "seed": seed, **RECIPE} for name in NAMES[:concepts]]
    run = yard.start_night({"concepts": rows, "runners": runners, "images_per_probe": 1, "approval": "gates", **GATES})
    ended = yard.end_of(run, 1800)
    assert ended.state_name == "Completed", yard.story(run)
    return ended.total_run_time.total_seconds()


def write_long_list(folder: Path) -> Path:
    """A list of 1,000 objects, and a suite that measures each."""
    names = [f"thing number {n}" for n in range(LISTED)]
    (folder / "eye").mkdir()
    (folder / "eye" / "config.json").write_text("{}")
    probes = [{"name": n, "concept": n, "classifier": "eye", "label": "yes", "prompts": [f"a {n}"]} for n in names]
    (folder / "suite.yaml").write_text(yaml.safe_dump({"classifiers": {"eye": {"model": "eye"}}, "probes": probes}))
    rows = [{"name": name, "kind": "object", **RECIPE} for name in names]
    path = folder / "list.yaml"
    path.write_text(yaml.safe_dump({"suite": str(folder / "suite.yaml"), "concepts": rows}))
    return path


def register_all_but_ten(path: Path) -> None:
    """Versions as the registry has them after 990 erasures; there is no other way to have so many."""
    from mlflow import MlflowClient

    from esd_core import digest
    from esd_core.base_model import resolve_base
    from esd_core.concept_list import ApprovalPolicy
    from esd_core.list_file import load_concept_list
    from tasks.nights.jobs import jobs_of
    from tasks.records import registry
    from tasks.settings import get_settings

    client, wanted = MlflowClient(get_settings().mlflow_tracking_uri), load_concept_list(path)
    experiment = client.create_experiment("erased before")
    run = client.create_run(experiment).info
    for job, _ in jobs_of(wanted, resolve_base(wanted.base))[NEW:]:
        name, told = registry.model_name(job), job.model_dump_json()
        about = {"esd.format": registry.FORMAT, "esd.job_digest": job.digest, "esd.job": told, "esd.gates": "passed"}
        listed = json.dumps({file: digest.of_bytes(f"{name} {file}".encode()) for file in FILES})
        files = {registry.POLICY_TAG: ApprovalPolicy.GATES.value, "esd.weights_digest": "0" * 64, "esd.files": listed}
        client.create_registered_model(name)
        client.create_model_version(name, str(run.artifact_uri), run.run_id, tags={**about, **files})


def plan(path: Path) -> dict[str, float]:
    """Read, check and plan a list in this process; seconds, what is to be done, and how much memory it took."""
    from tasks.nights.lists import read_list
    from tasks.nights.plan import plan_tonight

    plan_tonight(read_list("infra/lists/demo.yaml"))  # everything is imported and connected
    before, began, busy = _resident(), time.monotonic(), time.process_time()
    planned = plan_tonight(read_list(str(path)))
    taken, busy = time.monotonic() - began, time.process_time() - busy
    assert "torch" not in sys.modules
    return {
        "seconds": taken,
        "to do": len(planned.to_do),
        "unchanged": len(planned.jobs) - len(planned.to_do),
        "MB": _resident() - before,
        "busy": busy,
    }


def _resident() -> float:
    """Memory of this process in MB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def in_process(yard: Yard, step: str, path: Path) -> Any:
    """A step of this module in a process that has the yard's settings; what it prints, as JSON."""
    return told_by(yard, "nights", "benchmarks.night", "--step", step, "--list", str(path))


def told_by(yard: Yard, home: str, *module: str) -> Any:
    """What a module prints as its last line, as JSON."""
    environment = {**yard.environment, "ESD_HOME": str(yard.home(home))}
    done = subprocess.run(
        [sys.executable, "-m", *module], check=True, env=environment, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--planning-only", action="store_true", help="no nights, only the list of 1,000")
    parser.add_argument("--share-only", action="store_true", help="no nights and no list, only one share")
    parser.add_argument("--step", choices=["register", "plan"], help=argparse.SUPPRESS)
    parser.add_argument("--list", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step == "register":
        register_all_but_ten(arguments.list)
        print("{}")
        return
    if arguments.step == "plan":
        print(json.dumps(plan(arguments.list)))
        return
    with (
        tempfile.TemporaryDirectory() as folder,
        private_cluster("prefect", "mlflow") as databases,
        opened(Path(folder) / "yard", databases) as yard,
    ):
        if not arguments.planning_only:
            if not arguments.share_only:
                print_nights(yard)
            print_share(yard)
        if arguments.share_only:
            return
        path = write_long_list(Path(folder))
        in_process(yard, "register", path)
        print_planning(in_process(yard, "plan", path))


def print_nights(yard: Yard) -> None:
    yard.start_worker("runner-1", "esd-gpu")
    yard.start_worker("runner-2", "esd-gpu")
    night(yard, 8, 2, seed=99)  # images of the base are made once
    idle = yard.start_night({"concepts": [{"name": NAMES[0], "kind": "object", "seed": 99, **RECIPE}]})
    print(f"a night with nothing new: {yard.end_of(idle).total_run_time.total_seconds():.1f} s")
    print("| concepts | runners | night, s | per concept, s |")
    print("|---|---|---|---|")
    for seed, (concepts, runners) in enumerate(NIGHTS):
        took = night(yard, concepts, runners, seed)
        print(f"| {concepts} | {runners} | {took:.1f} | {took / concepts:.1f} |", flush=True)


def print_share(yard: Yard) -> None:
    all_of_them = told_by(yard, "runner-1", "benchmarks.share", "98")
    first, *others = all_of_them
    print("| seconds of a concept within a share | the first | each of the others |")
    print("|---|---|---|")
    for name, title in TITLES.items():
        mean = sum(one[name] for one in others) / len(others)
        print(f"| {title} | {first[name]:.2f} | {mean:.2f} |", flush=True)
    for name, title in ASKED.items():
        print(f"{title}, for each concept: {sum(one[name] for one in all_of_them) / len(all_of_them):.0f}", flush=True)


def print_planning(planned: dict[str, float]) -> None:
    print(
        f"a list of {LISTED}, {planned['unchanged']:.0f} of it unchanged and {planned['to do']:.0f} to do: planned in "
        f"{planned['seconds']:.1f} s ({planned['busy']:.1f} s of them computing, the rest waiting), "
        f"{planned['MB']:.0f} MB more than for the demo's three"
    )


if __name__ == "__main__":
    main()
