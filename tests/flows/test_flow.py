"""The flow on a real Prefect server, with a small graph of real stages in a real store."""

from __future__ import annotations

import importlib
import importlib.util
import io
import json
import os
import re
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from rich.console import Console

from flows.site import prefect_environment
from flows.site.server import start_server
from nanochat.config.data import TokenizerConfig, WorldConfig
from nanochat.config.overrides import override
from nanochat.config.pipeline import PipelineConfig
from nanochat.console import Screen
from nanochat.errors import BadConfig, NanochatError
from nanochat.execution.graph import Failures, Results, nodes
from nanochat.execution.stage import Context, Metrics, stage
from nanochat.graphs import pipeline, resolve
from nanochat.graphs.pipeline import Text, prepare_text
from nanochat.graphs.shared import share
from nanochat.profiles import PROFILES
from nanochat.store.artifacts import RawShard, Vocabulary
from nanochat.store.runs import RunRecord
from nanochat.store.store import Store
from tests.compute import compute
from tests.flows.prepare import CONFIG
from tests.recorded_runs import newest
from tests.waiting import until

pytestmark = [
    pytest.mark.prefect,
    pytest.mark.skipif(importlib.util.find_spec("prefect") is None, reason="prefect is not installed"),
]


def _load_graph() -> ModuleType:
    """The module beside this one; stages look their annotations up in `sys.modules`."""
    specification = importlib.util.spec_from_file_location("small_graph", Path(__file__).with_name("graph.py"))
    assert specification and specification.loader
    module = importlib.util.module_from_spec(specification)
    sys.modules["small_graph"] = module
    specification.loader.exec_module(module)
    return module


@contextmanager
def running_server(home: Path) -> Iterator[str]:
    """The API address of a server that answers."""
    with start_server(home) as starting:
        starting.wait(lambda _: None)
        yield starting.api_url


@dataclass
class Workshop:
    """A server, a store, and a way to run the flow as the command line does."""

    api_url: str
    home: Path
    graph: ModuleType

    def run(self, *changes: str, store: str = "store", nodes: int = 1) -> tuple[str, str]:
        """Screen and id of the flow run; raises what the command line would print."""
        from flows.pipeline import nanochat_flow
        from flows.terminal import run_flow

        screen = Screen(Console(file=io.StringIO(), width=200))
        config = override(PipelineConfig.model_validate({"data": {"world": WorldConfig(shards=2)}}), changes)
        url = (self.home / store).as_uri()
        parameters = {"profile": "demo", "config": config, "compute": compute(count=2, nodes=nodes), "store": url}
        try:
            run_flow(nanochat_flow, parameters, screen, self.home / "prefect")
        finally:
            self.shown = screen.console.file.getvalue()  # pyright: ignore
            found = re.search(r"flow-run/([0-9a-f-]+)", self.shown)
            self.run_id = found.group(1) if found else ""
        return self.shown, self.run_id

    def ask(self, path: str, **body: Any) -> Any:
        request = urllib.request.Request(
            f"{self.api_url}/{path}", data=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def of_run(self, kind: str, run_id: str) -> list[dict[str, Any]]:
        return self.ask(f"{kind}/filter", flow_runs={"id": {"any_": [run_id]}})

    def states(self, run_id: str) -> dict[str, str]:
        """Name of each task run → name of its state, when the server has recorded all of them."""

        def final() -> dict[str, str]:
            states = {run["name"]: run["state_name"] for run in self.of_run("task_runs", run_id)}
            done = len(states) == 9 and not {"Running", "Pending", "AwaitingRetry"} & set(states.values())
            return states if done else {}

        return until(final, "nine final states", every_s=0.25)

    def heartbeats(self, run_id: str, expected: int) -> int:
        """How many heartbeats of a run the server has, when it has the expected number."""
        wanted = {"event": {"name": ["prefect.flow-run.heartbeat"]}, "resource": {"id": [f"prefect.flow-run.{run_id}"]}}

        def enough() -> int:
            found = self.ask("events/filter", filter=wanted)["total"]
            return found if found >= expected else 0

        return until(enough, f"{expected} heartbeats", every_s=0.25)

    def record(self, run_id: str) -> RunRecord:
        store = Store((self.home / "store").as_uri(), self.home / "cache")
        return next(run.record for run in newest(store) if run.record.flow_run == run_id)

    def flow_state(self, run_id: str) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.api_url}/flow_runs/{run_id}") as answer:
            return json.load(answer)["state"]


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    home = tmp_path_factory.mktemp("home")
    before = dict(os.environ)
    os.environ.pop("PREFECT_API_URL", None)
    os.environ["NANOCHAT_HOME"] = str(home)
    graph = _load_graph()
    try:
        with start_server(home) as starting:
            prefect_environment.configure_client(starting.api_url, home / "prefect")
            _read_settings_again()
            import flows.pipeline

            starting.wait(lambda _: None)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(flows.pipeline, "pretrain_to_chat", graph.pretrain_to_chat)
                yield Workshop(starting.api_url, home, graph)
    finally:
        os.environ.clear()
        os.environ.update(before)
        _read_settings_again()


