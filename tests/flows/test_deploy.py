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
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from nanochat.variables import VARIABLES
from tests.compute import compute

PROJECT = Path(__file__).parents[2]
DEPLOY = PROJECT / "deploy"
DOCKERFILE = (DEPLOY / "worker.Dockerfile").read_text()
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
KUBERNETES = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))
TEMPLATES = {
    name: json.loads(text)
    for entry in KUBERNETES
    if entry["metadata"]["name"] == "job-templates"
    for name, text in entry["data"].items()
}
PINNED = re.compile(r"[a-z/-]+:\d+\.\d+[\w.-]*")


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
    stages = re.findall(r"^FROM (\S+) AS (\S+)$", DOCKERFILE, re.MULTILINE)
    names = {"scratch", *(name for _, name in stages)}
    images = [
        *values(COMPOSE, "image"),
        *values(KUBERNETES, "image"),
        *(image for image, _ in stages if image not in names),
        *(template["variables"]["properties"]["image"]["default"] for template in TEMPLATES.values()),
    ]
    assert len(images) > 10
    assert [image for image in images if not PINNED.fullmatch(image)] == []


def test_both_sites_take_the_same_images() -> None:
    of_compose, of_kubernetes = (
        {image for image in values(site, "image") if "nanochat" in image} for site in (COMPOSE, KUBERNETES)
    )
    assert of_compose == of_kubernetes == {"nanochat:0.1.0", "nanochat-control:0.1.0"}
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


def layers(stage: str) -> list[str]:
    """The instructions of a stage of the Dockerfile, with those of the stages that it begins from."""
    found = re.search(rf"^FROM (\S+) AS {stage}$(.*?)(?=^FROM|\Z)", DOCKERFILE, re.MULTILINE | re.DOTALL)
    assert found, stage
    text = re.sub(r"\\\n", " ", found[2])
    own = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [*(layers(found[1]) if f" AS {found[1]}\n" in DOCKERFILE else []), *own]


def test_the_images_have_the_packages_of_their_programs() -> None:
    groups = {
        stage: {name for line in layers(stage) for given in re.findall(r"groups = \((.*?)\)", line) for name in
                re.findall(r"'(\w+)'", given)}
        for stage in ("control", "full")
    }  # fmt: skip
    assert groups["control"] == {"flows", "kubernetes"}
    assert groups["full"] == {"flows", "kubernetes", "hub", "plots", "serve"}
    installs = {stage: [line for line in layers(stage) if "TORCH_INDEX" in line] for stage in ("control", "full")}
    assert not installs["control"], "no torch"
    assert any(line.endswith(" torch") for line in installs["full"])


def test_a_change_of_python_compiles_no_rust_and_installs_nothing() -> None:
    """The layers before a `COPY` of changed files stay; those after it are made again."""
    assert not [line for line in layers("extension") if re.match(r"COPY .*\b(nanochat|flows|README\.md)\b", line)]
    for stage in ("control", "full"):
        copies = [number for number, line in enumerate(layers(stage)) if line.startswith("COPY --from=code")]
        assert len(copies) == 1
        assert not [line for line in layers(stage)[copies[0] :] if line.startswith("RUN")]
    assert [line.split()[1] for line in layers("code") if "--from" not in line] == ["prefect.yaml", "flows", "nanochat"]


def test_programs_without_torch_run_in_the_small_image_and_the_others_do_not() -> None:
    small = {name for name, service in COMPOSE["services"].items() if "control" in service["image"]}
    assert small == {"server", "deploy", "stale-runs"}
    for template in TEMPLATES.values():
        assert template["variables"]["properties"]["image"]["default"] == "nanochat:0.1.0"
    (models,) = [entry for entry in KUBERNETES if (entry["kind"], entry["metadata"]["name"]) == DEPLOYED]
    assert list(values(models, "image")) == ["nanochat:0.1.0"]


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
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    paths = {path for line in copied for path in line.split()}
    assert paths == allowed
    for path in paths:
        assert (PROJECT / path).exists(), path


def test_pools_of_the_deployments_have_workers_and_templates() -> None:
    entries = yaml.safe_load((PROJECT / "prefect.yaml").read_text())["deployments"]
    pools = {entry["work_pool"]["name"] for entry in entries}
    commands = [*(entry.get("command", []) for entry in COMPOSE["services"].values()), *values(KUBERNETES, "args")]
    for pool in pools:
        assert sum(command[2:3] == ["flows.site.worker"] and pool in command for command in commands) == 2
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


PODS = [
    *(
        (entry["metadata"]["name"], entry["spec"]["template"]["spec"])
        for entry in KUBERNETES
        if "template" in entry.get("spec", {})
    ),
    *((name, template["job_configuration"]["job_manifest"]["spec"]["template"]["spec"])
      for name, template in TEMPLATES.items()),
]  # fmt: skip


