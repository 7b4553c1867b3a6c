"""`deploy/`, as far as it can be checked without Docker, Kubernetes and Slurm."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from nanochat.variables import VARIABLES

PROJECT = Path(__file__).parents[2]
DEPLOY = PROJECT / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
KUBERNETES = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))
TEMPLATES = {
    name: json.loads(text)
    for entry in KUBERNETES
    if entry["metadata"]["name"] == "job-templates"
    for name, text in entry["data"].items()
}
PINNED = re.compile(r"[a-z/]+:\d+\.\d+[\w.-]*")


def values(tree: Any, name: str) -> Iterator[Any]:
    """What stands under a name, anywhere in a tree."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            if key == name:
                yield value
            yield from values(value, name)
    elif isinstance(tree, list):
        for value in tree:
            yield from values(value, name)


def test_every_image_is_pinned() -> None:
    dockerfile = (DEPLOY / "worker.Dockerfile").read_text()
    images = [
        *values(COMPOSE, "image"),
        *values(KUBERNETES, "image"),
        *re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE),
        *(template["variables"]["properties"]["image"]["default"] for template in TEMPLATES.values()),
    ]
    assert len(images) > 10
    assert [image for image in images if not PINNED.fullmatch(image)] == []


def test_both_sites_take_the_same_images() -> None:
    ours = {image for image in [*values(COMPOSE, "image"), *values(KUBERNETES, "image")] if "nanochat" in image}
    assert len(ours) == 1
    databases = {image for image in [*values(COMPOSE, "image"), *values(KUBERNETES, "image")] if "postgres" in image}
    assert len(databases) == 1


@pytest.mark.skipif(importlib.util.find_spec("prefect") is None, reason="prefect is not installed")
def test_every_environment_variable_is_known() -> None:
    from prefect.settings import Settings
    from prefect.settings.legacy import _get_settings_fields

    ours = {variable.name for variable in VARIABLES}
    # prefect-kubernetes has settings of its own, and it is not a part of what we install for tests
    known = {*_get_settings_fields(Settings), *ours, "PREFECT_INTEGRATIONS_KUBERNETES_OBSERVER_NAMESPACES"}
    assert "NANOCHAT_STORE" in known
    for path in DEPLOY.iterdir():
        # PREFECT_PORT is no setting but a blank of the compose file
        found = set(re.findall(r"\b(?:NANOCHAT|PREFECT)_[A-Z_]+", path.read_text())) - {"PREFECT_PORT", "PREFECT_"}
        assert found - known == set(), path.name


def test_nothing_is_published_beyond_loopback() -> None:
    published = [port for service in COMPOSE["services"].values() for port in service.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)
    kinds = {entry["spec"].get("type", "ClusterIP") for entry in KUBERNETES if entry["kind"] == "Service"}
    assert kinds == {"ClusterIP"}


def model_servers() -> list[tuple[list[str], float]]:
    """Command of each model server, and the seconds between TERM and KILL, without those before TERM."""
    service = COMPOSE["services"]["models"]
    (deployment,) = [entry for entry in KUBERNETES if (entry["kind"], entry["metadata"]["name"]) == DEPLOYED]
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    waits = float(container["lifecycle"]["preStop"]["exec"]["command"][1])
    return [
        (service["command"], float(service["stop_grace_period"].removesuffix("s"))),
        (container["args"], pod["terminationGracePeriodSeconds"] - waits),
    ]


DEPLOYED = ("Deployment", "models")


@pytest.mark.parametrize("number", range(2))
def test_a_model_server_follows_an_alias_and_has_time_for_running_answers(number: int) -> None:
    from nanochat.cli import main
    from nanochat.serve.server import CLOSING_S

    command, grace_s = model_servers()[number]
    assert command[0] == "nanochat"
    filled = [re.sub(r"\$\{\w+:-(.*)\}", r"\1", word) for word in command[1:]]
    function, bound, _ = main.app.parse_args(filled, exit_on_error=False)
    assert function.__name__ == "serve"
    assert bound.arguments["follow"][0].startswith("chat/")
    assert not bound.arguments.get("models"), "the alias alone"
    assert bound.arguments["drain_s"] + CLOSING_S < grace_s


def test_clients_of_models_in_a_cluster_need_a_token_and_pods_none_of_the_cluster() -> None:
    (deployment,) = [entry for entry in KUBERNETES if (entry["kind"], entry["metadata"]["name"]) == DEPLOYED]
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    (token,) = [entry for entry in container["env"] if entry["name"] == "NANOCHAT_SERVE_TOKEN"]
    assert not token["valueFrom"]["secretKeyRef"].get("optional"), "without the Secret the pod waits"


def test_probes_of_the_model_server_are_open_routes() -> None:
    from nanochat.serve.access import OPEN_PATHS

    (deployment,) = [entry for entry in KUBERNETES if (entry["kind"], entry["metadata"]["name"]) == DEPLOYED]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    paths = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")}
    assert paths == {"startup": "/health", "liveness": "/health", "readiness": "/ready"}
    assert set(paths.values()) < OPEN_PATHS
    assert "8000/ready" in COMPOSE["services"]["models"]["healthcheck"]["test"][-1]


def test_the_image_has_the_packages_of_its_programs() -> None:
    (line,) = re.findall(r"groups = \((.*)\)", (DEPLOY / "worker.Dockerfile").read_text())
    assert {"flows", "serve", "kubernetes"} <= set(re.findall(r"'(\w+)'", line))


