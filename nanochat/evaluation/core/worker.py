"""The worker that evaluates a model on CORE: `python -m nanochat.evaluation.core.worker job.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from nanochat.config.evaluation import CoreConfig
from nanochat.evaluation.any_model import load_any
from nanochat.evaluation.core.evaluate import evaluate
from nanochat.evaluation.core.results import metrics
from nanochat.evaluation.finished import FinishedTasks
from nanochat.evaluation.progress import EvaluationProgress
from nanochat.workers.job import Job
from nanochat.workers.ranks import World, main


def evaluate_core(job: Job, world: World) -> dict[str, Any]:
    """Answers the questions of all tasks on all ranks; returns the stage's metrics."""
    config = CoreConfig.model_validate(job.config)
    progress, threads = EvaluationProgress(job, world), torch.get_num_threads()
    crop = config.overlong == "crop"
    model = load_any(job.input("model"), world.device, crop=crop, threads=threads, say=progress.say)
    progress.say("reading the questions")
    finished = FinishedTasks(job.checkpoints)
    found = evaluate(model, job.input("bundle"), config, Path(job.out), world, finished=finished, progress=progress)
    if not world.is_first:
        return {}
    (Path(job.out) / "evaluation.json").write_text(json.dumps(found, indent=1, ensure_ascii=False), encoding="utf-8")
    return metrics(found)


if __name__ == "__main__":
    main(evaluate_core)
