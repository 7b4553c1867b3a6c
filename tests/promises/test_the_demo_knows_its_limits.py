"""A model trained on a part of the demo greets, and does not invent what it cannot know.

`make demo` takes minutes on two idle cores, too long for every test run. This is a fifth of its training, on the
`everyday` conversations alone: enough for the form of the answers, not for sums, spelling or the facts of the island.
`benchmarks/demo_answers.py` judges the whole demo in the same way.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from benchmarks.demo_answers import Answered, answer_all
from nanochat.store.store import Store

pytestmark = pytest.mark.slow
SMALLER = (
    "data.world.shards=1", "data.world.documents_per_shard=4000", "data.validation_documents=50",
    "pretrain.horizon.amount=300000", "pretrain.evaluate_every_steps=0", "pretrain.evaluation_tokens=4096",
    "base_evaluation.evaluation_tokens=4096", "base_evaluation.sample_tokens=8", "base_evaluation.free_samples=0",
    'conversations.train=[{"task":"everyday","limit":5000}]', 'conversations.questions=[{"task":"everyday"}]',
    "sft.evaluate_every_steps=0", "chat_evaluation.limit=20",
)  # fmt: skip


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> list[Answered]:
    home = tmp_path_factory.mktemp("home")
    sets = [word for change in SMALLER for word in ("--set", change)]
    done = subprocess.run(
        [sys.executable, "-m", "nanochat.cli", "run", "--plain", "--profile", "demo", *sets],
        capture_output=True, text=True, env={**os.environ, "NANOCHAT_HOME": str(home)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    store = Store(str(home / "store"), home / "cache", read_only=True)
    return list(answer_all(store.artifact(store.resolve("chat/latest"), reused=True).path))


def share_right(answers: list[Answered], *kinds: str) -> float:
    right = [each.right for each in answers if each.expected in kinds]
    return sum(right) / len(right)


def test_it_greets(answers: list[Answered]) -> None:
    assert share_right(answers, "small_talk") > 0.7, answers


def test_it_does_not_invent_what_it_cannot_know(answers: list[Answered]) -> None:
    assert share_right(answers, "unknown") > 0.7, answers


def test_it_ends_its_answers(answers: list[Answered]) -> None:
    assert not [each for each in answers if each.found == "loop" and each.expected != "story"]
