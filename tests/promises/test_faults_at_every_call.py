"""A fault at every call of every command and stage: nothing is lost, nothing wrong is made, one sentence explains.

`NANOCHAT_FAULTS=all` tries every fault at every call, once and for good, which takes hours; a number, so many a test;
without it there are as many as take minutes.
`NANOCHAT_FAULTS_COUNTS=FILE` writes the counts as a table.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from nanochat import settings
from nanochat.cli import main as main_module  # noqa: F401 - fills `app`
from nanochat.cli.app import app
from nanochat.errors import NotFound
from nanochat.execution.attempt import Attempt
from nanochat.execution.graph import nodes
from nanochat.execution.local import run_local
from nanochat.execution.stage import Stage
from nanochat.graphs import resolve
from nanochat.graphs.pipeline import pretrain_to_chat
from nanochat.store.artifacts import Artifact
from nanochat.store.store import Store
from nanochat.training.checkpoint import Checkpoints
from tests import tiny_pipeline
from tests.compute import compute
from tests.every_call import Action, Found, Printed, drill
from tests.fault_backends import S3, Disk, Line, behind_a_proxy

ALL = os.environ.get("NANOCHAT_FAULTS") == "all"
AT_MOST = {"file": 24, "home": 12, "s3": 8, "cache": 6}
"""Faults of one test, if not all are requested."""


def at_most(kind: str) -> int:
    return 0 if ALL else int(os.environ.get("NANOCHAT_FAULTS", AT_MOST[kind]))


NOT_DRILLED = {
    "up": "starts a Prefect server and workers, and does not read the store",
    "down": "ends them",
    "serve": "does not end; faults of its store are in `tests/serve/test_faults.py`",
    "store": "has objects of its own only, and no artifact: `tests/store/test_conformance.py`",
    "bench": "opens a model as `chat` does, and prints times only",
    "evaluate": "a graph of stages in processes of their own, cached and published as those of `run` are",
    "compare": "a graph of one stage, as `run` is",
    "experiment": "a graph of stages, as `run` is",
}
"""Commands that are not drilled, and why. `run` is drilled as `run --plain`: what Prefect adds is not the store's."""
NO_WARNINGS = "ignore:torch.distributed is disabled:UserWarning"
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings(NO_WARNINGS)]


@pytest.fixture(scope="module")
def proxy(request: pytest.FixtureRequest) -> Iterator[tuple[str, Line]]:
    with behind_a_proxy(request.getfixturevalue("s3_server")) as made:
        yield made


KINDS = ("file", pytest.param("s3", marks=pytest.mark.s3), "home", pytest.param("cache", marks=pytest.mark.s3))
"""Where the faults are: the folder of a store; a store's S3 server; the home of a run whose store is a folder; the home
beside a store in S3."""


