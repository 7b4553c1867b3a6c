"""Reinforcement learning in the one loop: it learns, resumes, keeps the best weights, and refuses what cannot work."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from nanochat.errors import BadReward
from nanochat.rl.rollout_table import read_evaluations
from nanochat.training import loop
from nanochat.workers.ranks import Preempted
from tests.rl.tiny import chat_model, equal_weights, problems, trained, weights

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    problems(folder / "problems")
    chat_model(folder / "base")
    return folder


def events(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "out" / "metrics.jsonl").read_text().splitlines()]


def test_the_reward_rises_and_everything_is_kept(data: Path, tmp_path: Path) -> None:
    found = trained(data, tmp_path / "run", steps=12, group_size=8, prompts_per_step=4, loss={"truncated": "judge"})
    lines = [event for event in events(tmp_path / "run") if "reward" in event]
    assert len(lines) == 12
    assert np.mean([line["reward"] for line in lines[-3:]]) > np.mean([line["reward"] for line in lines[:3]]) + 0.1
    logged = {"policy_entropy", "dead_group_share", "truncated_share", "answer_tokens", "failed_rewards"}
    assert logged <= lines[0].keys()
    rollouts = pq.read_table(tmp_path / "run" / "out" / "rollouts.parquet").to_pylist()
    assert len(rollouts) == 12 * 32 == found["rollouts"]
    for row in rollouts[:50]:
        assert len(row["ids"]) == len(row["mask"]) == len(row["logprobs"])
        assert row["reward"] == row["parts"][0]
    evaluations = read_evaluations(tmp_path / "run" / "out")
    assert [each["step"] for each in evaluations] == [0, 3, 6, 9, 12]
    assert evaluations[0]["kl"] == pytest.approx(0, abs=1e-3)  # on policy: engine and training agree
    assert evaluations[-1]["kl"] > 0.01
    assert {"1", "2"} == evaluations[0]["pass_at"].keys()
    assert found["start_pass_at_1"] == evaluations[0]["pass_at_1"]


def test_a_stopped_run_ends_with_equal_weights_and_all_rollouts(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(data, tmp_path / "whole")
    address = (tmp_path / "checkpoints" / "key").as_uri()
    for attempt in range(2):
        with monkeypatch.context() as patch:
            queries = count(1)
            patch.setattr(loop, "stop_requested", lambda queries=queries: next(queries) == 2)
            with pytest.raises(Preempted):
                trained(data, tmp_path / f"stopped {attempt}", address)
    again = trained(data, tmp_path / "again", address)
    assert (again["resumed_from_step"], again["steps_without_rollouts"]) == (4, 0)
    assert equal_weights(tmp_path / "whole", tmp_path / "again")
    for name in ("rollouts.parquet", "evaluations.jsonl"):
        assert (tmp_path / "again/out" / name).read_bytes() == (tmp_path / "whole/out" / name).read_bytes()


def test_all_rewards_equal_is_logged_and_makes_no_update(
    data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Case 37: no gradient, and no step of the optimizer either, whose momentum would move the weights."""
    folder = tmp_path / "data"
    problems(folder / "problems", "def reward(problem, answer):\n    return 1")
    (folder / "base").symlink_to(data / "base")
    cases: tuple[dict[str, Any], ...] = ({}, {"loss": {"dead_groups": "keep"}}, {"preset": "nanochat"})
    for number, fields in enumerate(cases):
        run = tmp_path / f"run {number}"
        trained(folder, run, steps=2, keep="last", sampling={"max_tokens": 300}, **fields)
        before = weights_of_base(data)
        assert all((before[name] == value).all() for name, value in weights(run).items())
        assert capfd.readouterr().err.count("has nothing to train on: no update") == 2


def weights_of_base(data: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(data / "base" / "model.safetensors")


def test_the_best_weights_are_kept_and_training_stops_without_a_gain(data: Path, tmp_path: Path) -> None:
    """No answer is ever right, so the first evaluation stays the best one."""
    found = trained(data, tmp_path / "run", evaluate_every_steps=1, patience=2)
    assert (found["steps"], found["kept_step"], found["gain"]) == (2, 0, 0)
    before = weights_of_base(data)
    assert all((before[name] == value).all() for name, value in weights(tmp_path / "run").items())


BAD = {
    "raises": ("raise KeyError('three')", "the function `reward` failed: KeyError: 'three'"),
    "NaN": ("return float('nan')", "the function `reward` returned nan"),
    "no number": ("return 'good'", "it returned a str, not a number"),
    "hangs": ("while True:\n            pass", "it took longer than 0.1 s"),
}


@pytest.mark.parametrize(("body", "message"), BAD.values(), ids=BAD)
def test_a_bad_reward_is_named_and_stops_or_is_left_out(data: Path, tmp_path: Path, body: str, message: str) -> None:
    folder = tmp_path / "data"
    odd = f"def reward(problem, answer):\n    if len(answer) % 2:\n        {body}\n    return len(answer)"
    problems(folder / "problems", odd)
    (folder / "base").symlink_to(data / "base")
    fields = {"steps": 2, "reward_timeout_s": 0.1, "evaluate_every_steps": 0, "evaluation_samples": 1}
    with pytest.raises(BadReward, match="for the problem `Problem") as caught:
        trained(folder, tmp_path / "stops", **fields)
    assert message in str(caught.value)
    trained(folder, tmp_path / "goes on", bad_reward="leave_out", **fields)
    rows = pq.read_table(tmp_path / "goes on" / "out" / "rollouts.parquet").to_pylist()
    failed = [row for row in rows if row["failure"]]
    assert failed and len(failed) < len(rows)
    assert all(message in row["failure"] and row["advantage"] == 0 for row in failed)
    assert sum(line.get("failed_rewards", 0) for line in events(tmp_path / "goes on")) == len(failed)


def test_a_function_that_cannot_be_loaded_is_refused(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    problems(folder / "problems", "import nothing_of_this_name")
    (folder / "base").symlink_to(data / "base")
    with pytest.raises(BadReward, match="`reward` cannot be loaded: ModuleNotFoundError"):
        trained(folder, tmp_path / "run")
