"""The problems of reinforcement learning, as the stage `collect_problems` stores them, and their order.

train.jsonl, held_out.jsonl     a line is a question with `rl_task`, the number of its task in the mixture
tasks.json                      tasks, weights and rewards
rewards/<SHA-256>.py            the files of the user's own functions
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from nanochat.config.base import canonical_json
from nanochat.config.rl import ProblemsConfig, RewardConfig, RLTask
from nanochat.data.file_hashes import hash_of_source
from nanochat.errors import BadConfig, BadSource
from nanochat.events import Reporter
from nanochat.sources.local_files import local_path
from nanochat.store.manifest import measure_file
from nanochat.tasks.conversation import Question
from nanochat.tasks.registry import load_rl_task

TRAIN, HELD_OUT, TASKS, FUNCTIONS = "train.jsonl", "held_out.jsonl", "tasks.json", "rewards"
WITH_PROBLEMS = "`sums`, `everyday`, `world`, `spelling`, `spelling_bee`, `gsm8k` or `problems`"


@dataclass(frozen=True)
class Problem:
    """A question, and the number of its task in the mixture."""

    task: int
    question: Question


@dataclass(frozen=True)
class Problems:
    """The payload of the stage `collect_problems`."""

    train: list[Problem]
    held_out: list[Problem]
    tasks: list[RLTask]
    """In `rewards`, the file of a function is the copy in the payload."""


# --- collecting -------------------------------------------------------------------------------------------------------


def with_hashes(config: ProblemsConfig) -> ProblemsConfig:
    """The config with the hashes of the user's own files: problems, and reward functions.

    Raises `BadSource` if a file cannot be read, or if its `sha256` is set and differs.
    """
    tasks = [
        task.model_copy(
            update={"sha256": hash_of_source(task), "rewards": tuple(_with_hash(reward) for reward in task.rewards)}
        )
        for task in config.tasks
    ]
    return config.model_copy(update={"tasks": tuple(tasks)})


def _with_hash(reward: RewardConfig) -> RewardConfig:
    if reward.kind != "function":
        return reward
    found = _hash_of_function(reward)
    if reward.sha256 not in ("", found):
        raise BadSource(
            f"`{reward.function}` does not match the reward's `sha256` ({reward.sha256[:12]}…, found {found[:12]}…).",
            hint="Restore the file, or remove `sha256` to use the current one.",
        )
    return reward.model_copy(update={"sha256": found})


def _hash_of_function(reward: RewardConfig) -> str:
    path = _file_of(reward)
    try:
        return measure_file(path)[1]
    except OSError as error:
        raise BadSource(
            f"The file of the reward `{reward.function}` cannot be read: {error.strerror or error}.",
            hint="Name it as `path/to/file.py:name`.",
        ) from error


def _file_of(reward: RewardConfig) -> Path:
    return local_path(reward.function.rpartition(":")[0])


def collect(config: ProblemsConfig, out: Path, progress: Reporter) -> dict[str, Any]:
    """Writes the problems, the tasks and the reward functions to `out`; returns the metrics of the stage.

    A problem with the messages of a held-out one is left out. Raises `BadConfig` for a task without problems, with or
    without held-out ones.
    """
    lines: dict[str, list[str]] = {TRAIN: [], HELD_OUT: []}
    metrics: dict[str, Any] = {"problems_by_task": {}, "held_out_by_task": {}, "also_held_out": 0}
    for number, item in enumerate(config.tasks):
        task = load_rl_task(item, config.seed)
        held_out = list(islice((q for q in task.questions() if q["kind"] == "generate"), item.held_out))
        if not held_out:
            raise BadConfig(
                f"`{item.task}` in `problems.tasks` has no held-out problems with a generated answer.",
                hint=f"Use {WITH_PROBLEMS}.",
            )
        known = {canonical_json(question["messages"]) for question in held_out}
        found = list(islice(task.problems(), item.limit or None))
        train = [question for question in found if canonical_json(question["messages"]) not in known]
        if not train:
            raise BadConfig(
                f"`{item.task}` in `problems.tasks` has no problems to train on.", hint=f"Use {WITH_PROBLEMS}."
            )
        name = f"{number} {item.task}"
        metrics["problems_by_task"][name], metrics["held_out_by_task"][name] = len(train), len(held_out)
        metrics["also_held_out"] += len(found) - len(train)
        for file, questions in ((TRAIN, train), (HELD_OUT, held_out)):
            lines[file] += [canonical_json({**question, "rl_task": number}) for question in questions]
        progress(number + 1, len(config.tasks), "tasks", item.task)
    for file, some in lines.items():
        (out / file).write_text("".join(f"{line}\n" for line in some), encoding="utf-8")
    tasks = [_with_copies(item, out / FUNCTIONS) for item in config.tasks]
    (out / TASKS).write_text(json.dumps([task.model_dump(mode="json") for task in tasks], indent=1), encoding="utf-8")
    return {"problems": len(lines[TRAIN]), "held_out_problems": len(lines[HELD_OUT]), **metrics}


def _with_copies(item: RLTask, folder: Path) -> RLTask:
    """Copies the files of reward functions; the rewards then name the copies."""
    rewards: list[RewardConfig] = []
    for each in item.rewards:
        if each.kind != "function":
            rewards.append(each)
            continue
        reward = _with_hash(each)
        folder.mkdir(exist_ok=True)
        (folder / f"{reward.sha256}.py").write_bytes(_file_of(reward).read_bytes())
        copied = f"{reward.sha256}.py:{reward.function.rpartition(':')[2]}"
        rewards.append(reward.model_copy(update={"function": copied}))
    return item.model_copy(update={"rewards": tuple(rewards)})


# --- reading ----------------------------------------------------------------------------------------------------------


def read_problems(folder: Path) -> Problems:
    """Reads what `collect` wrote."""
    tasks = [RLTask.model_validate(each) for each in json.loads((folder / TASKS).read_text(encoding="utf-8"))]
    return Problems(_read(folder / TRAIN), _read(folder / HELD_OUT), tasks)


def _read(path: Path) -> list[Problem]:
    questions = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [Problem(question.pop("rl_task"), question) for question in questions]


class ProblemOrder:
    """The endless order of problems: a pure function of the seed.

    A round has as many positions as there are problems, shared by the tasks according to their weights. Each task
    begins its next permutation only when it is through with the last one.
    """

    def __init__(self, tasks: Sequence[int], weights: Sequence[float], seed: int) -> None:
        """`tasks` is the task of each problem, `weights` is the weight of each task."""
        self._seed = seed
        of_problem = np.array(tasks)
        self._members = [np.flatnonzero(of_problem == task) for task in range(len(weights))]
        self.round_size = len(tasks)
        shares = self.round_size * np.array(weights) / sum(weights)
        self._counts = np.maximum(1, np.floor(shares)).astype(int)
        for task in np.argsort(np.floor(shares) - shares, kind="stable")[
            : max(0, self.round_size - self._counts.sum())
        ]:
            self._counts[task] += 1
        self.round_size = int(self._counts.sum())

    def find(self, start: int, count: int) -> list[int]:
        """The problems at the positions `start` to `start + count`."""
        rounds = range(start // self.round_size, (start + count - 1) // self.round_size + 1)
        found = np.concatenate([self._round(number) for number in rounds])
        first = start - rounds[0] * self.round_size
        return found[first : first + count].tolist()

    def _round(self, number: int) -> np.ndarray:
        chosen = []
        for task, (members, count) in enumerate(zip(self._members, self._counts, strict=True)):
            positions = np.arange(number * count, (number + 1) * count)
            for permutation in np.unique(positions // len(members)):
                order = np.random.default_rng([self._seed, task, permutation]).permutation(members)
                chosen.append(order[positions[positions // len(members) == permutation] % len(members)])
        return np.random.default_rng([self._seed, number]).permutation(np.concatenate(chosen))
