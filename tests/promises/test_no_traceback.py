"""No command line and no config ends in a traceback: 2,000 tries, the same ones each time.

Commands run in this process, through the program's own door, up to the step that would start a server or a training.
An exception that is not a sentence becomes `Unexpected` there, which is exit code 70.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from nanochat.cli import main as door
from nanochat.cli.app import app
from nanochat.config.base import Config, canonical_json
from nanochat.config.compute import Compute
from nanochat.config.overrides import override, parse
from nanochat.config.pipeline import PipelineConfig
from nanochat.errors import NanochatError, SourceUnreachable
from nanochat.events import Event
from nanochat.graphs import resolve
from nanochat.profiles import DEMO
from nanochat.scaling import derive_hyperparameters
from nanochat.serve.options import ServeOptions
from nanochat.store.producer import describe_producer
from nanochat.store.run_recording import record_run
from nanochat.store.store import Store
from nanochat.tokenizer.bpe import Tokenizer

COMMANDS = sorted((*(name for name in app if not name.startswith("-") and name != "store"), "store check"))
TRIES_A_COMMAND, TRIES_OF_CHANGES, TRIES_OF_VALUES = 60, 500, 500
KEY = "0123456789abcdef"

ODD = [
    "", " ", "-", "--", "-1", "0", "1", "nan", "inf", "-inf", "1e999", "0x10", "1_000", "99999999999999999999",
    "9" * 5000, "1" + "0" * 400, "a" * 5000, "\0", "\udc80", "\ud800x", "\n", "a\nb", "\t", "é→🙂\u202e", "[/]",
    "[red]", "[bold", "{}", "{0}", "%s", "%", "$HOME", "`x`", "'", '"', "\\", "[1,2", '{"a":1,"a":2}', "[" * 100_000,
    "true", "null", "__class__", "=", "a=b=c", "~", "~no-such-user", "*", "[a-z]*", "?", "..", ".", "--help",
    "-h", "--version",
]  # fmt: skip
"""Values that broke something, somewhere."""

CHANGES = [
    "pretrain.depth=6", "pretrain.depth=true", "pretrain.depth=6.5", "pretrain.depth=" + "9" * 5000,
    "pretrain.seed=-1", "pretrain.seed=18446744073709551616", "pretrain.model.rope_base=NaN",
    "pretrain.model.rope_base=1e308", "pretrain.horizon.amount=1e300", "pretrain.horizon.amount=1e30",
    'pretrain.horizon={"unit": "flops", "amount": 1e-300}', "pretrain.batch_tokens=9223372036854775807",
    "pretrain.model.depth=64", "rows.sequence_len=1048576", "conversations.train.0.task=world",
    "conversations.train=[]", 'conversations.train=[{"task": "world", "weight": 1}]', "data=null", "data=[]",
    "data.source=no such folder", "data.source=.", "data.source=s3:/b", "data.source=hf://a/b", "data.source=a\0b",
    "ranks=2", "ranks=-1", "nodes=3", "exact=true", "a.b.c.d=1", ".=1", "data.=1", "=", "data.source",
    "report.title=[/]", 'report.title="\\udc80"', "base_evaluation.prompts=" + json.dumps(["x"] * 2000),
    "data=" + '{"a":' * 3000 + "1", "data=" + '{"a":' * 100 + "1" + "}" * 100,
]  # fmt: skip

VALUES = [1 << 63, -(1 << 63) - 1, 10**400, 10**5000, 1e308, 5e-324, ["x"] * 1001, {"a": {"b": []}}, object(), b"\xff"]

TEXT = st.text(st.characters(codec=None, exclude_characters="/"), max_size=20)  # "/": we are root, and commands write


class Fuzzed:
    """A folder to work in, with a small store."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.root = folder, folder / "store"
        (folder / "file").write_text("a file")
        (folder / "loop").symlink_to(folder / "loop")
        store = Store(str(self.root), folder / "cache")
        with record_run(store, "demo", PipelineConfig().canonical()) as record:
            raw = self._publish(store, "download", "RawShard", "0", {}, train_documents=3)
            record(Event(label="download [/]", stage="download", kind="finished", key=raw.key, seconds=0.1))
            vocabulary = self._publish(store, "train_tokenizer", "Vocabulary", "1", {"raw": [raw]}, vocab_size=265)
            model = self._publish(store, "sft", "Model", "2", {"base": vocabulary}, final_loss=float(1))
            self._publish(store, "sft", "Model", "3", {"base": vocabulary}, note="[/red]")
        store.set_alias("chat/latest", model.manifest)
        self.run_id = record.record.id

    def _publish(self, store: Store, stage: str, kind: str, digit: str, inputs: dict[str, Any], **metrics: Any) -> Any:
        out = self.folder / f"out-{digit}"
        out.mkdir()
        Tokenizer.from_merges([]).save(out / "vocabulary.json")
        manifest = store.publish(
            out, stage=stage, stage_version=1, kind=kind, key=digit + (KEY * 4)[1:], config={"n": 1}, inputs=inputs,
            metrics=metrics, producer=describe_producer(datetime.now(UTC), run="run [/]"),
        )  # fmt: skip
        return store.artifact(manifest, reused=False)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fuzzed]:
    """A working directory of its own; nothing leaves this machine or starts a server."""
    before = dict(os.environ)
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("NANOCHAT_", "AWS_", "PREFECT_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NANOCHAT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NANOCHAT_STORE", str(tmp_path / "store"))
    monkeypatch.setattr("flows.run.run_with_prefect", lambda *_: 0)
    monkeypatch.setattr("flows.run.evaluate_with_prefect", lambda *_: [])
    monkeypatch.setattr("nanochat.cli.evaluate._evaluate_plain", lambda *_: [])
    monkeypatch.setattr("flows.site.up.up", lambda *_, **__: None)
    monkeypatch.setattr("flows.site.up.down", lambda *_: None)
    monkeypatch.setattr("nanochat.cli.run._run_plain", lambda *_: None)
    monkeypatch.setattr("nanochat.serve.server.wait_for_aliases", _resolve_once)
    monkeypatch.setattr("nanochat.serve.terminal.load_model", _unreachable)
    monkeypatch.setattr("nanochat.sources.shard_list.fetch_listing", _unreachable)
    real = resolve.list_shards
    monkeypatch.setattr(
        resolve, "list_shards", lambda data, *a, **k: (_unreachable if "://" in data.source else real)(data, *a, **k)
    )
    yield Fuzzed(tmp_path)
    os.environ.clear()
    os.environ.update(before)


