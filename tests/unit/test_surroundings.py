"""What our processes pass to their children: one home, a safe path, no proxy on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import httpx
import pytest

from flows.site import prefect_environment
from nanochat import settings

HOSTILE = ("random", "json", "sitecustomize", "typing", "socket", "torch", "flows", "nanochat", "prefect")


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("NO_PROXY", "no_proxy", "PYTHONPATH", "NANOCHAT_HOME", "NANOCHAT_STORE", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HTTP_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    return monkeypatch


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A folder whose modules end whatever imports them."""
    folder = tmp_path / "my project"
    for name in HOSTILE:
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(f"raise SystemExit('imported {name} of the working directory')\n")
    return folder


@pytest.mark.parametrize("path", ["", ":", "{root}", ":{root}:"])
def test_a_child_finds_our_modules_and_not_those_of_its_folder(
    bare: pytest.MonkeyPatch, hostile: Path, path: str
) -> None:
    """An empty entry of `PYTHONPATH`, which `$PYTHONPATH:/x` leaves, means the working directory too."""
    root = str(Path(settings.__file__).parents[1])
    bare.setenv("PYTHONPATH", path.format(root=root))
    bare.setattr(sys, "path", [root, *(each for each in sys.path if each not in ("", root))])
    bare.chdir(root)  # as `python -m nanochat.cli` there: nothing but the working directory has led to us
    environment = settings.for_children()
    code = "import random, json, typing, socket, torch, flows, nanochat, prefect; print(nanochat.__path__[0])"
    done = subprocess.run([sys.executable, "-c", code], cwd=hostile, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == str(Path(root) / "nanochat"), done.stderr


def test_the_users_own_path_stays_with_absolute_folders(bare: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bare.chdir(tmp_path)
    bare.setenv("PYTHONPATH", f"lib{os.pathsep}{os.pathsep}/opt/x{os.pathsep}")
    entries = settings.for_children()["PYTHONPATH"].split(os.pathsep)
    assert entries[:2] == [str(tmp_path / "lib"), "/opt/x"]
    assert "" not in entries


def test_ranks_of_a_training_start_in_a_hostile_folder(hostile: Path, tmp_path: Path) -> None:
    """torchrun, and what it starts, with `-m` each."""
    worker = tmp_path / "lib" / "rank_probe.py"
    worker.parent.mkdir()
    worker.write_text(
        "import random, json, torch, nanochat, sys\nprint('rank', sys.flags.safe_path, torch.__version__)\n"
    )
    code = (
        "import subprocess, sys; from nanochat import settings; from nanochat.workers.launch import LAUNCHER;"
        "options = ['--standalone', '--nproc-per-node=2', '-m', 'rank_probe'];"
        "command = [sys.executable, *LAUNCHER, sys.argv[1] + '.json', *options];"
        "child = subprocess.Popen([sys.executable, '-m', 'nanochat.workers.supervisor', sys.argv[1], *command],"
        " stdin=subprocess.PIPE, env=settings.child_environment(1)); sys.exit(child.wait())"
    )
    path = os.pathsep.join([str(Path(settings.__file__).parents[1]), str(worker.parent)])
    log = tmp_path / "log"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, str(log)], cwd=hostile, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.returncode == 0, log.read_text()
    assert log.read_text().count("rank True") == 2


@pytest.mark.parametrize("where", ["127.0.0.1", "localhost", "[::1]", "0.0.0.0", "127.0.1.1"])
def test_nothing_on_this_machine_goes_through_a_proxy(bare: pytest.MonkeyPatch, where: str) -> None:
    bare.setenv("PREFECT_API_URL", f"http://{where}:4200/api")
    for name, value in settings.for_children().items():
        bare.setenv(name, value)
    url = httpx.URL(f"http://{where}:4200/api")
    patterns = [pattern for pattern, transport in httpx.Client()._mounts.items() if pattern.matches(url)]
    assert httpx.Client()._mounts[patterns[0]] is None
    assert urllib.request.proxy_bypass(httpx.URL(url).host)
    assert not urllib.request.proxy_bypass("example.org")


def test_a_proxy_list_that_httpx_cannot_read_is_mended(bare: pytest.MonkeyPatch) -> None:
    """`[::1]` is what curl takes, and httpx raises at."""
    bare.setenv("NO_PROXY", "[::1], example.org internal")
    bare.setenv("no_proxy", "10.0.0.0/8")
    for name, value in settings.for_children().items():
        bare.setenv(name, value)
    httpx.Client().close()
    assert urllib.request.proxy_bypass("www.example.org")
    entries = settings.for_children()["no_proxy"].split(",")
    assert {"::1", "example.org", "internal", "10.0.0.0/8"} <= set(entries)
    assert settings.for_children()["NO_PROXY"] == settings.for_children()["no_proxy"]


def test_home_and_store_are_the_same_in_every_folder(bare: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bare.chdir(tmp_path)
    assert settings.for_children()["NANOCHAT_HOME"] == str(tmp_path / ".nanochat")
    bare.setenv("NANOCHAT_HOME", "my home")
    for given, right in {
        "my store": str(tmp_path / "my store"),
        "s3://bucket/x": "s3://bucket/x",
        "file:///x": "file:///x",
        "s3:/b/p": "s3:/b/p",  # for the store to refuse
    }.items():
        bare.setenv("NANOCHAT_STORE", given)
        assert settings.for_children()["NANOCHAT_STORE"] == right
    for name, value in settings.for_children().items():
        bare.setenv(name, value)
    bare.chdir("/")
    assert settings.home() == tmp_path / "my home"


def test_the_servers_secrets_are_not_passed_to_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", "ada:lovelace")
    monkeypatch.setenv("PREFECT_SERVER_DATABASE_PASSWORD", "lovelace")
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "ada:l")
    environment = prefect_environment.for_worker()
    assert environment["PREFECT_API_AUTH_STRING"] == "ada:l"
    assert "lovelace" not in "".join(environment.values())


def test_programs_in_docs_and_deploy_are_started_with_a_safe_path() -> None:
    project = Path(settings.__file__).parents[1]
    assert "PYTHONSAFEPATH=1" in (project / "deploy/worker.Dockerfile").read_text()
    assert "PYTHONSAFEPATH=1" in (project / "deploy/slurm.sh").read_text()
    for path in [*project.glob("deploy/*.md"), *project.glob("docs/*.md"), *project.glob("flows/*.py")]:
        for line in path.read_text().splitlines():
            if "python -m flows." in line or "python -m nanochat" in line:
                assert path.suffix == ".py" and "HOME POOL" in line, f"{path.name}: {line}"
