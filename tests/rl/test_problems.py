"""Problems: collected with their rewards, in an order that is a pure function, and refused if they cannot be used."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from nanochat.config.rl import ProblemsConfig, RewardConfig, RLTask
from nanochat.errors import BadConfig, BadSource
from nanochat.events import silent
from nanochat.rl.problems import FUNCTIONS, Problem, ProblemOrder, collect, read_problems, with_hashes
from nanochat.rl.rewards import GivenAnswer, Rewards
from nanochat.tasks.registry import load_rl_task


@pytest.mark.parametrize("task", ["sums", "everyday", "world", "spelling", "spelling_bee"])
def test_no_problem_is_held_out(task: str) -> None:
    found = load_rl_task(RLTask(task=task, limit=300), seed=1)  # pyright: ignore[reportArgumentType]
    texts = {question["messages"][0]["content"] for question in found.problems()}
    assert len(texts) > 50
    assert not texts & {question["messages"][0]["content"] for question in found.questions()}
    assert [*found.problems()] == [*found.problems()]


@pytest.mark.parametrize("task", ["identity", "smoltalk"])
def test_a_task_without_held_out_problems_is_refused_in_one_sentence(task: str, tmp_path: Path) -> None:
    item = RLTask(task=task)  # pyright: ignore[reportArgumentType]
    with pytest.raises(BadConfig, match=f"`{task}` in `problems.tasks` has no held-out problems"):
        collect(ProblemsConfig(tasks=(item,)), tmp_path, silent)


def test_a_file_of_one_problem_has_none_to_train_on(tmp_path: Path) -> None:
    """It is held out."""
    (tmp_path / "own.jsonl").write_text('{"question": "1?", "answer": 1}\n')
    task = RLTask(task="problems", source=str(tmp_path / "own.jsonl"))
    with pytest.raises(BadConfig, match="has no problems to train on"):
        collect(ProblemsConfig(tasks=(task,)), tmp_path, silent)


def test_own_problems_and_a_function_are_copied_and_hashed(tmp_path: Path) -> None:
    (tmp_path / "own.jsonl").write_text(
        "".join(json.dumps({"question": f"{n}?", "answer": n}) + "\n" for n in range(20))
    )
    (tmp_path / "own.py").write_text("def f(problem, answer):\n    return len(answer)")
    reward = RewardConfig(kind="function", function=f"{tmp_path / 'own.py'}:f", weight=0.5)
    task = RLTask(task="problems", source=str(tmp_path / "own.jsonl"), rewards=(RewardConfig(), reward))
    config = with_hashes(ProblemsConfig(tasks=(task,)))
    assert config.tasks[0].sha256 and config.tasks[0].rewards[1].sha256
    (tmp_path / "out").mkdir()
    metrics = collect(config, tmp_path / "out", silent)
    assert (metrics["problems"], metrics["held_out_problems"]) == (18, 2)
    (tmp_path / "own.py").write_text("def f(problem, answer):\n    return 0")
    assert with_hashes(ProblemsConfig(tasks=(task,))) != config  # another key
    with pytest.raises(BadSource, match="does not match the reward's `sha256`"):
        collect(config, tmp_path / "out", silent)
    read = read_problems(tmp_path / "out")
    rewards = Rewards(read.tasks, tmp_path / "out" / FUNCTIONS, 16, 5.0)
    problem = read.train[0]
    right = GivenAnswer(problem, f"It is {problem.question['answer']}.", 3)
    assert rewards.of([right])[0].value == 1 + 0.5 * len(right.text)


def test_parts_of_a_reward() -> None:
    parts = (
        RewardConfig(), RewardConfig(kind="format", pattern=r"^#### \d+$", weight=0.2),
        RewardConfig(kind="length", tokens=4, weight=0.1),
    )  # fmt: skip
    rewards = Rewards([RLTask(rewards=parts)], Path(), max_tokens=8, timeout_s=5.0)
    question = {"task": "sums", "messages": [{"role": "user", "content": "3+4"}], "answer": "7"}
    given = [GivenAnswer(Problem(0, question), text, tokens) for text, tokens in (("#### 7", 4), ("7", 6), ("8", 20))]
    found = rewards.of(given)
    assert [each.parts for each in found] == [(1, 1, 0), (1, 0, -0.5), (0, 0, -1)]
    assert [each.value for each in found] == pytest.approx([1.2, 0.95, -0.1])


def test_a_program_is_rewarded_if_it_passes_its_tests(tmp_path: Path) -> None:
    """In the sandbox: neither a wrong program nor one that ends the process passes (cases 20 and 22)."""
    row = {"question": "Write `double(x)`.", "entry_point": "double", "tests": "assert double(2) == 4"}
    (tmp_path / "own.jsonl").write_text(2 * (json.dumps(row) + "\n"))
    task = RLTask(task="problems", source=str(tmp_path / "own.jsonl"))
    (question,) = load_rl_task(task, 1).problems()
    rewards = Rewards([task], Path(), 64, 5.0)
    programs = ("def double(x):\n    return 2 * x", "def double(x):\n    return x", "import os\nos._exit(0)", "no")
    found = rewards.of([GivenAnswer(Problem(0, question), text, 9) for text in programs])
    assert [each.value for each in found] == [1, 0, 0, 0]


def test_the_order_takes_all_problems_of_a_round_and_weights_hold() -> None:
    order = ProblemOrder([0] * 7, [1.0], seed=3)
    assert sorted(order.find(0, 7)) == sorted(order.find(7, 7)) == list(range(7))
    assert order.find(0, 7) != order.find(7, 7)
    assert order.find(3, 9) == [*order.find(0, 7), *order.find(7, 7)][3:12]
    mixed = ProblemOrder([0] * 30 + [1] * 10, [1.0, 3.0], seed=3)
    drawn = mixed.find(0, 4 * mixed.round_size)
    counts = Counter(problem >= 30 for problem in drawn)
    assert counts[True] == 3 * counts[False]
    of_small = [problem for problem in drawn if problem >= 30]
    assert max(Counter(of_small).values()) - min(Counter(of_small).values()) <= 1
