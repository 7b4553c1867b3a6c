"""Rewards of answers: the judge of the task, format, length, and the user's own functions."""

import importlib.util
import math
import re
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from nanochat.config.rl import RewardConfig, RLTask
from nanochat.errors import BadReward
from nanochat.rl.problems import Problem
from nanochat.tasks.registry import judge_all

OwnFunction = Callable[[dict[str, Any], str], float]


@dataclass(frozen=True)
class GivenAnswer:
    """An answer to a problem, as the user sees it: without python blocks and their outputs."""

    problem: Problem
    text: str
    tokens: int


@dataclass(frozen=True)
class Reward:
    """The reward of one answer."""

    value: float
    """The weighted sum; NaN if a part failed."""
    parts: tuple[float, ...]
    """The parts before their weights, in the order of the task's `rewards`."""
    right: bool
    """Whether the task's own judge accepts the answer."""
    failure: str = ""
    """What failed: the answer has no reward."""


class _TooSlow(BaseException):
    """Not an `Exception`, so that a function that catches these ends too."""


class Rewards:
    """The rewards of a mixture of tasks."""

    def __init__(self, tasks: Sequence[RLTask], functions: Path, max_tokens: int, timeout_s: float) -> None:
        """`functions` is the folder of the files with the user's own functions.

        Raises `BadReward` if one cannot be loaded.
        """
        self._max_tokens, self._timeout_s = max_tokens, timeout_s
        self._tasks = tasks
        self._own = {
            reward.function: load_function(functions / reward.function.rpartition(":")[0], reward.function, timeout_s)
            for task in tasks
            for reward in task.rewards
            if reward.kind == "function"
        }

    def of(self, answers: Sequence[GivenAnswer]) -> list[Reward]:
        """The reward of each answer. Raises `SandboxFailed` if the sandbox does not work: that is no reward."""
        right = self._judged(answers)
        return [self._reward(answer, each) for answer, each in zip(answers, right, strict=True)]

    def _judged(self, answers: Sequence[GivenAnswer]) -> list[bool]:
        """By the judge of each question's task; programs run several at a time."""
        places: dict[str, list[int]] = {}
        for place, answer in enumerate(answers):
            places.setdefault(answer.problem.question["task"], []).append(place)
        right = [False] * len(answers)
        for some in places.values():
            verdicts = judge_all([(answers[place].problem.question, answers[place].text) for place in some])
            for place, verdict in zip(some, verdicts, strict=True):
                right[place] = verdict.right
        return right

    def _reward(self, answer: GivenAnswer, right: bool) -> Reward:
        parts: list[float] = []
        total = 0.0
        for reward in self._tasks[answer.problem.task].rewards:
            try:
                value = self._part(reward, answer, right)
            except (Exception, _TooSlow) as error:  # noqa: BLE001 - the user's own code
                return Reward(math.nan, (), right, _failure(reward, error, self._timeout_s))
            if not math.isfinite(value):
                return Reward(math.nan, (), right, f"{_name(reward)} returned {value}")
            parts.append(value)
            total += reward.weight * value
        return Reward(total, tuple(parts), right)

    def _part(self, reward: RewardConfig, answer: GivenAnswer, right: bool) -> float:
        match reward.kind:
            case "answer":
                return float(right)
            case "format":
                with time_limit(self._timeout_s):
                    return float(re.search(reward.pattern, answer.text) is not None)
            case "length":
                over = max(0, answer.tokens - reward.tokens) / max(1, self._max_tokens - reward.tokens)
                return -min(1.0, over)
            case "function":
                with time_limit(self._timeout_s):
                    value = self._own[reward.function](dict(answer.problem.question), answer.text)
                if not isinstance(value, int | float):
                    raise TypeError(f"it returned a {type(value).__name__}, not a number")
                return float(value)


def refuse_failures(rewards: Sequence[Reward], answers: Sequence[GivenAnswer]) -> None:
    """Raises `BadReward` for the first answer whose reward failed, naming its problem."""
    for reward, answer in zip(rewards, answers, strict=True):
        if reward.failure:
            question = answer.problem.question["messages"][-1]["content"]
            raise BadReward(
                f"A reward failed: {reward.failure}; for the problem `{' '.join(question.split())[:80]}`.",
                hint="Correct the function, or leave such answers out with `rl.bad_reward=leave_out`.",
            )


def load_function(path: Path, function: str, timeout_s: float) -> OwnFunction:
    """The user's own function of a Python file. Raises `BadReward` if it cannot be loaded."""
    name = function.rpartition(":")[2]
    spec = importlib.util.spec_from_file_location(f"nanochat_reward_{path.stem}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    try:
        with time_limit(timeout_s):
            spec.loader.exec_module(module)
            found = getattr(module, name)
    except (Exception, _TooSlow) as error:
        raise BadReward(
            f"The reward function `{name}` cannot be loaded: {_sentence(error, timeout_s)}.",
            hint="Its file must be complete in itself, and define the function.",
        ) from error
    return found


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Ends the block with an exception after so many seconds, in the main thread of a process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise _TooSlow

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _failure(reward: RewardConfig, error: BaseException, timeout_s: float) -> str:
    return f"{_name(reward)} failed: {_sentence(error, timeout_s)}"


def _name(reward: RewardConfig) -> str:
    if reward.kind == "function":
        return f"the function `{reward.function.rpartition(':')[2]}`"
    return f"the reward for the {reward.kind}"


def _sentence(error: BaseException, timeout_s: float) -> str:
    if isinstance(error, _TooSlow):
        return f"it took longer than {timeout_s:g} s"
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}".rstrip(": .")