@pytest.mark.parametrize(("name", "pod"), PODS, ids=[name for name, _ in PODS])
def test_every_pod_is_within_pod_security_restricted(name: str, pod: dict[str, Any]) -> None:
    """The fields of the standard `restricted`, which the namespace enforces."""
    security = pod["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["runAsUser"] > 0
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod["containers"]:
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    kinds = {kind for volume in pod.get("volumes", []) for kind in volume if kind != "name"}
    assert kinds <= {"configMap", "emptyDir", "secret", "persistentVolumeClaim"}
    assert not [each for each in ("hostNetwork", "hostPID", "hostIPC") if each in pod]


def test_the_namespace_enforces_pod_security() -> None:
    (namespace,) = [entry for entry in KUBERNETES if entry["kind"] == "Namespace"]
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


JOB_FIELDS = {"parallelism", "completions", "backoffLimit", "ttlSecondsAfterFinished", "template"}
POD_FIELDS = {
    "restartPolicy", "terminationGracePeriodSeconds", "automountServiceAccountToken", "enableServiceLinks",
    "securityContext", "tolerations", "nodeSelector", "containers", "volumes",
}  # fmt: skip


def test_fields_of_jobs_are_at_their_level() -> None:
    """A strict API server refuses others; batch/v1 has the first, core/v1 the second."""
    for template in TEMPLATES.values():
        configuration = template["job_configuration"]
        assert set(configuration["job_manifest"]["spec"]) == JOB_FIELDS
        assert set(configuration["job_manifest"]["spec"]["template"]["spec"]) <= POD_FIELDS
        # those of prefect-kubernetes 0.8; another would be ignored
        assert set(configuration) == {
            "command", "env", "labels", "name", "namespace", "job_manifest", "stream_output"
        }  # fmt: skip


def test_what_a_form_requests_for_gpu_stages_are_variables_of_the_gpu_pool() -> None:
    from nanochat.config.compute import GpuJob

    given = GpuJob(gpus=8, cpu="32", memory="512Gi", node_selector=("gpu.example.org/model=h100",)).variables()
    assert given.keys() <= TEMPLATES["gpu.json"]["variables"]["properties"].keys()
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(given, TEMPLATES["gpu.json"]["variables"])
    assert given["node_selector"] == {"gpu.example.org/model": "h100"}
    assert GpuJob().variables() == {}, "what is not set is the pool's"


@pytest.mark.skipif(importlib.util.find_spec("prefect") is None, reason="prefect is not installed")
def test_each_node_of_a_gpu_stage_gets_what_the_form_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    from contextlib import nullcontext

    from prefect.states import Completed

    from flows import remote_stage

    sent: list[dict[str, Any]] = []
    client = SimpleNamespace(read_flow_run=lambda _: SimpleNamespace(state=Completed()))
    monkeypatch.setattr(remote_stage, "get_client", lambda **_: nullcontext(client))
    monkeypatch.setattr(
        remote_stage, "run_deployment", lambda name, **given: sent.append(given) or SimpleNamespace(id=len(sent))
    )
    attempt: Any = SimpleNamespace(
        stage=SimpleNamespace(name="pretrain"), config=SimpleNamespace(model_dump=lambda mode: {}), inputs={},
        store=SimpleNamespace(objects=SimpleNamespace(root="s3://bucket/x")),
        compute=compute(nodes=2, gpus=8, memory="512Gi"),
    )  # fmt: skip
    assert remote_stage._run_nodes("gpu", attempt, "pretrain").is_completed()
    assert [given["job_variables"] for given in sent] == [{"gpus": 8, "memory": "512Gi"}] * 2


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


def test_slurm_leaves_no_folder_except_for_the_logs_of_a_failure(slurm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NANOCHAT_HOME")
    monkeypatch.setenv("TMPDIR", str(slurm / "tmp"))
    monkeypatch.delenv("SLURM_TMPDIR", raising=False)
    (slurm / "tmp").mkdir()
    failed = subprocess.run([str(DEPLOY / "slurm.sh"), "plan"], capture_output=True, text=True)
    assert failed.returncode == 7
    assert [path.name for path in (slurm / "tmp").iterdir()] == ["nanochat-17"]
    assert f"the logs are in {slurm}/tmp/nanochat-17" in failed.stdout
    (slurm / "nanochat").write_text("#!/usr/bin/env bash\ntouch $NANOCHAT_HOME/cache\n")
    assert subprocess.run([str(DEPLOY / "slurm.sh"), "plan"]).returncode == 0
    assert list((slurm / "tmp").iterdir()) == []


def test_a_worker_on_slurm_drains_and_is_requeued(slurm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    worker = """
        echo "$@" | sed "s/--name .*--limit/--limit/" >> "$FAKES/called"
        trap 'echo drained >> "$FAKES/called"; exit 0' TERM
        touch "$FAKES/up"
        while :; do sleep 0.05; done"""
    (slurm / "python").write_text(f"#!/usr/bin/env bash\n{worker}\n")
    (slurm / "python").chmod(0o755)
    job = subprocess.Popen([str(DEPLOY / "slurm.sh"), "worker", "gpu"])
    while not (slurm / "up").exists():
        assert job.poll() is None
        time.sleep(0.05)
    job.send_signal(signal.SIGTERM)
    assert job.wait() == 0
    assert (slurm / "called").read_text().splitlines() == [
        "-m flows.site.worker --pool gpu --type process --limit 1", "drained", "scontrol requeue 17",
    ]  # fmt: skip


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