@pytest.fixture
def backend(kind: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("NANOCHAT_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("nanochat.store.payloads.UPLOADS_AT_ONCE", 1)  # so that calls come in one order
    tiny_pipeline.install(monkeypatch)
    if kind in ("file", "home"):
        made: Any = Disk(tmp_path, of_home=kind == "home")
    else:
        server = request.getfixturevalue("s3_server")
        address, line = request.getfixturevalue("proxy")
        for name, value in {**server, "AWS_ENDPOINT_URL": address}.items():
            monkeypatch.setenv(name, value)
        made = S3(tmp_path, server, line, of_home=kind == "cache", slow=ALL)
    monkeypatch.setenv("NANOCHAT_STORE", made.url)
    return made


# --- what is done -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline.write_text(tmp_path_factory.mktemp("source"))


@dataclass(frozen=True)
class Whole:
    """A store with everything that the tiny pipeline makes, and each call of a stage."""

    objects: dict[str, bytes]
    calls: list[tuple[Stage[Any, Any], Any, dict[str, Any]]]


@pytest.fixture(scope="module")
def whole(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """Made once; all backends begin with its objects. Two runs, so that there is a model to compare with."""
    folder = tmp_path_factory.mktemp("whole")

    with pytest.MonkeyPatch.context() as monkeypatch:
        tiny_pipeline.install(monkeypatch)
        monkeypatch.setenv("NANOCHAT_HOME", str(folder / "home"))
        monkeypatch.setenv("NANOCHAT_STORE", (folder / "store").as_uri())
        command("run", "--plain", "--compute", "data_workers.count=1", *sets(text, "report.title=first"))
        command("run", "--plain", "--compute", "data_workers.count=1", *sets(text))
        command("alias", "chat/production", "chat/latest")
        run_id = max((folder / "store/v1/runs").iterdir()).stem
        command("runs", "--pin", run_id)
        store = Store((folder / "store").as_uri(), folder / "cache")
        config = tiny_pipeline.config(text)
        shards = resolve.shards(config.data, store)
        graph = pretrain_to_chat(config, shards, resolve.conversations(config.conversations))
        results = run_local(graph, store, compute(count=1), folder / "runs")
        calls = [(node.stage, node.config, dict(results.inputs_of(node))) for node in nodes(graph)]
    return Whole(Disk(folder).objects(), calls)


def sets(text: Path, *more: str) -> list[str]:
    return [word for change in (*tiny_pipeline.changes(text), *more) for word in ("--set", change)]


def command(*words: str) -> str:
    """Runs a command as `main` does; returns its output, without times and random names."""
    output, refused = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(refused):
        try:
            app(list(words), exit_on_error=False, print_error=False, result_action="return_value")
        except SystemExit as ended:
            if ended.code == 1 and refused.getvalue().startswith("error: "):
                raise Printed(refused.getvalue().removeprefix("error: ").splitlines()[0]) from None
            if ended.code:
                raise
    return VARYING.sub("", output.getvalue())


GC_DELETE = ("gc", "--min-age-hours", "0", "--keep-runs", "1", "--delete")
VARYING = re.compile(r"\d+(\.\d+)? s\b|[0-9T]{15}-\w{6}|^Uploads that were never finished.*\n", re.MULTILINE)
"""Times and random names; and what `gc` adds where it cannot look for unfinished writes, which it then leaves alone."""
READING: dict[str, tuple[str, ...]] = {
    "ls": ("ls",),
    "models": ("models",),
    "show": ("show", "chat/latest"),
    "lineage": ("lineage", "chat/latest"),
    "lineage --down": ("lineage", "base/latest", "--down"),
    "diff": ("diff", "chat/latest", "chat/production"),
    "why": ("why", "report/latest"),
    "runs": ("runs",),
    "alias": ("alias",),
    "alias NAME": ("alias", "chat/production"),
    "verify": ("verify",),
    "gc": ("gc", "--min-age-hours", "0", "--keep-runs", "1"),
    "plan": ("plan",),
    "run --dry-run": ("run", "--dry-run"),
    "chat": ("chat", "-p", "Hi", "--max-tokens", "2", "--temperature", "0"),
    "profiles": ("profiles",),
    "config": ("config",),
}
WRITING: dict[str, tuple[str, ...]] = {
    "alias NAME REFERENCE": ("alias", "chat/production", "report/latest"),
    "alias --remove": ("alias", "--remove", "chat/production"),
    "runs --pin": ("runs", "--pin", "FIRST"),
    "runs --unpin": ("runs", "--unpin", "LAST"),
    "gc --delete": GC_DELETE,
    "gc --restore": ("gc", "--restore"),
    "verify --repair": ("verify", "--repair"),
    "export": ("export", "chat/latest", "FOLDER"),
    "run": ("run", "--plain", "--compute", "data_workers.count=1"),
    "fetch": ("fetch",),
}
DELETING = ("gc --delete", "gc --restore", "verify --repair")


def test_every_command_is_drilled() -> None:
    drilled = {words[0] for words in (*READING.values(), *WRITING.values())}
    known = {name for name in app if not name.startswith("-")}
    assert drilled | NOT_DRILLED.keys() == known


def words_of(name: str, text: Path, backend: Any, whole: Whole) -> list[str]:
    given = list((READING | WRITING)[name])
    if given[0] in ("run", "fetch", "plan"):
        given += sets(text)
    ids = sorted(path.rpartition("/")[2].removesuffix(".json") for path in whole.objects if path.startswith("v1/runs/"))
    places = {"FIRST": ids[0], "LAST": ids[-1], "FOLDER": str(backend.folder / "exported")}
    return [places.get(word, word) for word in given]


def exported(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file()) if folder.exists() else []
    return "\n".join(f"{path.name} {len(path.read_bytes())}" for path in files)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [*READING, *WRITING])
def test_a_fault_at_every_call_of_a_command(name: str, kind: str, backend: Any, text: Path, whole: Whole) -> None:
    words, before = words_of(name, text, backend, whole), dict(whole.objects)
    if name == "gc --restore":
        backend.reset(before)
        command(*GC_DELETE)
        before = backend.objects()
        assert any("/trash/" in path for path in before)
    if name == "verify --repair":
        (damaged,) = (path for path in before if "/artifacts/converse/" in path and path.endswith("questions.jsonl"))
        before[damaged] = before[damaged][:-1] + b"?"
    target = backend.folder / "exported"
    action = Action(
        name=name,
        prepare=lambda: shutil.rmtree(target, ignore_errors=True),
        do=lambda _: command(*words),
        reads=name in READING,
        after=lambda _: exported(target),
        deletes=name in DELETING,
        trash=name in DELETING,
        done_already=NotFound if name in ("alias --remove", "gc --restore") else None,
    )
    judge(name, kind, drill(action, backend, before, at_most=at_most(kind)))


STAGES = (*tiny_pipeline.REAL, *tiny_pipeline.REPLACED)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [stage.name for stage in STAGES])
def test_a_fault_at_every_call_of_a_stage(name: str, kind: str, backend: Any, whole: Whole) -> None:
    stage, config, inputs = next(call for call in whole.calls if call[0].name == name)
    key = stage.key(config, inputs)
    before = {path: data for path, data in whole.objects.items() if not path.startswith(f"v1/artifacts/{name}/{key}/")}
    before = {path: data for path, data in before.items() if not path.startswith("v1/aliases/")}

    def prepare() -> tuple[Store, dict[str, Any]]:
        store = Store(backend.url, backend.home / "cache")

        def opened(artifact: Artifact) -> Artifact:
            return store.artifact(artifact.manifest, reused=True)

        return store, {
            name: [opened(each) for each in given] if isinstance(given, list) else opened(given)
            for name, given in inputs.items()
        }

    def do(given: tuple[Store, dict[str, Any]]) -> str:
        store, opened = given
        return Attempt(stage, config, opened, store, compute(count=1), settings.home() / "runs").produce().digest

    judge(name, kind, drill(Action(name, do, prepare), backend, before, at_most=at_most(kind)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_at_every_call_of_a_checkpoint(kind: str, backend: Any, whole: Whole) -> None:
    """Resumed from the second, the third is saved, and the first goes."""

    def opened() -> Checkpoints:
        return Checkpoints(f"{backend.url}/v1/checkpoints/{'0' * 64}", settings.home() / "spool", keep=2)

    def save(kept: Checkpoints, step: int) -> None:
        kept.save(step, step, {"weight": torch.full((8,), float(step))}, {}, [])
        kept.wait(must=True)

    def do(kept: Checkpoints) -> str:
        weight = torch.zeros(8)
        found = kept.resume({"weight": weight})
        step = found.step if found else 0
        assert weight.tolist() == [step] * 8
        if step < 3:
            save(kept, 3)
        return str(step)

    backend.reset({})
    for step in (1, 2):
        save(opened(), step)
    before = backend.objects()
    action = Action("resume and save", do, opened, reads=True, deletes=True, may_leave_more=True)
    judge("checkpoint", kind, drill(action, backend, before, at_most=at_most(kind)))


def judge(name: str, kind: str, found: Found) -> None:
    print(f"{name} | {kind} | {found.calls} | {found.tried} | {found.refused}")
    if counts := os.environ.get("NANOCHAT_FAULTS_COUNTS"):
        with Path(counts).open("a") as table:
            numbers = (found.calls, found.tried, found.refused, len(found.violations))
            table.write(f"| `{name}` | {kind} | {' | '.join(f'{number:,}' for number in numbers)} |\n")
    if found.violations:
        pytest.fail(found.report(), pytrace=False)