def _read_settings_again() -> None:
    """Threads get what Prefect read when a test before these imported it: no server, so they start one of their own."""
    from prefect.context import refresh_global_settings_context

    refresh_global_settings_context()


def test_an_unchanged_rerun_is_all_cached_and_publishes_its_artifacts_again(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    import flows.terminal

    monkeypatch.setattr(flows.terminal, "HEARTBEAT_EVERY_S", 0.2)
    _, first = workshop.run()
    assert workshop.flow_state(first)["message"] == "9 computed, 0 cached"
    assert workshop.states(first) == dict.fromkeys(
        (
            "download shard_00000", "download shard_00001", "train_tokenizer", "tokenize shard_00000",
            "tokenize shard_00001", "converse", "pretrain", "sft", "report",
        ),
        "Completed",
    )  # fmt: skip
    assert workshop.graph.side_by_side[1] == 1, "stages for GPUs ran side by side"

    _, second = workshop.run()
    assert workshop.flow_state(second)["message"] == "0 computed, 9 cached"
    assert set(workshop.states(second).values()) == {"Cached"}
    assert workshop.flow_state(second)["name"] == "Cached"

    pages = {page["key"]: page for page in workshop.of_run("artifacts", second) if page["type"] == "markdown"}
    assert pages.keys() - {f"run-{second[:8]}"} == {
        page["key"]
        for page in workshop.of_run("artifacts", first)
        if page["type"] == "markdown" and not page["key"].startswith("run-")
    }
    report = next(page for key, page in pages.items() if key.startswith("report-"))["data"]
    assert "Reused in this run" in report
    assert "data:image/svg+xml;base64," in report
    assert "train_tokenizer --> tokenize" in report
    store = Store((workshop.home / "store").as_uri(), workshop.home / "cache")
    assert store.resolve("chat/latest").stage == "sft"
    base = store.resolve("base/latest")
    assert f"/artifact/{pages[f'pretrain-{base.key[:16]}']['id']})" in report, "no link to the input's page"

    record = workshop.record(second)
    assert (record.state, record.profile, record.config["data"]["world"]["shards"]) == ("completed", "demo", 2)
    assert {label: stage.state for label, stage in record.stages.items()} == dict.fromkeys(
        workshop.states(second), "reused"
    )
    assert record.stages["pretrain"].key == base.key
    assert {stage.state for stage in workshop.record(first).stages.values()} == {"computed"}
    assert workshop.heartbeats(first, 2) >= 2


def test_a_change_reruns_what_depends_on_it(workshop: Workshop) -> None:
    workshop.run()
    _, run_id = workshop.run("sft.seed=7")
    states = workshop.states(run_id)
    assert {name for name, state in states.items() if state == "Completed"} == {"sft", "report"}
    bars = [page for page in workshop.of_run("artifacts", run_id) if page["type"] == "progress"]
    assert [bar["data"] for bar in bars] == [100.0]


def test_over_several_nodes_what_trains_goes_in_the_order_of_the_graph(workshop: Workshop) -> None:
    """On another node too, then: no two stages have some of the nodes each."""
    _, run_id = workshop.run("pretrain.seed=5", "sft.seed=5", nodes=2)
    assert set(workshop.states(run_id).values()) == {"Completed", "Cached"}
    runs = {run["name"]: run for run in workshop.of_run("task_runs", run_id)}
    assert runs["pretrain"]["end_time"] <= runs["sft"]["start_time"]


def test_all_models_are_on_a_page_best_first(workshop: Workshop) -> None:
    _, run_id = workshop.run()
    pages = {page["key"]: page["data"] for page in workshop.of_run("artifacts", run_id)}
    assert "/artifact/" in pages[f"run-{run_id[:8]}"]
    store = Store((workshop.home / "store").as_uri(), workshop.home / "cache")
    for name in ("pretrain", "sft"):
        for manifest in store.manifests(name):
            assert re.search(rf"\[{manifest.key[:12]}\]\(\.\./(artifact|key)/", pages["models"])
    assert "base/latest" in pages["models"]


def test_the_store_is_verified_and_cleared_up_by_flows(workshop: Workshop) -> None:
    from flows.store_maintenance import gc_flow, verify_flow

    workshop.run(store="kept")
    url = (workshop.home / "kept").as_uri()
    whole = verify_flow(url, return_state=True)
    assert whole.name == "Completed"
    assert "9 of 9 artifacts are whole" in (whole.message or "")
    assert (gc_flow(url, return_state=True).message or "").endswith("9 artifacts stay.")

    path = next(path for path in (workshop.home / "kept").rglob("*") if path.is_file() and "sft" in str(path.parent))
    path = next(each for each in path.parent.rglob("*") if each.is_file() and each.name != "manifest.json")
    path.chmod(0o644)
    path.write_bytes(b"?" * path.stat().st_size)
    assert verify_flow(url, return_state=True).is_failed()
    assert "1 moved to the trash" in (verify_flow(url, repair=True, return_state=True).message or "")
    assert "8 of 8 artifacts are whole" in (verify_flow(url, return_state=True).message or "")


def test_a_failing_stage_gives_its_sentence_and_nothing_of_prefects(
    workshop: Workshop, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(NanochatError) as caught:
        workshop.run("conversations.seed=13")
    assert (caught.value.message, caught.value.hint) == ("`conversations.seed` is unlucky.", "Take `14`.")
    assert workshop.flow_state(workshop.run_id)["message"] == "`conversations.seed` is unlucky. Take `14`."
    states = workshop.states(workshop.run_id)
    assert states["converse"] == "Failed"
    assert {name.partition("-")[0] for name, state in states.items() if state == "NotReady"} == {"sft", "report"}
    assert "failed  converse" in workshop.shown
    record = workshop.record(workshop.run_id)
    assert (record.state, record.error) == ("failed", "`conversations.seed` is unlucky. Take `14`.")
    assert record.stages["converse"].state == "failed"
    assert "Traceback" not in workshop.shown + "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"config": {"sft": {"epochs": 0}}}, "`sft.epochs`: input should be greater than 0, got `0`."),
        ({"config": {"sft": {"epoch": 1}}}, "`sft.epoch`: extra inputs are not permitted, got `1`."),
        ({"config": 5}, "`PipelineConfig`: "),
        ({"compute": {"ranks": "many"}}, "`parallelism.ranks`: "),
        ({"profile": "demi"}, "There is no profile `demi`. Did you mean `demo`?"),
    ],
)
def test_wrong_values_are_refused_before_tasks(workshop: Workshop, parameters: dict[str, Any], expected: str) -> None:
    from flows.pipeline import nanochat_flow

    state = nanochat_flow(**parameters, store=(workshop.home / "store").as_uri(), return_state=True)
    assert state.is_failed()
    assert (state.message or "").startswith(expected)
    assert "\n" not in (state.message or "")
    run_id = str(state.state_details.flow_run_id)
    assert workshop.flow_state(run_id)["message"] == state.message
    assert workshop.of_run("task_runs", run_id) == []


