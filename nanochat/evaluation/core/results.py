"""`evaluation.json` of CORE: the accuracy of each task, and CORE by both versions of the baselines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nanochat.config.evaluation import CoreConfig
from nanochat.evaluation.core.bundle import Bundle
from nanochat.evaluation.core.definition import BASELINES, TASKS, version_of
from nanochat.evaluation.finished import Finished
from nanochat.evaluation.tables import overall, tables


def evaluation(config: CoreConfig, bundle: Bundle, finished: Mapping[str, Finished]) -> dict[str, Any]:
    """The content of `evaluation.json`. `core` is by the baselines of the bundle, as nanochat prints it.

    CORE is None if tasks are missing: those that the bundle lacks, and those that were not to be evaluated. Tasks that
    are no part of CORE have their line, and do not count.
    """
    every = [example for task in finished.values() for example in task.examples]
    found = tables(every, "core")
    missing = [name for name in TASKS if name not in finished]
    of_core = [example for example in every if example.task in TASKS]
    versions = {version: None if missing else overall(of_core, known) for version, known in BASELINES.items()}
    own = None if missing else overall(of_core)
    tasks = {task.name: task for task in bundle.tasks}
    for name, line in found["tasks"].items():
        line["shots"] = tasks[name].shots
        line |= finished[name].facts
        line["centered_by_version"] = {
            version: (line["accuracy"] - known[name]) / (1 - known[name])
            for version, known in BASELINES.items()
            if name in known
        }
    return {
        "core": own and own.value,
        "core_interval": own and [own.interval.low, own.interval.high],
        "baselines": version_of({task.name: task.baseline for task in bundle.tasks}),
        "core_by_version": {version: core and core.value for version, core in versions.items()},
        "missing_tasks": missing,
        "missing_in_bundle": list(bundle.missing),
        "confidence": found["confidence"],
        "limit": config.limit,
        "overlong": config.overlong,
        "choices_by": "mean nats per token",
        "tasks": found["tasks"],
    }


def metrics(found: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of `evaluation.json` for curves and tables: CORE if there is one, and the accuracy of each task."""
    core = {} if found["core"] is None else {"core": found["core"]}
    questions = sum(task["questions"] for task in found["tasks"].values())
    accuracies = {f"{name}_accuracy": task["accuracy"] for name, task in found["tasks"].items()}
    return {**core, "questions": questions, **accuracies}
