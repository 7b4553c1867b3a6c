"""Reinforcement learning that takes seconds: a random network of bytes, and a reward that it can raise.

python -m tests.rl.tiny FOLDER RUN RANKS STEPS          trains; for tests that kill it
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nanochat.config.rl import ProblemsConfig, RewardConfig, RLConfig, RLLoss, RLSampling, RLTask
from nanochat.config.training import OptimizerConfig
from nanochat.events import silent
from nanochat.execution.stage import Context
from nanochat.inference.engine import Engine, EngineSettings
from nanochat.model.files import save_model
from nanochat.model.gpt import GPT
from nanochat.rl.objective import TokenStatistics, rl_loss
from nanochat.rl.pairs import RenderedPair, rendered
from nanochat.rl.problems import FUNCTIONS, ProblemOrder, collect, read_problems
from nanochat.rl.rewards import Rewards
from nanochat.rl.rollouts import Rollout
from nanochat.tasks.preference_pairs import Pair
from nanochat.tokenizer.chat import render_prompt
from nanochat.training.rl import rl
from nanochat.training.rollout_files import RolloutFiles
from nanochat.training.rollout_source import RolloutSource, Sampling, StepStatistics, trained_distribution
from nanochat.workers.job import Job
from nanochat.workers.launch import launch
from nanochat.workers.ranks import World
from tests.compute import compute
from tests.inference.models import TOKENIZER, built

ALONE = World(0, 1, torch.device("cpu"))
SMALL_LETTERS = """
def reward(problem, answer):
    return sum(letter.islower() for letter in answer) / max(len(answer), 1)
"""
"""The share of small letters: a random network of bytes can learn to write them."""


def problems(folder: Path, source: str = SMALL_LETTERS, count: int = 30, **item: Any) -> Path:
    """The payload of `collect_problems`: own problems, rewarded by a function with this source."""
    folder.mkdir(parents=True)
    (folder / "problems.jsonl").write_text(
        "".join(json.dumps({"question": f"Problem {n}", "answer": str(n)}) + "\n" for n in range(count))
    )
    (folder / "own.py").write_text(source)
    rewards = (RewardConfig(kind="function", function=f"{folder / 'own.py'}:reward"),)
    task = RLTask(**{"task": "problems", "source": str(folder / "problems.jsonl"), "rewards": rewards, **item})
    (folder / "out").mkdir()
    collect(ProblemsConfig(tasks=(task,)), folder / "out", silent)
    return folder / "out"


def rendered_pairs(count: int) -> list[RenderedPair]:
    """Pairs of unequal length: the longer answer is chosen."""
    pairs = [
        Pair([{"role": "user", "content": f"{n}?"}], "yes " * (n % 7 + 1), "no" * (n % 3 + 1)) for n in range(count)
    ]
    return rendered(TOKENIZER, pairs, 64)


def chat_model(folder: Path) -> Path:
    save_model(folder, built(sequence_len=64))
    TOKENIZER.save(folder / "vocabulary.json")
    return folder


def config(**fields: Any) -> RLConfig:
    loss = RLLoss(**fields.pop("loss", {}))
    sampling = RLSampling(**{"max_tokens": 8, **fields.pop("sampling", {})})
    small: dict[str, Any] = {
        "steps": 6, "prompts_per_step": 2, "group_size": 4, "evaluate_every_steps": 3, "evaluation_samples": 2,
        "precision": "fp32", "lr_fraction": 1.0, "optimizer": OptimizerConfig(),
    }  # fmt: skip
    return RLConfig(loss=loss, sampling=sampling, **{**small, **fields})


def job(data: Path, folder: Path, of: RLConfig, checkpoints: str = "", **how: Any) -> Job:
    """The job of a worker that is called in this process; `data` has `base` and `problems`."""
    (folder / "out").mkdir(parents=True)
    return Job(
        module="nanochat.training.rl",
        config=of.model_dump(mode="json"),
        inputs={"base": [str(data / "base")], "problems": [str(data / "problems" / "out")]},
        out=str(folder / "out"),
        folder=str(folder),
        checkpoints=checkpoints,
        compute=compute(**{"device": "cpu", **how}),
    )


def trained(data: Path, folder: Path, checkpoints: str = "", **fields: Any) -> dict[str, Any]:
    """Trains in this process; the payload is in `folder/out`."""
    return rl(job(data, folder, config(**fields), checkpoints), ALONE)


def launched(data: Path, folder: Path, checkpoints: str = "", steps: int = 6, **how: Any) -> dict[str, Any]:
    """Trains under torchrun."""
    (folder / "out").mkdir(parents=True)
    around = Context(compute(**{"device": "cpu", "ranks": 1, **how}), silent, checkpoints, folder)
    inputs: dict[str, Path | list[Path]] = {"base": data / "base", "problems": data / "problems" / "out"}
    return launch("nanochat.training.rl", config(steps=steps), inputs, folder / "out", around)


def source(
    folder: Path, of: RLConfig, model: GPT, *, world: World = ALONE, micro: int = 4, exact: bool = False,
    reference: GPT | None = None, engine: EngineSettings = EngineSettings(slots=8, context_tokens=64),
) -> RolloutSource:  # fmt: skip
    """What a model trains on."""
    read = read_problems(folder)
    ids = [tuple(render_prompt(TOKENIZER, problem.question["messages"])) for problem in read.train]
    rewards = Rewards(read.tasks, folder / FUNCTIONS, of.used_sampling.max_tokens, of.reward_timeout_s)
    sampling = Sampling(of, model, Engine(model, TOKENIZER, engine), read.train, ids, rewards, world)
    return RolloutSource(
        sampling, ProblemOrder([0] * len(read.train), [1.0], of.seed), reference, RolloutFiles("", folder.parent),
        StepStatistics(TokenStatistics()), micro, exact=exact, start=0, step=0,
    )  # fmt: skip


def gradients(model: GPT, batches: Sequence[Any], of: RLConfig, counted: int = 0) -> dict[str, torch.Tensor]:
    """The gradients of the batches of a step, as `optimizer_step` has them; `counted` tokens over all ranks."""
    model.zero_grad()
    counted = counted or sum(int((batch.targets_BT >= 0).sum()) for batch in batches)
    for batch in batches:
        (rl_loss(model, batch, of.used_loss, *trained_distribution(of), TokenStatistics()) / counted).backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def largest_difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Relative to the largest gradient."""
    assert one.keys() == other.keys()
    largest = max(float(gradient.abs().max()) for gradient in one.values())
    return max(float((one[name] - other[name]).abs().max()) for name in one) / largest


def judged(groups: list[list[Rollout]], rewards: Sequence[Sequence[float]]) -> list[list[Rollout]]:
    """The groups with these rewards."""
    from nanochat.rl.rewards import Reward

    return [
        [rollout.rewarded(Reward(value, (value,), value > 0)) for rollout, value in zip(group, some, strict=True)]
        for group, some in zip(groups, rewards, strict=True)
    ]


def weights(folder: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(folder / "out" / "model.safetensors")


def equal_weights(one: Path, other: Path) -> bool:
    left, right = weights(one), weights(other)
    return left.keys() == right.keys() and all((left[name] == right[name]).all() for name in left)


if __name__ == "__main__":
    data, folder, ranks, steps = sys.argv[1:]
    launched(
        Path(data), Path(folder), (Path(data) / "checkpoints" / f"of-{ranks}").as_uri(), int(steps),
        ranks=int(ranks), every_s=0.05,
    )  # fmt: skip
