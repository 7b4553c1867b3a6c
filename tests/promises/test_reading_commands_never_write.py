"""A command that looks at a store changes nothing in it, and needs no right to: on a disk, and on a real S3 server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nanochat.cli import main as main_module  # noqa: F401 - fills `app`
from nanochat.cli.app import app
from nanochat.store import runs
from nanochat.store.run_recording import record_run
from nanochat.store.store import Store
from nanochat.store.verification import discard
from tests.faults import faulty
from tests.store.test_garbage import finished, key, publish

READING: dict[str, list[list[str]]] = {
    "ls": [[], ["--stage", "download"]],
    "models": [[], ["--json"], ["--html", "OUT"]],
    "show": [["kept"]],
    "lineage": [["kept"], ["kept", "--down"], ["kept", "--json"], ["kept", "--openlineage"], ["kept", "--html", "OUT"]],
    "diff": [[key("a")[:12], key("b")[:12]], ["kept", key("a")[:12], "--json"]],
    "why": [["kept"]],
    "runs": [[], ["RUN"], ["--limit", "1"]],
    "verify": [[], ["kept"]],
    "alias": [[], ["kept"]],
    "gc": [[], ["--keep-runs", "0", "--min-age-hours", "0", "--trash-hours", "0"]],
    "export": [["kept", "OUT"]],
    "plan": [[], ["--set", "pretrain.depth=1"]],
    "run": [["--dry-run"]],
    "experiment": [["EXPERIMENT", "--dry-run"]],
    "chat": [["kept"]],
    "serve": [["kept", "--port", "0"]],
    "bench": [["kept"]],
    "profiles": [[]],
    "config": [[]],
}
"""Command → arguments with which it only reads."""
NO_STORE = {"profiles", "config"}
WRITING = {"compare", "evaluate", "fetch", "store", "up", "down"}
"""Commands that have no form that only reads."""

COMMANDS = """
import json, os, sys

REFUSED = sys.argv[1]
MUTATIONS = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.utime",
             "os.chmod", "os.chown", "fcntl.flock"}
tried = []

def watch(event, given):
    if event == "open":
        path, _, flags = given
        changes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    else:
        changes = event in MUTATIONS
    if changes and any(isinstance(each, (str, bytes, os.PathLike)) and os.fsdecode(each).startswith(REFUSED)
                       for each in given):
        tried.append(f"{event} {given}")
        raise PermissionError(13, "refused by the test", str(given[0]))

if REFUSED:
    sys.addaudithook(watch)
from nanochat.cli.main import main
output = {}
for command in json.loads(sys.argv[2]):
    sys.argv = ["nanochat", *command]
    print("$", *command, file=sys.stderr)
    try:
        main()
        output[" ".join(command)] = 0
    except SystemExit as error:
        output[" ".join(command)] = error.code
