"""Evaluates a model on the tasks of a bundle, on all ranks. Finished tasks survive the end of the process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nanochat.config.evaluation import CoreConfig
from nanochat.errors import BadConfig
from nanochat.evaluation.core.bundle import Bundle, Row, Task, read_bundle
from nanochat.evaluation.core.prompts import in_order
from nanochat.evaluation.core.questions import QUESTIONS_AT_ONCE, Answered, answer
from nanochat.evaluation.core.results import evaluation
from nanochat.evaluation.examples import Time, write_examples
from nanochat.evaluation.finished import Finished, FinishedTasks
from nanochat.evaluation.language_model import LanguageModel
from nanochat.workers.ranks import World, from_all_ranks

Progress = Callable[[int, int, str], None]
"""Receives the number of answered questions, of all questions, and the task."""


def evaluate(
    model: LanguageModel, bundle_folder: Path, config: CoreConfig, out: Path, world: World, *,
    finished: FinishedTasks, progress: Progress, at_once: int = QUESTIONS_AT_ONCE,
) -> dict[str, Any]:  # fmt: skip
    """Answers the questions of all tasks; the first rank writes the examples to `out`.

    Returns the content of `evaluation.json` there. Collective: `finished` keeps the tasks, and each rank reports its
    `progress`. Raises `BadSource` or `BadConfig`, naming the task, before anything is computed if that can be known.
    """
    bundle = read_bundle(bundle_folder)
    tasks = {task.name: (task, in_order(task, config.limit)) for task in _chosen(bundle, config)}
    kept = from_all_ranks(finished.load() if world.is_first else {})[0]
    found = {name: kept[name] for name in tasks if name in kept}
    total = sum(len(rows) for _, rows in tasks.values())
    done = sum(len(tasks[name][1]) for name in found)
    for number, (name, (task, rows)) in enumerate(tasks.items(), 1):
        label = f"{name}, task {number} of {len(tasks)}"

        def report(answered: int, before: int = done, label: str = label, most: int = len(rows)) -> None:
            progress(before + min(answered * world.world_size, most), total, label)

        if name not in found:
            report(0)
            found[name] = _finish(model, task, rows, config, world, report, at_once)
            if world.is_first:
                finished.save(found[name])
            report(len(rows))
            done += len(rows)
    found = {name: found[name] for name in tasks}
    if not world.is_first:
        return {}
    examples = [example for task in found.values() for example in task.examples]
    write_examples(out, examples, [time for task in found.values() for time in task.times])
    return evaluation(config, bundle, found)


def _chosen(bundle: Bundle, config: CoreConfig) -> list[Task]:
    known = [task.name for task in bundle.tasks]
    for name in config.tasks:
        if name not in known:
            raise BadConfig(
                f"The bundle has no task `{name}`.", hint=f"It has {', '.join(f'`{each}`' for each in known)}."
            )
    return [task for task in bundle.tasks if not config.tasks or task.name in config.tasks]


def _finish(
    model: LanguageModel, task: Task, rows: Sequence[Row], config: CoreConfig, world: World,
    report: Callable[[int], None], at_once: int,
) -> Finished:  # fmt: skip
    """Answers the questions of one task: each rank those with every n-th index."""
    indexes = range(world.rank, len(rows), world.world_size)
    mine = answer(model, task, rows, indexes, crop=config.overlong == "crop", report=report, at_once=at_once)
    all_answered: list[Answered] = sorted(
        (each for part in from_all_ranks(mine) for each in part), key=lambda each: each.index
    )
    facts = {
        "longest_tokens": max(each.tokens for each in all_answered),
        "cropped": sum(each.cropped for each in all_answered),
        "moved_spans": sum(each.moved for each in all_answered),
    }
    times = [Time(task.name, each.example.question, each.seconds) for each in all_answered]
    return Finished(task.name, [each.example for each in all_answered], times, facts)
