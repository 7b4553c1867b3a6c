"""The evaluation on CORE as a stage: real ranks, killed anywhere, in the pipeline."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from nanochat.config.evaluation import CoreBundleConfig, CoreConfig
from nanochat.config.pipeline import PipelineConfig, ReportConfig
from nanochat.evaluation.core import questions
from nanochat.evaluation.core.evaluate import evaluate
from nanochat.evaluation.finished import FinishedTasks
from nanochat.evaluation.own_model import OwnModel
from nanochat.execution.graph import nodes
from nanochat.execution.local import run_local
from nanochat.execution.plan import plan
from nanochat.execution.stage import Context, Metrics, Node, stage
from nanochat.graphs import resolve
from nanochat.graphs.pipeline import pretrain_to_chat
from nanochat.model.files import save_model
from nanochat.stages.core import core_bundle, evaluate_core
from nanochat.store.artifacts import CoreBundle, Evaluation, Model
from nanochat.store.store import Store
from nanochat.tokenizer.bpe import Tokenizer
from nanochat.workers.launch import launch
from nanochat.workers.ranks import World
from tests.compute import compute
from tests.evaluation.core_bundles import texts, write_bundle
from tests.evaluation.core_models import small_model
from tests.training.tiny import context

ROW_TOKENS = 64
FILES = ("evaluation.json", "examples.parquet")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundle"), rows=7)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, bundle: Path) -> Path:
    """The folder of a model."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = Tokenizer.train_from_iterator(iter(texts(bundle)), vocab_size=420)
    save_model(folder, small_model(tokenizer, ROW_TOKENS))
    tokenizer.save(folder / "vocabulary.json")
    return folder


def here(
    model: Path, bundle: Path, out: Path, kept: str = "", progress: Callable[..., None] = lambda *_: None, **config: Any
) -> dict[str, Any]:
    """Evaluates in this process; as the worker does."""
    out.mkdir(exist_ok=True)
    settings = CoreConfig(**config)
    own = OwnModel.load(model, crop=settings.overlong == "crop", threads=1)
    world = World(0, 1, torch.device("cpu"))
    found = evaluate(own, bundle, settings, out, world, finished=FinishedTasks(kept), progress=progress)
    (out / "evaluation.json").write_text(json.dumps(found, indent=1, ensure_ascii=False))
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, model: Path, bundle: Path) -> Path:
    """An evaluation that was not interrupted."""
    out = tmp_path_factory.mktemp("whole")
    here(model, bundle, out)
    return out


def files(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in FILES}


@pytest.mark.parametrize("ranks", [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(3, marks=pytest.mark.slow)])
def test_ranks_share_the_questions_and_change_nothing(model: Path, bundle: Path, tmp_path: Path, ranks: int) -> None:
    """Case 5 (LM#1719)."""
    here(model, bundle, tmp_path / "here", overlong="crop")
    around = context(tmp_path / "run", ranks=ranks)
    inputs: dict[str, Path | list[Path]] = {"model": model, "bundle": bundle}
    metrics = launch(
        "nanochat.evaluation.core.worker", CoreConfig(overlong="crop"), inputs, tmp_path / "run/out", around
    )
    assert files(tmp_path / "run/out") == files(tmp_path / "here")
    assert metrics["questions"] == 22 * 7
    assert -1 < metrics["core"] < 1
    events = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert events[-1]["done"] == events[-1]["total"] == 22 * 7


class Killed(Exception):
    """Instead of a signal."""


