"""The stages through the store, under torchrun, on two ranks; and a run that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from flows.results_section import results
from nanochat.config.rl import ProblemsConfig, RewardConfig, RLTask
from nanochat.execution.local import run_local
from nanochat.execution.stage import Node
from nanochat.rl.problems import with_hashes
from nanochat.stages.rl import collect_problems, rl
from nanochat.store.artifacts import Model, Problems
from nanochat.store.producer import describe_producer
from nanochat.store.store import Store
from tests.compute import compute
from tests.rl.tiny import chat_model, config, equal_weights, launched, problems
from tests.waiting import until


@dataclass(frozen=True)
class Graph:
    problems: Node[Problems]
    model: Node[Model]


def test_the_stages_make_a_chat_model_in_the_store(tmp_path: Path) -> None:
    store = Store((tmp_path / "store").as_uri(), tmp_path / "cache")
    manifest = store.publish(
        chat_model(tmp_path / "base"), stage="sft", stage_version=2, kind="Model", config={}, inputs={}, key="4" * 64,
        metrics={}, producer=describe_producer(datetime.now(UTC)),
    )  # fmt: skip
    base = store.artifact(manifest, reused=True)
    (tmp_path / "own.py").write_text("def f(problem, answer):\n    return len(answer)")
    reward = RewardConfig(kind="function", function=f"{tmp_path / 'own.py'}:f")
    tasks = ProblemsConfig(tasks=(RLTask(task="sums", limit=20, held_out=4, rewards=(reward,)),))

    def graph() -> Graph:
        collected = collect_problems(with_hashes(tasks))
        return Graph(collected, rl(config(steps=2, evaluate_every_steps=0), base=base, problems=collected))

    def run(built: Graph) -> Model:
        how = compute(device="cpu", ranks=2)
        return run_local(built, store, how, tmp_path / "runs")[built.model]

    made = run(graph())
    assert {"model.safetensors", "vocabulary.json", "rollouts.parquet", "evaluations.jsonl", "metrics.jsonl"} <= {
        file.path for file in made.manifest.files
    }
    assert (made.metrics["world_size"], made.metrics["rollouts"]) == (2, 16)
    assert {name: refs[0].stage for name, refs in made.manifest.inputs.items()} == {
        "base": "sft", "problems": "collect_problems"
    }  # fmt: skip
    shown = "\n".join(results(store, made.manifest))  # on the page in Prefect's UI
    assert "data:image/svg+xml" in shown
    assert all(f"| {kind} | `" in shown for kind in ("Most improved", "Best", "Worst"))
    assert run(graph()).reused
    (tmp_path / "own.py").write_text("def f(problem, answer):\n    return -len(answer)")
    assert not run(graph()).reused  # the code of the reward is in the key


@pytest.mark.slow
@pytest.mark.kills
def test_a_killed_run_on_two_ranks_ends_with_equal_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And its first samples are those of one rank."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    data, steps = tmp_path / "data", 30
    problems(data / "problems")
    chat_model(data / "base")
    launched(data, tmp_path / "whole", steps=steps, ranks=2)
    command = [sys.executable, "-m", "tests.rl.tiny", str(data), str(tmp_path / "killed"), "2", str(steps)]
    checkpoints = data / "checkpoints" / "of-2"
    for attempt in range(2):  # killed twice
        before = set(checkpoints.glob("*/manifest.json"))
        command[4] = str(tmp_path / f"killed {attempt}")
        parent = subprocess.Popen(command, cwd=Path(__file__).parents[2])
        until(
            lambda parent=parent, before=before: (
                parent.poll() is not None or set(checkpoints.glob("*/manifest.json")) - before
            ),
            "a checkpoint",
            every_s=0.02,
        )
        family = [*psutil.Process(parent.pid).children(recursive=True), psutil.Process(parent.pid)]
        for process in family:
            os.kill(process.pid, signal.SIGKILL)
        parent.wait()
        psutil.wait_procs(family)
        assert not (tmp_path / f"killed {attempt}" / "result.json").exists()
    again = launched(data, tmp_path / "again", checkpoints.as_uri(), steps, ranks=2)
    assert 0 < again["resumed_from_step"] < steps
    assert again["steps_without_rollouts"] == 0
    assert equal_weights(tmp_path / "whole", tmp_path / "again")
    launched(data, tmp_path / "alone", steps=1)
    first = [
        pq.read_table(tmp_path / run / "out" / "rollouts.parquet", filters=[("step", "==", 0)])
        for run in ("alone", "whole")
    ]
    assert first[0].equals(first[1])
