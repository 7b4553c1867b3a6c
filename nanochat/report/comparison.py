"""The page that compares evaluations: accuracies side by side, and each model against the first one, in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nanochat.evaluation.comparison import Answers, Comparison, Difference, compare
from nanochat.evaluation.statistics import Estimate, Interval
from nanochat.evaluation.tables import TaskRow, overall, task_rows
from nanochat.report.templates import render_template


@dataclass(frozen=True)
class Section:
    """The models that one stage has evaluated; the others are compared with the first one."""

    stage: str
    rows: dict[str, dict[str, TaskRow]]
    """Model → task → its row."""
    scores: dict[str, Estimate]
    """Model → mean centered accuracy over the tasks that all of these models have."""
    common: list[str]
    """These tasks."""
    comparisons: list[Comparison]


@dataclass(frozen=True)
class Other:
    """A score without answers to questions: bits per byte, or one of an evaluation that did not keep its answers."""

    stage: str
    model: str
    scores: Mapping[str, float]


def sections(answers: Sequence[Answers], confidence: float) -> list[Section]:
    """One section for each stage, those with comparisons first. Raises `NotComparable`, naming what differs."""
    by_stage: dict[str, list[Answers]] = {}
    for each in answers:
        by_stage.setdefault(str(each.rules["stage"]), []).append(each)
    found = [_compared(stage, models, confidence) for stage, models in by_stage.items()]
    return sorted(found, key=lambda section: not section.comparisons)


def _compared(stage: str, models: Sequence[Answers], confidence: float) -> Section:
    rows = {each.name: task_rows(each.examples, confidence=confidence) for each in models}
    common = [task for task in rows[models[0].name] if all(task in of_model for of_model in rows.values())]
    scores = {
        each.name: overall([e for e in each.examples if e.task in common], confidence=confidence)
        for each in models
        if common
    }
    return Section(stage, rows, scores, common, [compare(models[0], each, confidence) for each in models[1:]])


def render_comparison(
    title: str, found: Sequence[Section], others: Sequence[Other], confidence: float, text: str = ""
) -> tuple[str, str]:
    """The page, as Markdown and as HTML; `text` is a paragraph before the verdicts."""
    values: dict[str, Any] = {
        "title": title,
        "text": text,
        "confidence": f"{confidence:.0%}",
        "verdicts": [sentence(comparison) for section in found for comparison in section.comparisons],
        "sections": [_section(section) for section in found],
        "others": [
            [
                each.model,
                each.stage,
                ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in each.scores.items()),
            ]
            for each in others
        ],
    }
    return render_template("comparison", values)


def sentence(comparison: Comparison) -> str:
    """The verdict over all tasks, and the tasks with one of their own."""
    found, difference = comparison.overall, comparison.overall.difference
    words = {
        "better": f"{comparison.second} is better than {comparison.first}",
        "worse": f"{comparison.second} is worse than {comparison.first}",
        "cannot tell": f"{comparison.second} and {comparison.first}: cannot tell",
    }[found.verdict]
    numbers = f"{difference:+.4f} mean centered accuracy, {_signed(found.interval)}"
    if found.verdict == "cannot tell":
        numbers += f"; a difference of {found.detectable:.4f} would have been seen"
    tasks = [
        f"{verdict} on {', '.join(names)}"
        for verdict in ("better", "worse")
        if (names := [name for name, each in comparison.tasks.items() if each.verdict == verdict])
    ]
    return f"{words} ({numbers})." + (f" It is {' and '.join(tasks)}." if tasks else "")


def _section(section: Section) -> dict[str, Any]:
    models = list(section.rows)
    tasks = list(dict.fromkeys(task for rows in section.rows.values() for task in rows))
    return {
        "stage": section.stage,
        "models": models,
        "rows": [
            {
                "task": task,
                "cells": [_accuracy(section.rows[model].get(task)) for model in models],
                "chance": _chance(section, task),
            }
            for task in tasks
        ],
        "mean": "mean centered accuracy" + f" of {', '.join(section.common)}" * (len(section.common) < len(tasks)),
        "scores": [_score(section.scores[model]) for model in models if section.scores],
        "comparisons": [
            {
                "first": each.first,
                "second": each.second,
                "left_out": ", ".join(f"{task} {count:,}" for task, count in each.left_out.items()),
                "rows": [
                    *(_difference(name.replace("_", " "), found, 100) for name, found in each.tasks.items()),
                    _difference("mean centered accuracy", each.overall, 1),
                ],
            }
            for each in section.comparisons
        ],
    }


def _chance(section: Section, task: str) -> str:
    return next(f"{100 * rows[task].baseline:.0f}%" for rows in section.rows.values() if task in rows)


def _accuracy(row: TaskRow | None) -> str:
    if row is None:
        return ""
    return f"{100 * row.accuracy:.1f}% ({100 * row.interval.low:.1f} to {100 * row.interval.high:.1f})"


def _score(found: Estimate) -> str:
    return f"{found.value:.4f} ({found.interval.low:.4f} to {found.interval.high:.4f})"


def _difference(name: str, found: Difference, scale: int) -> dict[str, str]:
    """A row; the tasks are in points (`scale` 100), the score is not."""
    digits = 1 if scale == 100 else 4

    def number(value: float) -> str:
        return f"{scale * value:+.{digits}f}"

    def share(value: float) -> str:
        return f"{scale * value:.{digits}f}" + "%" * (scale == 100)

    return {
        "task": name,
        "questions": f"{found.questions:,}",
        "first": share(found.first),
        "second": share(found.second),
        "difference": f"{number(found.difference)} ({number(found.interval.low)} to {number(found.interval.high)})",
        "p": f"{found.adjusted:.3g}" if found.adjusted >= 0.001 else "< 0.001",
        "detectable": f"{scale * found.detectable:.{digits}f}",
        "verdict": found.verdict,
    }


def _signed(interval: Interval) -> str:
    return f"{interval.low:+.4f} to {interval.high:+.4f}"
