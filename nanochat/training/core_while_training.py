"""CORE of the model that is being trained: the evaluation of `evaluate_core`, between two steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from nanochat.config.evaluation import CoreConfig
from nanochat.evaluation.core.evaluate import evaluate
from nanochat.evaluation.core.results import metrics
from nanochat.evaluation.finished import FinishedTasks
from nanochat.evaluation.own_model import OwnModel
from nanochat.model.gpt import GPT
from nanochat.tokenizer.bpe import Tokenizer
from nanochat.training.loop import CORE_QUESTIONS
from nanochat.workers.ranks import World, stop_requested


class _Stopped(Exception):
    """A rank received a TERM: the checkpoint comes first."""


def core_metrics(
    model: GPT, tokenizer: Tokenizer, bundle: Path, limit: int, world: World, say: Callable[[str], None]
) -> dict[str, float] | None:
    """`core` and the accuracy of each task, on the first rank; None if a stop was requested before the last task.

    Collective. Neither the model nor the generators of random numbers change. `say` receives the task.
    """
    task = ""

    def progress(done: int, total: int, now: str) -> None:
        nonlocal task
        if now == task:
            return
        task = now
        if stop_requested():  # collective: every rank begins every task
            raise _Stopped
        say(f"CORE: {now}, {done:,} of {total:,} questions done")

    own = OwnModel.of_training(model, tokenizer, threads=torch.get_num_threads())
    with TemporaryDirectory(prefix="nanochat-") as out:
        try:
            found = evaluate(
                own, bundle, CoreConfig(limit=limit), Path(out), world, finished=FinishedTasks(""), progress=progress
            )
        except _Stopped:
            return None
    if not world.is_first:
        return {}
    numbers = metrics(found)
    return {CORE_QUESTIONS: numbers.pop("questions"), **numbers}
