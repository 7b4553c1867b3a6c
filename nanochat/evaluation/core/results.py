"""`evaluation.json` of CORE: the accuracy of each task, and CORE by both versions of the baselines."""

from __future__ import annotations

from typing import Any

from nanochat.config.evaluation import CoreConfig
from nanochat.evaluation.core.bundle import Bundle, Task
from nanochat.evaluation.core.definition import BASELINES, TASKS, centred, version_of
from nanochat.evaluation.finished import Finished


def task_result(task: Task, finished: Finished) -> dict[str, Any]:
    """The result of one task; a model that guesses has a centred accuracy of 0."""
    examples = finished.examples
    accuracy = sum(example.right for example in examples) / len(examples)
    baselines = {version: known[task.name] for version, known in BASELINES.items() if task.name in known}
    return {
        "kind": task.kind,
        "shots": task.shots,
        "questions": len(examples),
        "accuracy": accuracy,
        "baseline": task.baseline,
        "centred": centred(accuracy, task.baseline),
        "centred_by_version": {version: centred(accuracy, baseline) for version, baseline in baselines.items()},
        "gold_bits": sum(example.gold_bits or 0.0 for example in examples) / len(examples),
        **finished.facts,
    }


def evaluation(config: CoreConfig, bundle: Bundle, results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The content of `evaluation.json`. `core` is by the baselines of the bundle, as nanochat prints it.

    CORE is None if tasks are missing: those that the bundle lacks, and those that were not to be evaluated.
    """
    missing = [name for name in TASKS if name not in results]
    mine = {name: results[name] for name in TASKS if name in results}
    by_version = {
        version: None
        if missing
        else sum(result["centred_by_version"][version] for result in mine.values()) / len(TASKS)
        for version in BASELINES
    }
    return {
        "core": None if missing else sum(result["centred"] for result in mine.values()) / len(TASKS),
        "core_by_version": by_version,
        "baselines": version_of({task.name: task.baseline for task in bundle.tasks}),
        "missing_tasks": missing,
        "missing_in_bundle": list(bundle.missing),
        "limit": config.limit,
        "overlong": config.overlong,
        "choices_by": "mean nats per token",
        "tasks": results,
    }