def test_what_may_pass_is_tried_again(workshop: Workshop) -> None:
    workshop.graph.sulks.set()
    _, run_id = workshop.run("data.world.seed=5")
    assert set(workshop.states(run_id).values()) <= {"Completed", "Cached"}
    assert any(run["run_count"] == 2 for run in workshop.of_run("task_runs", run_id))


def test_a_run_cancelled_in_the_ui_ends_its_stages(workshop: Workshop) -> None:
    def cancel() -> None:
        workshop.graph.trains.wait(30)
        (run,) = workshop.ask("flow_runs/filter", flow_runs={"state": {"type": {"any_": ["RUNNING"]}}})
        workshop.ask(f"flow_runs/{run['id']}/set_state", state={"type": "CANCELLING", "name": "Cancelling"})

    thread = threading.Thread(target=cancel)
    thread.start()
    with pytest.raises(NanochatError, match="cancelled in the Prefect UI"):
        workshop.run("pretrain.seed=99")
    thread.join()
    assert workshop.graph.side_by_side[0] == 0
    assert workshop.flow_state(workshop.run_id)["type"] == "CANCELLED"
    assert workshop.states(workshop.run_id)["pretrain"] == "Cancelled"
    record = workshop.record(workshop.run_id)
    assert (record.state, record.error) == ("cancelled", "The run was cancelled in the Prefect UI.")
    assert record.stages["pretrain"].state == "stopped"


