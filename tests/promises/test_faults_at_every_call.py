"""A fault at every call of every command and stage: nothing is lost, nothing wrong is made, and a sentence says why.

`NANOCHAT_FAULTS=all` tries every fault at every call, once and for good; otherwise so many of them as fit in minutes.
`NANOCHAT_FAULTS_COUNTS=FILE` writes the counts as a table.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch
from urllib.parse import parse_qs, unquote, urlsplit

import botocore.session
import fsspec
import pytest
import torch
from botocore.retries.quota import RetryQuota

from nanochat import settings
from nanochat.cli import main as main_module  # noqa: F401 - fills `app`
from nanochat.cli.app import app
from nanochat.config import Compute
from nanochat.errors import NotFound
from nanochat.pipeline import PlainRun, pipeline
from nanochat.stages.stage import Stage
from nanochat.store.artifacts import Artifact, Store
from nanochat.training.checkpoint import Checkpoints
from tests import disk_faults, faults, tiny_pipeline
from tests.every_call import Action, Found, Printed, drill

ALL = os.environ.get("NANOCHAT_FAULTS") == "all"
AT_MOST = 0 if ALL else int(os.environ.get("NANOCHAT_FAULTS", "40"))
STARTS_PROCESSES = {
    "up": "starts a Prefect server and workers, and asks the store for nothing",
    "down": "ends them",
}
"""Commands that are not drilled, and why. `run` is drilled as `run --plain`: what Prefect adds is not the store's."""
NO_WARNINGS = "ignore:torch.distributed is disabled:UserWarning"
pytestmark = pytest.mark.filterwarnings(NO_WARNINGS)


# --- where the faults are ---------------------------------------------------------------------------------------------

HOME_FAULTS = tuple(each for each in disk_faults.FAULTS if "listing" not in each.name)
"""Nobody but the stage knows which files it has written: a local folder that shows fewer of them cannot be found out."""


@dataclass
class Disk:
    """A store in a folder, whose file system fails; or only that of the home."""

    folder: Path
    of_home: bool = False

    @property
    def faults(self) -> tuple[Any, ...]:
        return HOME_FAULTS if self.of_home else disk_faults.FAULTS

    @property
    def url(self) -> str:
        return (self.folder / "store").as_uri()

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def watched(self, choose: Callable[[Any], Any]) -> Any:
        return disk_faults.watched(self.home if self.of_home else self.folder / "store", choose=choose)

    def objects(self) -> dict[str, bytes]:
        root = self.folder / "store"
        return {
            path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()
        }

    def reset(self, to: Any) -> None:
        there = self.objects()
        for path in there.keys() - to.keys():
            (self.folder / "store" / path).unlink()
        for path, data in to.items():
            if there.get(path) != data:
                (self.folder / "store" / path).parent.mkdir(parents=True, exist_ok=True)
                (self.folder / "store" / path).write_bytes(data)


@dataclass(frozen=True)
class S3Fault:
    """What the proxy does to a request."""

    name: str
    does: faults.Fault
    calls: frozenset[str]
    transient: bool | None = None
    honest: bool = True


GETS, PUTS, LISTS = frozenset({"GET"}), frozenset({"PUT", "POST"}), frozenset({"LIST"})
EVERY = GETS | PUTS | LISTS | {"HEAD", "DELETE"}
S3_FAULTS = (
    S3Fault("403", "forbidden", EVERY, transient=False),
    S3Fault("404", "missing", EVERY - PUTS, honest=False),
    S3Fault("412", "precondition", PUTS, honest=False),
    S3Fault("500", "broken", EVERY, transient=True),
    S3Fault("501", "unknown", EVERY, transient=False),
    S3Fault("503", "busy", EVERY, transient=True),
    S3Fault("connection closed", "drop", EVERY, transient=True),
    S3Fault("answer lost", "lost", EVERY, transient=True),
    S3Fault("half of the body", "short", GETS | LISTS | PUTS, transient=True),
    S3Fault("half of a listing's XML", "torn", LISTS),
    S3Fault("torn body", "torn", GETS, honest=False),
    S3Fault("half of a listing", "half", LISTS, honest=False),
    S3Fault("empty listing", "empty", LISTS, honest=False),
    S3Fault("an HTML page with 200", "welcome", GETS | LISTS | PUTS),
    S3Fault("an HTML page with 404", "page", EVERY - {"HEAD"}, transient=True),
    S3Fault("200 without a body", "nothing", GETS | LISTS | PUTS),
    S3Fault("clock is wrong", "skewed", EVERY, transient=None),
    S3Fault("time-out", 1.0, EVERY, transient=True),
)
SLOW = ("time-out",)