def _unreachable(*_: Any, **__: Any) -> Any:
    raise SourceUnreachable("Not in this test.")


def _resolve_once(store: Store, options: ServeOptions, _: Any) -> None:
    """What `serve --follow` repeats until the alias exists."""
    for name in options.follow:
        store.resolve(name)


def command_lines(place: Fuzzed, command: str) -> st.SearchStrategy[list[str]]:
    """Its arguments in any number and order, with values that fit them or not."""
    known = [
        "chat/latest", f"sft/2{KEY[1:]}", "2123", place.run_id, "sft", "demo", "out", str(place.root), "new/alias",
        str(place.folder / "file"), str(place.folder / "loop" / "x"), str(place.folder / "none"), "file/inside",
        "s3:/bucket", "s3://", "file://host/x", "ftp://x", "http://[::1", str(place.folder / "page.html"),
    ]  # fmt: skip
    any_value = st.one_of(st.sampled_from(known), st.sampled_from(ODD), TEXT)
    pieces: list[st.SearchStrategy[list[str]]] = [any_value.map(lambda one: [one])]
    words, found = command.split(), app
    for word in words:
        found = found[word]
    for argument in found.assemble_argument_collection():
        value = st.one_of(st.sampled_from(CHANGES), any_value) if argument.hint not in (str, int, float) else any_value
        for name in argument.names:
            pieces += [
                value.map(lambda one, name=name: [name, one]),
                value.map(lambda one, name=name: [f"{name}={one}"]),
                st.just([name]),
            ]
    pieces.append(st.sampled_from([["chat/latest"], ["--store", str(place.folder / "none")], ["--no-such-option"]]))
    several = st.lists(st.one_of(pieces), max_size=4).map(lambda found: list(chain.from_iterable(found)))
    one_change = st.sampled_from(CHANGES).map(lambda change: ["--set", change])
    lines = st.one_of(several, one_change) if command in ("config", "fetch", "plan", "run") else several
    return lines.map(lambda line: [*words, *line])


