"""The files for clusters: as far as they can be checked without one."""

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml

from buildup.engine.run import open_run
from buildup.execution.counters import COUNTED
from buildup.settings import ResumeSettings, SearchSettings

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
SETTINGS = {"search": SearchSettings, "resume": ResumeSettings}


def read(name: str) -> Any:
    return yaml.safe_load((DEPLOY / name).read_text())


def test_ray_accepts_the_cluster_of_a_cloud() -> None:
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    cluster = read("ray-cluster.yaml")
    jsonschema.validate(cluster, schema)
    assert cluster["head_node_type"] in cluster["available_node_types"]


def test_the_kubernetes_job_mounts_what_it_declares() -> None:
    job = read("rayjob.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        pod = group["template"]["spec"]
        declared = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= declared
    pinned = re.search(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned
    assert cluster["rayVersion"] == pinned[1]


def test_the_image_installs_what_the_project_offers() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    asked = re.search(r"pip install .*'\.\[(\w+)\]'", text)
    assert asked
    assert asked[1] in extras
    assert (ROOT / "constraints.txt").is_file()


@pytest.mark.parametrize("name", ["slurm.sh", "ray-cluster.yaml", "rayjob.yaml", "../docs/cluster.md"])
def test_commands_have_flags_that_exist(name: str) -> None:
    text = (DEPLOY / name).read_text().replace("\\\n", " ").replace("#", " ")
    found = re.findall(r"buildup (search|resume) ([^;\n`]*)", text)
    assert found
    for command, flags in found:
        known = {f"--{field.name.replace('_', '-')}" for field in fields(SETTINGS[command])}
        assert {flag for flag in re.findall(r"--[a-z-]+", flags) if flag != "--"} <= known


@pytest.mark.parametrize("script", [DEPLOY / "slurm.sh", ROOT / ".ci" / "run"], ids=lambda script: script.name)
def test_scripts_are_without_a_finding_of_shellcheck(script: Path) -> None:
    checker = str(Path(sys.executable).with_name("shellcheck"))
    done = subprocess.run([checker, str(script)], capture_output=True, text=True, check=False)
    assert done.stdout + done.stderr == ""


def test_the_slurm_script_asks_in_options_of_one_word() -> None:
    script = str(DEPLOY / "slurm.sh")
    options = re.findall(r"^#SBATCH (.+)$", Path(script).read_text(), re.MULTILINE)
    assert all(len(shlex.split(option)) == 1 for option in options)


def test_the_page_on_clusters_names_each_counter() -> None:
    assert set(re.findall(r"`(?:ray_buildup_)(\w+)_total", (ROOT / "docs/cluster.md").read_text())) == COUNTED.keys()


@pytest.mark.slow
def test_a_job_that_is_submitted_searches_on_the_cluster(
    tmp_path: Path, start: Callable[..., "subprocess.Popen[str]"]
) -> None:
    port, page, agent = free_ports(3)
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    program = str(Path(sys.executable).with_name("ray"))
    temporary = Path(tempfile.mkdtemp(prefix="ray-"))  # the path of a socket has at most 107 characters
    flags = [f"--port={port}", f"--dashboard-port={page}", f"--dashboard-agent-listen-port={agent}"]
    flags += ["--num-cpus=2", f"--temp-dir={temporary}"]
    head = start([program, "start", "--head", "--block", *flags], env=environment, stdout=subprocess.DEVNULL)
    try:
        run = tmp_path / "job"
        asked = ["--base", "test_resnet", "--dataset", "digits", "--fraction", "1/8", "--epochs", "1", "--seeds", "1"]
        search = [sys.executable, "-m", "buildup", "search", *asked, "--allow-weak-base", "--run", str(run)]
        submit = [program, "job", "submit", "--address", f"http://127.0.0.1:{page}", "--", *search]
        end = time.monotonic() + 120
        while (done := subprocess.run(submit, env=environment, capture_output=True, text=True, check=False)).returncode:
            assert head.poll() is None
            assert re.search("Failed to connect|No available agent", done.stderr), done.stderr + done.stdout
            assert time.monotonic() < end
            time.sleep(1)
        assert open_run(run).status == "finished"
    finally:
        head.terminate()
        head.wait(timeout=60)
        shutil.rmtree(temporary)


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(probe.getsockname()[1]) for probe in probes]
