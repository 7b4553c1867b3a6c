"""Evaluates a chat model on questions, on all ranks. Finished tasks survive the end of the process."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nanochat.config.chat import ChatEvaluationConfig
from nanochat.errors import BadSource
from nanochat.evaluation.chat_scores import forms_of, scores
from nanochat.evaluation.chat_tasks import answer_task, question_id
from nanochat.evaluation.examples import Example, Time, by_task, write_examples
from nanochat.evaluation.finished import Finished, FinishedTasks
from nanochat.evaluation.language_model import LanguageModel, Report
from nanochat.tasks.conversation import Question
from nanochat.tasks.registry import facts_of_judging
from nanochat.workers.ranks import World, from_all_ranks

SHOWN_PER_TASK = 8
"""Answers of each task that `evaluation.json` shows."""

Progress = Callable[[int, int, str], None]
"""Receives the number of answered questions, of all questions, and the task."""


def read_questions(path: Path, limit: int = 0) -> dict[str, list[Question]]:
    """The questions of each task, at most `limit` (0: all). Raises `BadSource` if there is none, or one twice."""
    tasks: dict[str, list[Question]] = {}
    with path.open(encoding="utf-8") as file:
        for line in file:
            question: Question = json.loads(line)
            tasks.setdefault(question["task"], []).append(question)
    if not tasks:
        raise BadSource("There are no questions.", hint="Add a task with questions to `conversations.questions`.")
    for name, questions in tasks.items():
        ids = Counter(question_id(*numbered) for numbered in enumerate(questions))
        (most_common, times), *_ = ids.most_common(1)
        if times > 1:
            raise BadSource(f"Two questions of `{name}` have the id `{most_common}`.", hint="Name each dataset once.")
    return {name: questions[: limit or None] for name, questions in tasks.items()}


def evaluate(
    model: LanguageModel, tasks: Mapping[str, Sequence[Question]], config: ChatEvaluationConfig, out: Path,
    world: World, *, finished: FinishedTasks, progress: Progress,
) -> dict[str, Any]:  # fmt: skip
    """Answers the questions of all tasks; the first rank writes `evaluation.json` and the examples to `out`.

    Returns the metrics, on the first rank. Collective: `finished` keeps the tasks, and each rank reports its
    `progress`. Raises `BadConfig` for settings that do not fit the model.
    """
    kept = from_all_ranks(finished.load() if world.is_first else {})[0]
    found = {name: kept[name] for name in tasks if name in kept}
    total = sum(map(len, tasks.values()))
    done = sum(len(tasks[name]) for name in found)
    for number, (name, questions) in enumerate(tasks.items(), 1):
        label = f"{name}, task {number} of {len(tasks)}"

        def report(answered: int, before: int = done, label: str = label, most: int = len(questions)) -> None:
            progress(before + min(answered * world.world_size, most), total, label)

        if name not in found:
            report(0)
            found[name] = _finish(model, name, questions, config, world, report)
            if world.is_first:
                finished.save(found[name])
            report(len(questions))
            done += len(questions)
    return _write(out, [found[name] for name in tasks], forms_of(tasks), config) if world.is_first else {}


def _finish(
    model: LanguageModel, name: str, questions: Sequence[Question], config: ChatEvaluationConfig, world: World,
    report: Report,
) -> Finished:  # fmt: skip
    """Answers the questions of one task: each rank those with every n-th number."""
    numbered = list(enumerate(questions))[world.rank :: world.world_size]
    mine = answer_task(model, numbered, config, report)
    answered = sorted((each for part in from_all_ranks(mine) for each in part), key=lambda each: each.number)
    times = [Time(name, each.examples[0].question, each.seconds) for each in answered]
    facts: dict[str, str] = {}
    for some in from_all_ranks(facts_of_judging(name) if mine else {}):
        facts |= some
    return Finished(name, [example for each in answered for example in each.examples], times, facts)


def _write(
    out: Path, tasks: Sequence[Finished], forms: Mapping[str, str], config: ChatEvaluationConfig
) -> dict[str, Any]:
    examples = [example for task in tasks for example in task.examples]
    write_examples(out, examples, [time for task in tasks for time in task.times])
    found = scores(examples, forms, config)
    for task in tasks:
        found["tasks"][task.task] |= task.facts
    shown = [_shown(example) for some in by_task(examples).values() for example in some[:SHOWN_PER_TASK]]
    text = json.dumps(found | {"examples": shown}, indent=1, ensure_ascii=False)
    (out / "evaluation.json").write_text(text, encoding="utf-8")
    totals = {name: found[name] for name in ("chatcore", "centered_accuracy") if name in found}
    return totals | {f"{name}_accuracy": task["accuracy"] for name, task in found["tasks"].items()}


def _shown(example: Example) -> dict[str, Any]:
    return {
        "task": example.task,
        "prompt": example.prompt,
        "answer": example.answer,
        "expected": example.gold,
        "right": example.right,
    }