@pytest.mark.parametrize("after", [1, 9, 95, 198])
def test_killed_anywhere_it_continues_with_the_next_task(
    model: Path, bundle: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """Finished tasks are not done again, and the files are equal to the byte."""
    kept = (tmp_path / "store/v1/checkpoints/key").as_uri()
    (tmp_path / "store").mkdir()
    events = 0

    def kill(*_: object) -> None:
        nonlocal events
        events += 1
        if events == after:
            raise Killed

    with pytest.raises(Killed):
        here(model, bundle, tmp_path / "killed", kept, kill)
    assert not (tmp_path / "killed/examples.parquet").exists()
    done = FinishedTasks(kept).load()
    again: list[str] = []
    plain = questions.prompt_of

    def noted(task: Any, rows: Any, index: int) -> Any:
        again.append(task.name)
        return plain(task, rows, index)

    monkeypatch.setattr(questions, "prompt_of", noted)
    here(model, bundle, tmp_path / "resumed", kept)
    assert files(tmp_path / "resumed") == files(whole)
    assert not set(again) & done.keys()
    assert len(set(again)) + len(done) == 22
    assert len(done) == after // 9, "each task reports its beginning, seven questions, and when it is kept"


def test_a_damaged_record_of_a_finished_task_is_done_again(
    model: Path, bundle: Path, whole: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "store/v1/checkpoints/key"
    here(model, bundle, tmp_path / "first", kept.as_uri())
    for path in kept.glob("tasks/*.parquet"):
        path.write_bytes(path.read_bytes()[:100])
    assert FinishedTasks(kept.as_uri()).load() == {}
    here(model, bundle, tmp_path / "again", kept.as_uri())
    assert files(tmp_path / "again") == files(whole)


def test_without_some_tasks_there_is_no_core(model: Path, bundle: Path, tmp_path: Path) -> None:
    found = here(model, bundle, tmp_path / "some", tasks=("copa", "squad"))
    assert found["core"] is None
    assert found["core_by_version"] == {"v1": None, "v2": None}
    assert set(found["tasks"]) == {"copa", "squad"}
    assert len(found["missing_tasks"]) == 20
    assert found["missing_in_bundle"] == []


@stage(version=1, produces=Model, resource="cpu")
def given_model(config: ReportConfig, *, out: Path, context: Context) -> Metrics:
    """A model that is there: the title is its folder."""
    shutil.copytree(config.title, out, dirs_exist_ok=True)
    return {}


@dataclass(frozen=True)
class Graph:
    bundle: Node[CoreBundle]
    evaluation: Node[Evaluation]


def graph_of(model: Path, bundle: Path) -> Graph:
    resolved = resolve.core_bundle(CoreBundleConfig(source=str(bundle)))
    assert resolved is not None
    tasks = core_bundle(resolved)
    made = given_model(ReportConfig(title=str(model)))
    return Graph(tasks, evaluate_core(CoreConfig(limit=5), model=made, bundle=tasks))


def test_the_stages_in_a_graph_are_cached_and_a_changed_bundle_is_evaluated_again(
    model: Path, bundle: Path, tmp_path: Path
) -> None:
    store = Store(str(tmp_path / "store"), tmp_path / "cache")
    here = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    graph = graph_of(model, here)
    results = run_local(graph, store, compute(device="cpu"), tmp_path / "runs")
    found = results[graph.evaluation]
    assert found.metrics["questions"] == 22 * 5
    assert {path.name for path in found.path.iterdir()} == {"evaluation.json", "examples.parquet", "times.parquet"}
    assert set(found.manifest.inputs) == {"model", "bundle"}
    assert not store.objects.list("v1/checkpoints"), "finished tasks are deleted when the evaluation is published"
    again = graph_of(model, here)
    assert all(entry.artifact for entry in plan(again, store))
    rows = here / "eval_data/some/copa.jsonl"
    rows.write_text(rows.read_text().replace("Question 1", "Question One"))
    states = {entry.node.stage.name: bool(entry.artifact) for entry in plan(graph_of(model, here), store)}
    assert states == {"core_bundle": False, "given_model": True, "evaluate_core": False}


def test_without_a_source_nothing_of_the_pipeline_changes() -> None:
    config = PipelineConfig()
    assert resolve.core_bundle(config.core_bundle) is None
    plain = pretrain_to_chat(config, [], config.conversations)
    assert plain.core is None
    with_core = pretrain_to_chat(config, [], config.conversations, CoreBundleConfig(source="x.zip"))
    added = {node.label for node in nodes(with_core)} - {node.label for node in nodes(plain)}
    assert added == {"core_bundle", "evaluate_core"}
    assert not {"core_bundle", "core_evaluation"} & config.canonical().keys()