def test_the_form_shows_every_field_with_title_and_description(workshop: Workshop) -> None:
    from flows.pipeline import nanochat_flow

    schema = nanochat_flow.parameters.model_dump()
    assert list(schema["properties"]) == ["profile", "config", "compute", "store", "gpu_pool"]
    assert schema["properties"]["profile"]["enum"] == list(PROFILES)
    for field in schema["properties"].values():
        assert field["title"] and field["description"]
    assert schema["definitions"]["PretrainConfig"]["properties"]["horizon"]["description"] == "Length of training."


def test_a_second_run_shares_the_server_of_the_first(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL")
    with running_server(workshop.home) as api_url:
        assert api_url == workshop.api_url
    with urllib.request.urlopen(f"{workshop.api_url}/health") as answer:
        assert answer.read() == b"true", "the second user stopped the server of the first"


def test_a_named_server_that_does_not_answer_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    with pytest.raises(NanochatError, match="does not answer"), running_server(tmp_path):
        pass


class _Old(BaseHTTPRequestHandler):
    """A server of long ago, as far as its first answers go."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'"2.20.1"' if self.path.endswith("/version") else b"true")

    def log_message(self, format: str, *_: Any) -> None:
        """Logs are not printed."""


def test_a_server_older_than_we_are_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with HTTPServer(("127.0.0.1", 0), _Old) as old:
        threading.Thread(target=old.serve_forever, daemon=True).start()
        monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{old.server_port}/api")
        with pytest.raises(NanochatError, match=r"has version 2\.20\.1"), running_server(tmp_path):
            pass
        old.shutdown()


def test_what_is_not_read_of_a_source_is_in_the_log_of_the_run(workshop: Workshop, tmp_path: Path) -> None:
    for name in ("a", "b", "test"):
        (tmp_path / f"{name}.jsonl").write_text('{"text": "a"}\n')
    _, run_id = workshop.run(f"data.source={tmp_path}")
    query = {"logs": {"flow_run_id": {"any_": [run_id]}}}
    until(lambda: "1 of a test split (`test.jsonl`)" in str(workshop.ask("logs/filter", **query)), "the log")


@stage(version=1, produces=Vocabulary, resource="cpu")
def broken_tokenizer(config: TokenizerConfig, raw: list[RawShard], *, out: Path, context: Context) -> Metrics:
    """Fails."""
    raise BadConfig("This vocabulary cannot be made.")


@dataclass(frozen=True)
class Texts:
    texts: list[Text]


@pytest.mark.parametrize("runner", ["threads", pytest.param("processes", marks=pytest.mark.slow)])
def test_a_failure_ends_only_what_depends_on_it(
    workshop: Workshop, runner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect import flow

    from flows.execute import RunSummary, execute
    from flows.request import parse_request
    from flows.terminal import run_flow

    how = compute(count=2, task_runner=runner, shards_per_task=2)
    request = parse_request("demo", CONFIG, how, (workshop.home / runner).as_uri())
    shards = resolve.shards(CONFIG.data, request.store)
    graphs = {"whole": prepare_text(CONFIG, shards)}
    monkeypatch.setattr(pipeline, "train_tokenizer", broken_tokenizer)
    texts = share({**graphs, "lost": prepare_text(CONFIG, shards)})
    failed: Failures = {}

    def follow(graph: Texts, results: Results, failures: Failures) -> Text:
        failed.update(failures)
        return graph.texts[0]

    # Prefect sends the flow to other processes: it must hold nothing that stays in this one
    here = ModuleType("two_texts")
    here.run = lambda: execute(request, lambda: Texts(texts), lambda _, __: RunSummary("done"), follow)  # pyright: ignore
    monkeypatch.setitem(sys.modules, "two_texts", here)

    @flow(name="two texts", validate_parameters=False)
    def two_texts() -> str:
        return importlib.import_module("two_texts").run().message

    run_flow(two_texts, {}, Screen(Console(file=io.StringIO(), width=200)), workshop.home / "prefect")
    assert set(failed) == set(nodes(texts[1])) - set(nodes(texts[0]))
    first, *others = failed.values()
    assert first.message == "This vocabulary cannot be made."
    assert all("did not start" in error.message for error in others)
