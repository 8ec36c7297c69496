"""The work-pool templates for GPUs: whole, and made for the workers that Prefect ships."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from prefect.utilities.templating import find_placeholders

POOLS = Path(__file__).parents[2] / "infra" / "work_pools"
SHIPPED = json.loads(
    (files("prefect") / "server/api/collections_data/views/aggregate-worker-metadata.json").read_text(encoding="utf-8")
)


def template(kind: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((POOLS / f"{kind}.json").read_text(encoding="utf-8"))
    return read


def shipped(kind: str) -> dict[str, Any]:
    default: dict[str, Any] = SHIPPED[f"prefect-{kind}"][kind]["default_base_job_configuration"]
    return default


@pytest.mark.parametrize("kind", ["kubernetes", "docker"])
def test_every_placeholder_is_a_variable_and_every_variable_is_used(kind: str) -> None:
    ours = template(kind)
    placed = {placeholder.name for placeholder in find_placeholders(ours["job_configuration"])}
    variables = ours["variables"]["properties"]
    assert placed == variables.keys()
    for name, variable in variables.items():
        assert variable["title"], name
        if "pattern" in variable:
            assert re.fullmatch(variable["pattern"], variable["default"]), name


@pytest.mark.parametrize("kind", ["kubernetes", "docker"])
def test_what_prefects_own_template_hands_to_its_worker_ours_does_too(kind: str) -> None:
    theirs, ours = shipped(kind)["job_configuration"], template(kind)["job_configuration"]
    optional = {"registry_credentials", "container_wait_timeout", "memswap_limit"}  # a worker has defaults for them
    assert theirs.keys() - ours.keys() <= optional
    assert ours.keys() - theirs.keys() <= {"container_create_kwargs"}


def test_a_kubernetes_runner_gets_a_gpu_a_node_that_has_one_and_shared_memory() -> None:
    ours, theirs = template("kubernetes")["job_configuration"], shipped("kubernetes")["job_configuration"]
    job = ours["job_manifest"]
    assert job["metadata"] == theirs["job_manifest"]["metadata"]
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "{{ gpus }}"
    assert pod["nodeSelector"] == "{{ node_selector }}"
    (mount,), (volume,) = container["volumeMounts"], pod["volumes"]
    assert (mount["mountPath"], mount["name"]) == ("/dev/shm", volume["name"])
    assert volume["emptyDir"] == {"medium": "Memory", "sizeLimit": "{{ shared_memory }}"}
    assert job["spec"]["backoffLimit"] == 0  # the night deals again, not Kubernetes


def test_a_docker_runner_gets_one_gpu_and_shared_memory() -> None:
    created = template("docker")["job_configuration"]["container_create_kwargs"]
    (request,) = created["device_requests"]
    assert request["DeviceIDs"] == ["{{ gpu }}"]
    assert request["Capabilities"] == [["gpu"]]
    assert created["shm_size"] == "{{ shared_memory }}"