@dataclass(frozen=True)
class Request:
    """A request to S3."""

    number: int
    kind: str
    path: str

    def __str__(self) -> str:
        return f"call {self.number} ({self.kind} {self.path})"


class Line:
    """What the proxy asks about each request."""

    def __init__(self) -> None:
        self.calls: list[Request] = []
        self.choose: Callable[[Any], Any] | None = None
        self._lock = threading.Lock()
        self._current = threading.local()

    def of(self, method: str, path: str) -> bool:
        if self.choose is None:
            return False
        asked = urlsplit(path)
        kind = "LIST" if method == "GET" and ("list-type" in parse_qs(asked.query) or "uploads" in asked.query) else method
        with self._lock:
            request = Request(len(self.calls), kind, unquote(asked.path))
            self.calls.append(request)
        self._current.request = request
        return True

    def fault(self, number: int) -> faults.Fault:
        choose, request = self.choose, self._current.request
        try:
            fault = choose(request) if choose else None
        except BaseException:  # it asks without end: let it fail
            return "forbidden"
        return fault.does if fault and request.kind in fault.calls else ""


@dataclass
class S3:
    """A prefix of a real server, behind a proxy."""

    folder: Path
    server: dict[str, str]
    line: Line
    url: str = field(default_factory=lambda: f"s3://faults/{uuid.uuid4().hex[:8]}")
    faults: tuple[Any, ...] = tuple(each for each in S3_FAULTS if ALL or each.name not in SLOW)
    of_home: bool = False

    def __post_init__(self) -> None:
        self._client: Any = botocore.session.get_session().create_client(
            "s3", endpoint_url=self.server["AWS_ENDPOINT_URL"], region_name="us-east-1",
            aws_access_key_id=self.server["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.server["AWS_SECRET_ACCESS_KEY"],
        )  # fmt: skip
        with contextlib.suppress(self._client.exceptions.ClientError):
            self._client.create_bucket(Bucket="faults")
        self._prefix = self.url.removeprefix("s3://faults/") + "/"
        self._known: dict[str, tuple[str, bytes]] = {}

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @contextlib.contextmanager
    def watched(self, choose: Callable[[Any], Any]) -> Iterator[list[Any]]:
        if self.of_home:
            with disk_faults.watched(self.home, choose=choose) as calls:
                yield calls
            return
        self.line.calls, self.line.choose = [], choose
        try:
            yield self.line.calls
        finally:
            self.line.choose = None

    def objects(self) -> dict[str, bytes]:
        found: dict[str, tuple[str, bytes]] = {}
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket="faults", Prefix=self._prefix)
        for entry in (each for page in pages for each in page.get("Contents", [])):
            path = entry["Key"].removeprefix(self._prefix)
            if path.endswith("/"):
                continue
            tag, data = self._known.get(path, ("", b""))
            if tag != entry["ETag"]:
                data = self._client.get_object(Bucket="faults", Key=entry["Key"])["Body"].read()
            found[path] = (entry["ETag"], data)
        self._known = found
        return {path: data for path, (_, data) in found.items()}

    def reset(self, to: Any) -> None:
        there = self.objects()
        for path in there.keys() - to.keys():
            self._client.delete_object(Bucket="faults", Key=self._prefix + path)
        for path, data in to.items():
            if there.get(path) != data:
                self._client.put_object(Bucket="faults", Key=self._prefix + path, Body=data)


@pytest.fixture(scope="module")
def s3_line(request: pytest.FixtureRequest) -> Iterator[tuple[dict[str, str], Line]]:
    server = request.getfixturevalue("s3_server")
    line = Line()
    with faults.faulty(server["AWS_ENDPOINT_URL"], line.fault, line.of) as (address, _):
        clients: dict[str, Any] = {}
        real = fsspec.filesystem

        def one_client(protocol: str, **given: Any) -> Any:
            """A client takes a quarter of a second to make: one for all."""
            if protocol != "s3":
                return real(protocol, **given)
            given["config_kwargs"] = {**given.get("config_kwargs", {}), "read_timeout": 0.5, "connect_timeout": 0.5}
            address = given["endpoint_url"]
            if address not in clients:
                clients[address] = real(protocol, **given)
            return clients[address]

        with (
            patch.object(fsspec, "filesystem", one_client),
            patch.object(RetryQuota, "acquire", lambda self, amount: True),
        ):
            yield {**server, "AWS_ENDPOINT_URL": address, "behind": server["AWS_ENDPOINT_URL"]}, line


KINDS = (
    "file",
    pytest.param("s3", marks=pytest.mark.s3),
    "home",
    pytest.param("cache", marks=pytest.mark.s3),
)
"""Where the faults are: the folder of a store; a store's S3 server; the home of a run whose store is a folder; the home
beside a store in S3."""