def run_at_the_door(line: list[str]) -> tuple[int, str, str]:
    """Exit code and what was printed."""
    out, err = io.StringIO(), io.StringIO()
    sys.argv = ["nanochat", *line]
    code = 0
    with redirect_stdout(out), redirect_stderr(err):
        try:
            door.main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
    return code, out.getvalue(), err.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_line_ends_in_a_traceback(command: str, place: Fuzzed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [])
    store = shutil.copytree(place.root, place.folder / "kept")

    @settings(
        max_examples=TRIES_A_COMMAND, derandomize=True, deadline=None, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(command_lines(place, command))
    @example(command.split())
    @example(command.split()[:1])
    def fuzz(line: list[str]) -> None:
        if not place.root.exists():
            shutil.copytree(store, place.root)
        code, out, err = run_at_the_door(line)
        assert code in (0, 1, 2), (line, err, *_reports(place.folder))
        assert "Traceback" not in out + err
        assert bool(err.strip()) == bool(code), (line, code, out, err)

    fuzz()


def _reports(folder: Path) -> list[str]:
    return [path.read_text() for path in (folder / "home" / "crashes").glob("*")]


@pytest.mark.parametrize("config", [PipelineConfig(), DEMO.config, Compute()], ids=["default", "demo", "compute"])
@settings(max_examples=TRIES_OF_CHANGES // 3, derandomize=True, deadline=None, database=None)
@given(data=st.data())
def test_no_change_of_a_field_ends_in_a_traceback(config: Config, data: st.DataObject) -> None:
    paths = st.sampled_from(_paths(config.model_dump(mode="json")))
    value = st.one_of(
        st.sampled_from(ODD),
        st.integers().map(str), st.floats().map(str), st.booleans().map(json.dumps), TEXT,
        st.recursive(
            st.one_of(st.none(), TEXT, st.integers()),
            lambda each: st.lists(each) | st.dictionaries(TEXT, each), max_leaves=5,
        ).map(json.dumps),
    )  # fmt: skip
    change = st.one_of(st.tuples(paths, value).map("=".join), st.sampled_from(CHANGES), TEXT)
    changes = data.draw(st.lists(change, max_size=3))
    try:
        changed = override(config, changes)
    except NanochatError as error:
        _is_a_sentence(error)
        return
    _can_be_used(changed)


@settings(max_examples=TRIES_OF_VALUES, derandomize=True, deadline=None, database=None)
@given(data=st.data())
def test_no_value_of_a_form_ends_in_a_traceback(data: st.DataObject) -> None:
    """What a form or a program hands over: any type, at any place of a config that is right elsewhere."""
    kind = data.draw(st.sampled_from([PipelineConfig, Compute]))
    config: Any = kind().model_dump(mode="json")
    anything = st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.sampled_from(ODD), st.text(max_size=5),
        st.sampled_from(VALUES), st.lists(st.integers(), max_size=3),
        st.dictionaries(st.text(max_size=3) | st.integers(), st.integers(), max_size=3),
    )  # fmt: skip
    for _ in range(data.draw(st.integers(1, 2))):
        here, path = config, data.draw(st.sampled_from(_paths(config))).split(".")
        for name in path[:-1]:
            here = here[name]
            if not isinstance(here, dict):
                break
        else:
            here[path[-1]] = data.draw(anything)
    try:
        _can_be_used(parse(kind, config))
    except NanochatError as error:
        _is_a_sentence(error)


def _can_be_used(config: Any) -> None:
    """What follows from an accepted config is a plan or a sentence, and it has a key."""
    canonical_json(config.canonical()).encode()
    config.model_dump_json()
    if isinstance(config, PipelineConfig):
        try:
            derive_hyperparameters(config.pretrain, config.tokenizer.vocab_size, config.rows.sequence_len).describe()
        except NanochatError as error:
            _is_a_sentence(error)


def _is_a_sentence(error: NanochatError) -> None:
    output = str(error)
    assert "\n" not in output.strip()
    assert len(output) < 2000
    output.encode()


def _paths(values: dict[str, Any], before: str = "") -> list[str]:
    found: list[str] = []
    for name, value in values.items():
        found += [f"{before}{name}", *(_paths(value, f"{before}{name}.") if isinstance(value, dict) else [])]
    return found