def test_no_secret_is_written_down() -> None:
    secret = re.compile(r"^ *(\w*(?:PASSWORD|SECRET|KEY|TOKEN)\w*) *[:=] *(.*)$", re.MULTILINE)
    for path in DEPLOY.iterdir():
        for name, value in secret.findall(path.read_text()):
            assert not value or value.startswith("${"), f"{path.name}: {name}"
    ignored = subprocess.run(["git", "check-ignore", "-q", "deploy/.env"], cwd=PROJECT).returncode
    assert ignored in (0, 128), "git would take deploy/.env in"  # 128: no clone


def test_every_blank_of_the_compose_file_is_in_the_example() -> None:
    blanks = set(re.findall(r"\$\{([A-Z_]+)", (DEPLOY / "compose.yaml").read_text()))
    assert blanks == set(re.findall(r"^#? ?([A-Z_]+)=", (DEPLOY / "env.example").read_text(), re.MULTILINE))


def test_what_the_image_copies_is_there_and_not_ignored() -> None:
    allowed = {line[1:] for line in (PROJECT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (DEPLOY / "worker.Dockerfile").read_text(), re.MULTILINE)
    paths = {path for line in copied for path in line.split()}
    assert paths == allowed
    for path in paths:
        assert (PROJECT / path).exists(), path


def test_pools_of_the_deployments_have_workers_and_templates() -> None:
    entries = yaml.safe_load((PROJECT / "prefect.yaml").read_text())["deployments"]
    pools = {entry["work_pool"]["name"] for entry in entries}
    commands = [*(entry.get("command", []) for entry in COMPOSE["services"].values()), *values(KUBERNETES, "args")]
    for pool in pools:
        assert sum(command[:3] == ["prefect", "worker", "start"] and pool in command for command in commands) == 2
        assert f"{pool}.json" in TEMPLATES


def test_jobs_of_the_gpu_pool_ask_for_gpus() -> None:
    for name, count in (("cpu.json", []), ("gpu.json", ["{{ gpus }}"])):
        assert list(values(TEMPLATES[name], "nvidia.com/gpu")) == count
    for template in TEMPLATES.values():
        used = set(re.findall(r"\{\{ (\w+) \}\}", json.dumps(template["job_configuration"])))
        assert used == set(template["variables"]["properties"])


@pytest.mark.parametrize(("name", "gpus"), [("cpu.json", None), ("gpu.json", 1)])
def test_prefect_makes_jobs_of_the_templates(name: str, gpus: int | None) -> None:
    worker = pytest.importorskip("prefect_kubernetes.worker", reason="prefect-kubernetes is not installed")
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):  # none: or it would start a server
        made = asyncio.run(worker.KubernetesWorkerJobConfiguration.from_template_and_values(TEMPLATES[name], {}))
    (container,) = made.job_manifest["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "nanochat:0.1.0"
    assert container["resources"]["limits"].get("nvidia.com/gpu") == gpus
    assert container["envFrom"] == [{"secretRef": {"name": "nanochat-store"}}]


def test_shell_scripts_are_sound() -> None:
    subprocess.run(["bash", "-n", str(DEPLOY / "slurm.sh")], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", str(DEPLOY / "slurm.sh")], check=True)


FAKES = {
    # a run that ends by itself, or on a signal; then its supervisor needs a second more
    "nanochat": """
        echo "$@" >> "$FAKES/called"
        [ "$1" = run ] || exit 7
        (exec -a "python -m nanochat.workers.supervisor $NANOCHAT_HOME/runs/log.txt" \\
            bash -c 'sleep 1.5; echo saved >> "$FAKES/called"; exit 0' ) &
        trap 'echo TERM >> "$FAKES/called"; exit 75' TERM
        touch "$FAKES/up"
        while :; do sleep 0.05; done""",
    "squeue": """echo "$STATE" """,
    "scontrol": """echo scontrol "$@" >> "$FAKES/called" """,
}


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with programs that log their calls in `called`."""
    for name, text in FAKES.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    for name, value in {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "FAKES": str(tmp_path),
        "NANOCHAT_HOME": str(tmp_path / "home"),
        "NANOCHAT_STORE": f"file://{tmp_path}/store",
        "SLURM_JOB_ID": "17",
        "STATE": "RUNNING",
    }.items():
        monkeypatch.setenv(name, value)
    return tmp_path


def test_slurm_passes_an_exit_code_on(slurm: Path) -> None:
    assert subprocess.run([str(DEPLOY / "slurm.sh"), "plan", "--set", "a=b c"]).returncode == 7
    assert (slurm / "called").read_text().splitlines() == ["plan --set a=b c"]


def test_slurm_wants_a_store(slurm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NANOCHAT_STORE")
    done = subprocess.run([str(DEPLOY / "slurm.sh")], capture_output=True, text=True)
    assert done.returncode != 0
    assert "NANOCHAT_STORE" in done.stderr


@pytest.mark.parametrize(("state", "requeued"), [("RUNNING", ["scontrol requeue 17"]), ("COMPLETING", [])])
def test_slurm_forwards_the_signal_waits_and_requeues(
    slurm: Path, monkeypatch: pytest.MonkeyPatch, state: str, requeued: list[str]
) -> None:
    monkeypatch.setenv("STATE", state)
    job = subprocess.Popen([str(DEPLOY / "slurm.sh")])
    while not (slurm / "up").exists():
        assert job.poll() is None
        time.sleep(0.05)
    job.send_signal(signal.SIGTERM)
    assert job.wait() == 75
    assert (slurm / "called").read_text().splitlines() == ["run --profile d12", "TERM", "saved", *requeued]
