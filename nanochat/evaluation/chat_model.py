"""The worker that evaluates a chat model: `python -m nanochat.evaluation.chat_model job.json`."""

from pathlib import Path
from typing import Any

import torch

from nanochat.config.chat import ChatEvaluationConfig
from nanochat.evaluation.any_model import load_any
from nanochat.evaluation.chat import evaluate, read_questions
from nanochat.evaluation.finished import FinishedTasks
from nanochat.evaluation.progress import EvaluationProgress
from nanochat.workers.job import Job
from nanochat.workers.ranks import World, main


def evaluate_chat(job: Job, world: World) -> dict[str, Any]:
    """Answers the held-out questions of every task on all ranks; returns the stage's metrics."""
    config = ChatEvaluationConfig.model_validate(job.config)
    questions = read_questions(job.input("conversations") / "questions.jsonl", config.limit)
    progress = EvaluationProgress(job, world)
    model = load_any(job.input("model"), world.device, threads=torch.get_num_threads(), say=progress.say)
    finished = FinishedTasks(job.checkpoints)
    return evaluate(model, questions, config, Path(job.out), world, finished=finished, progress=progress)


if __name__ == "__main__":
    main(evaluate_chat)
