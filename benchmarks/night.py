"""What orchestration costs, on real servers with PostgreSQL: `python -m benchmarks.night [--planning-only]`.

A night's fixed cost, its cost for each concept with one and two runners, what of a concept's time within a share is no
U-Net's, how long a list of 1,000 takes to plan, and how much memory the planning process needs for it.
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

from tests.postgres import private_cluster
from tests.survival.yard import Yard, opened

LISTED, NEW = 1000, 10
NIGHTS = [(concepts, runners) for runners in (1, 2) for concepts in (1, 2, 4, 8)]
NAMES = ("car", "house", "tree", "sun", "boat", "fish", "star", "church")
STEPS = {"iterations": 4, "learning_rate": 1e-4, "negative_guidance": 2.0, "batch_size": 1, "rollout_steps": 4}
UNET = ("erase ", "evaluate ")  # tasks whose time is the U-Net's, loading included


def night(yard: Yard, concepts: int, runners: int, seed: int) -> dict[str, float]:
    """One night on the miniature: seconds in all, and per concept outside of erasing and evaluating."""
    rows = [{"name": name, "kind": "object", "seed": seed, **STEPS} for name in NAMES[:concepts]]
    gates = {"erased_at_most": 1.0, "others_drop_at_most": 1.0}
    run = yard.start_night({"concepts": rows, "runners": runners, "images_per_probe": 1, "approval": "gates", **gates})
    ended = yard.end_of(run, 1800)
    assert ended.state_name == "Completed", yard.story(run)
    shares = yard.children(run)
    outside = [_outside_of_unet(yard, concept.id) for share in shares for concept in yard.children(share.id)]
    return {"seconds": ended.total_run_time.total_seconds(), "overhead": sum(outside) / max(1, len(outside))}


def _outside_of_unet(yard: Yard, concept: Any) -> float:
    """Seconds of a concept's run that none of its erasing and evaluating tasks took."""
    with yard.client() as client:
        own = client.read_flow_run(concept)
        wanted = {"flow_runs": {"id": {"any_": [str(concept)]}}}
        tasks = client.request("POST", "/task_runs/filter", json=wanted).json()
    inside = sum(task["total_run_time"] for task in tasks if task["name"].startswith(UNET))
    return own.total_run_time.total_seconds() - float(inside)


def write_long_list(folder: Path) -> Path:
    """A list of 1,000 objects, and a suite that measures each."""
    names = [f"thing number {n}" for n in range(LISTED)]
    (folder / "eye").mkdir()
    (folder / "eye" / "config.json").write_text("{}")
    probes = [{"name": n, "concept": n, "classifier": "eye", "label": "yes", "prompts": [f"a {n}"]} for n in names]
    (folder / "suite.yaml").write_text(yaml.safe_dump({"classifiers": {"eye": {"model": "eye"}}, "probes": probes}))
    rows = [{"name": name, "kind": "object", **STEPS} for name in names]
    path = folder / "list.yaml"
    path.write_text(yaml.safe_dump({"suite": str(folder / "suite.yaml"), "concepts": rows}))
    return path


def register_all_but_ten(path: Path) -> None:
    """Versions as the registry has them after 990 erasures; there is no other way to have so many."""
    from mlflow import MlflowClient

    from esd_core.base_model import resolve_base
    from esd_core.concepts import ApprovalPolicy
    from esd_core.list_file import load_concept_list
    from tasks import registry
    from tasks.jobs import jobs_of
    from tasks.settings import get_settings

    client, wanted = MlflowClient(get_settings().mlflow_tracking_uri), load_concept_list(path)
    experiment = client.create_experiment("erased before")
    run = client.create_run(experiment).info
    for job, _ in jobs_of(wanted, resolve_base(wanted.base))[NEW:]:
        name, told = registry.model_name(job), job.model_dump_json()
        about = {"esd.format": registry.FORMAT, "esd.job_digest": job.digest, "esd.job": told, "esd.gates": "passed"}
        files = {registry.POLICY_TAG: ApprovalPolicy.GATES.value, "esd.weights_digest": "0" * 64, "esd.files": "{}"}
        client.create_registered_model(name)
        client.create_model_version(name, str(run.artifact_uri), run.run_id, tags={**about, **files})


def plan(path: Path) -> dict[str, float]:
    """Read, check and plan a list in this process; seconds, what is to be done, and how much memory it took."""
    from tasks.lists import read_list
    from tasks.plan import plan_tonight

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
    environment = {**yard.environment, "ESD_HOME": str(yard.home("nights"))}
    command = [sys.executable, "-m", "benchmarks.night", "--step", step, "--list", str(path)]
    done = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--planning-only", action="store_true", help="no nights, only the list of 1,000")
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
            print_nights(yard)
        path = write_long_list(Path(folder))
        in_process(yard, "register", path)
        print_planning(in_process(yard, "plan", path))


def print_nights(yard: Yard) -> None:
    yard.start_worker("runner-1", "esd-gpu")
    yard.start_worker("runner-2", "esd-gpu")
    night(yard, 8, 2, seed=99)  # images of the base are made once
    idle = yard.end_of(yard.start_night({"concepts": [{"name": "car", "kind": "object", "seed": 99, **STEPS}]}))
    print(f"a night with nothing new: {idle.total_run_time.total_seconds():.1f} s")
    print("| concepts | runners | night, s | per concept, s | of it neither erasing nor evaluating, s |")
    print("|---|---|---|---|---|")
    for seed, (concepts, runners) in enumerate(NIGHTS):
        took = night(yard, concepts, runners, seed)
        each = took["seconds"] / concepts
        print(f"| {concepts} | {runners} | {took['seconds']:.1f} | {each:.1f} | {took['overhead']:.2f} |", flush=True)


def print_planning(planned: dict[str, float]) -> None:
    print(
        f"a list of {LISTED}, {planned['unchanged']:.0f} of it unchanged and {planned['to do']:.0f} to do: planned in "
        f"{planned['seconds']:.1f} s ({planned['busy']:.1f} s of them computing, the rest waiting), "
        f"{planned['MB']:.0f} MB more than for the demo's three"
    )


if __name__ == "__main__":
    main()