@pytest.fixture
def backend(kind: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("NANOCHAT_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("nanochat.store.artifacts.UPLOADS_AT_ONCE", 1)  # so that calls come in one order
    tiny_pipeline.install(monkeypatch)
    if kind in ("file", "home"):
        made: Any = Disk(tmp_path, of_home=kind == "home")
    else:
        server, line = request.getfixturevalue("s3_line")
        for name, value in server.items():
            if name != "behind":
                monkeypatch.setenv(name, value)
        made = S3(tmp_path, {**server, "AWS_ENDPOINT_URL": server["behind"]}, line, of_home=kind == "cache")
        if kind == "cache":
            made.faults = HOME_FAULTS
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
    calls: list[tuple[Stage, Any, dict[str, Any]]]


@pytest.fixture(scope="module")
def whole(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """Made once; all backends begin with its objects. Two runs, so that there is a model to compare with."""
    folder = tmp_path_factory.mktemp("whole")
    calls: list[tuple[Stage, Any, dict[str, Any]]] = []

    class Noting(PlainRun):
        def _run(self, stage: Stage, config: Any, label: str, inputs: dict[str, Any], compute: Compute) -> Artifact:
            calls.append((stage, config, inputs))
            return super()._run(stage, config, label, inputs, compute)

    with pytest.MonkeyPatch.context() as monkeypatch:
        tiny_pipeline.install(monkeypatch)
        monkeypatch.setenv("NANOCHAT_HOME", str(folder / "home"))
        monkeypatch.setenv("NANOCHAT_STORE", (folder / "store").as_uri())
        command("run", "--plain", "--compute", "workers=1", *sets(text, "report.title=first"))
        command("run", "--plain", "--compute", "workers=1", *sets(text))
        command("alias", "chat/production", "chat/latest")
        run_id = max((folder / "store/v1/runs").iterdir()).stem
        command("runs", "--pin", run_id)
        store = Store((folder / "store").as_uri(), folder / "cache")
        pipeline(Noting(store, Compute(workers=1), folder / "runs"), tiny_pipeline.config(text))
    return Whole(Disk(folder).objects(), calls)


def sets(text: Path, *more: str) -> list[str]:
    return [word for change in (*tiny_pipeline.changes(text), *more) for word in ("--set", change)]


def command(*words: str) -> str:
    """Runs a command as `main` does; returns what it says, without times and random names."""
    said, refused = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(refused):
        try:
            app(list(words), exit_on_error=False, print_error=False, result_action="return_value")
        except SystemExit as ended:
            if ended.code == 1 and refused.getvalue().startswith("error: "):
                raise Printed(refused.getvalue().removeprefix("error: ").splitlines()[0]) from None
            if ended.code:
                raise
    return VARYING.sub("", said.getvalue())


GC_DELETE = ("gc", "--min-age-hours", "0", "--keep-runs", "1", "--delete")
VARYING = re.compile(r"\d+(\.\d+)? s\b|[0-9T]{15}-\w{6}|^Uploads that were never finished.*\n", re.MULTILINE)
"""Times and random names; and what `gc` adds where it cannot look for unfinished writes, which it then leaves alone."""
READING: dict[str, tuple[str, ...]] = {
    "ls": ("ls",),
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
    "run": ("run", "--plain", "--compute", "workers=1"),
    "fetch": ("fetch",),
}
DELETING = ("gc --delete", "gc --restore", "verify --repair")


def test_every_command_is_drilled() -> None:
    drilled = {words[0] for words in (*READING.values(), *WRITING.values())}
    known = {name for name in app if not name.startswith("-")}
    assert drilled | STARTS_PROCESSES.keys() == known


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
    judge(name, kind, drill(action, backend, before, at_most=AT_MOST))


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
        run = PlainRun(store, Compute(workers=1), settings.home() / "runs")
        return run(stage, config, **opened).digest

    judge(name, kind, drill(Action(name, do, prepare), backend, before, at_most=AT_MOST))


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
    action = Action("resume and save", do, opened, reads=True, deletes=True)
    judge("checkpoint", kind, drill(action, backend, before, at_most=AT_MOST))


def judge(name: str, kind: str, found: Found) -> None:
    print(f"{name} | {kind} | {found.calls} | {found.tried} | {found.refused}")
    if counts := os.environ.get("NANOCHAT_FAULTS_COUNTS"):
        with Path(counts).open("a") as table:
            table.write(f"| `{name}` | {kind} | {found.calls} | {found.tried} | {found.refused} | {len(found.violations)} |\n")
    if found.violations:
        pytest.fail(found.report(), pytrace=False)