print(json.dumps({"output": output, "tried": tried}), file=sys.__stdout__)
"""


def fill(url: str, cache: Path) -> str:
    """A store with an alias, a pinned run, damage, a deletion in the trash, and a foreign file."""
    store = Store(url, cache)
    a, b, c = (publish(store, name) for name in "abc")
    store.set_alias("kept", publish(store, "ab", a, b))
    with record_run(store, "demo", {}) as record:
        record(finished(a))
    runs.pin(store, record.record.id)
    discard(store, [c], "a test")
    lost = publish(store, "lost")
    store.objects.delete([f"{lost.folder}/{lost.payload}/data"])
    store.objects.write(f"v1/artifacts/download/{key('orphan')}/attempt/data", b"half")
    store.objects.write("v1/aliases/.DS_Store", b"\0")
    return record.record.id


def reading(folder: Path, url: str, run_id: str) -> list[list[str]]:
    """Every reading command, with all its arguments."""
    file = folder / "experiment.yaml"
    file.write_text("seeds: [1, 2]\n")
    commands = []
    for number, (name, forms) in enumerate(READING.items()):
        for place, form in enumerate(forms):
            out = str(folder / f"out-{number}-{place}")
            given = [{"RUN": run_id, "OUT": out, "EXPERIMENT": str(file)}.get(each, each) for each in form]
            commands.append([name, *given, *([] if name in NO_STORE else ["--store", url])])
    return commands


def run(folder: Path, commands: list[list[str]], refused: str, environment: dict[str, str]) -> dict[str, Any]:
    """Runs commands in one process; which failed, what they output, and what was tried."""
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, refused, json.dumps(commands)], capture_output=True, text=True, check=False,
        env={**os.environ, **environment, "NANOCHAT_HOME": str(folder / "home")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return {**json.loads(done.stdout.splitlines()[-1]), "errors": done.stderr}


def failed(output: dict[str, Any]) -> list[str]:
    """Commands that ended with an error: only `verify` finds damage, and `kept` is no model to chat with."""
    return sorted(command.split()[0] for command, code in output.items() if code)


def snapshot(folder: Path) -> dict[str, tuple[Any, ...]]:
    """All metadata of each file and folder."""
    found = {}
    for path in [folder, *folder.rglob("*")]:
        there = path.lstat()
        data = path.read_bytes() if path.is_file() else b""
        found[str(path)] = (there.st_mode, there.st_ino, there.st_nlink, there.st_size, there.st_mtime_ns, data)
    return found


def test_each_command_is_classified() -> None:
    names = {name for name in app if not name.startswith("-")}
    assert names == READING.keys() | WRITING, "say of a new command whether it only reads"


def test_on_a_disk(tmp_path: Path) -> None:
    root = tmp_path / "store"
    run_id = fill(str(root), tmp_path / "cache")
    before = snapshot(root)
    found = run(tmp_path, reading(tmp_path, str(root), run_id), str(root), {})
    assert found["tried"] == []
    assert failed(found["output"]) == ["bench", "chat", "serve", "verify"]
    assert snapshot(root) == before


def test_where_there_is_no_store_none_is_made(tmp_path: Path) -> None:
    root = tmp_path / "store"
    found = run(tmp_path, reading(tmp_path, str(root), "none"), str(root), {})
    assert found["tried"] == []
    assert not root.exists()


@pytest.mark.s3
def test_on_s3(s3_server: dict[str, str], root_s3: str, tmp_path: Path) -> None:
    run_id = fill(root_s3, tmp_path / "cache")
    store = Store(root_s3, tmp_path / "cache", read_only=True)
    before = [(entry, store.objects.read(entry.path)) for entry in store.objects.list("v1", everything=True)]

    def changes(method: str, path: str) -> bool:
        return method in ("PUT", "POST", "DELETE")

    with faulty(s3_server["AWS_ENDPOINT_URL"], lambda _: "forbidden", changes) as (address, tried):
        found = run(tmp_path, reading(tmp_path, root_s3, run_id), "", {"AWS_ENDPOINT_URL": address})
    assert tried == []
    assert failed(found["output"]) == ["bench", "chat", "serve", "verify"]
    assert [(entry, store.objects.read(entry.path)) for entry in store.objects.list("v1", everything=True)] == before


@pytest.mark.s3
def test_a_bucket_that_is_missing_is_not_made(s3_server: dict[str, str], tmp_path: Path) -> None:
    with faulty(s3_server["AWS_ENDPOINT_URL"], lambda _: "", lambda method, _: method != "GET") as (address, tried):
        found = run(
            tmp_path, reading(tmp_path, "s3://never-made/x", "none"), "", {**s3_server, "AWS_ENDPOINT_URL": address}
        )
    assert tried == []
    assert all(code == 1 for command, code in found["output"].items() if "--store" in command)


def changing(url: str, run_id: str) -> list[list[str]]:
    """Commands that also read in another form, in the form that changes something."""
    forms = [
        ["gc", "--delete", "--keep-runs", "0", "--min-age-hours", "0"], ["gc", "--restore"], ["verify", "--repair"],
        ["alias", "new", "kept"], ["alias", "--remove", "kept"], ["runs", "--pin", run_id], ["runs", "--unpin", run_id],
    ]  # fmt: skip
    return [[*form, "--store", url] for form in forms]


def test_commands_that_change_a_disk_that_refuses_say_so(tmp_path: Path) -> None:
    root = tmp_path / "store"
    run_id = fill(str(root), tmp_path / "cache")
    before = snapshot(root)
    commands = changing(str(root), run_id)
    found = run(tmp_path, commands, str(root), {})
    assert set(found["output"].values()) == {1}
    assert found["errors"].count("cannot be written") == len(commands), found["errors"]
    assert snapshot(root) == before


@pytest.mark.s3
def test_commands_that_change_a_bucket_that_refuses_say_so(
    s3_server: dict[str, str], root_s3: str, tmp_path: Path
) -> None:
    run_id = fill(root_s3, tmp_path / "cache")
    commands = changing(root_s3, run_id)
    writes = ("PUT", "POST", "DELETE")
    with faulty(s3_server["AWS_ENDPOINT_URL"], lambda _: "forbidden", lambda method, _: method in writes) as (url, _):
        found = run(tmp_path, commands, "", {"AWS_ENDPOINT_URL": url})
    assert set(found["output"].values()) == {1}
    assert found["errors"].count("Access Denied") == len(commands), found["errors"]
