"""Evaluations of several models, task by task: accuracies side by side, each against the first one, in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from nanochat.errors import NotComparable
from nanochat.evaluation.comparison import Answers, Comparison, Difference, compare
from nanochat.evaluation.examples import Example
from nanochat.evaluation.statistics import Estimate, Interval
from nanochat.evaluation.tables import TaskRow, overall, task_rows
from nanochat.report.document import Block, Cell, Chapter, Figure, Fold, Heading, Sample, Samples, Table, Text
from nanochat.report.figures import Bar, Group, bars

SHOWN = 8
"""Questions that are won, and that are lost."""
METHOD = (
    "The models are compared on the same questions, one by one. A verdict on a task is by McNemar's exact test with "
    "Holm's correction for all tasks; the one on the mean, by the interval of a bootstrap. What could be seen is the "
    "smallest true difference that is found with a probability of 80%. Verdicts are about these models: training with "
    "another seed gives other ones."
)


@dataclass(frozen=True)
class Section:
    """The models that one stage has evaluated; the others are compared with the first one."""

    stage: str
    answers: Sequence[Answers]
    rows: dict[str, dict[str, TaskRow]]
    """Model → task → its row."""
    scores: dict[str, Estimate]
    """Model → mean centered accuracy over the tasks that all of these models have."""
    common: list[str]
    """These tasks."""
    comparisons: list[Comparison]
    refused: list[str] = field(default_factory=list[str])
    """Why models could not be compared with the first one: sentences."""


def sections(answers: Sequence[Answers], confidence: float) -> list[Section]:
    """One section for each stage, those with comparisons first."""
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
    found = Section(stage, models, rows, scores, common, [])
    for other in models[1:]:
        try:
            found.comparisons.append(compare(models[0], other, confidence))
        except NotComparable as error:
            found.refused.append(f"{stage.replace('_', ' ')}: {error.message} {error.hint}")
    return found


def sentence(comparison: Comparison) -> str:
    """The verdict over all tasks, and the tasks with one of their own."""
    found, difference = comparison.overall, comparison.overall.difference
    words = {
        "better": f"{comparison.second} is better than {comparison.first}",
        "worse": f"{comparison.second} is worse than {comparison.first}",
        "cannot tell": f"{comparison.second} and {comparison.first}: cannot tell",
    }[found.verdict]
    numbers = f"{difference:+z.4f} mean centered accuracy, {_signed(found.interval)}"
    if found.verdict == "cannot tell":
        numbers += f"; a difference of {found.detectable:.4f} would have been seen"
    tasks = [
        f"{verdict} on {', '.join(names)}"
        for verdict in ("better", "worse")
        if (names := [name for name, each in comparison.tasks.items() if each.verdict == verdict])
    ]
    return f"{words} ({numbers})." + (f" It is {' and '.join(tasks)}." if tasks else "")


def section_chapter(section: Section, confidence: float) -> Chapter:
    """Accuracies of all models, and each comparison with the first one."""
    models = list(section.rows)
    tasks = list(dict.fromkeys(task for rows in section.rows.values() for task in rows))
    rows = [
        [
            task.replace("_", " "),
            _chance(section, task),
            *(_accuracy(section.rows[model].get(task)) for model in models),
        ]
        for task in tasks
    ]
    if section.scores:
        mean = "mean centered accuracy" + f" of {', '.join(section.common)}" * (len(section.common) < len(tasks))
        rows.append([mean, "0", *(_score(section.scores[model]) for model in models)])
    heads = ["task", "chance", *models]
    blocks: list[Block] = [
        *_figure(section, tasks, confidence),
        Text(f"In brackets: {confidence:.0%} intervals.", "dim"),
        Table(heads, rows, heads[1:]),
    ]
    for comparison in section.comparisons:
        blocks += _comparison(comparison, section)
    if section.comparisons:
        blocks.append(Text(METHOD, "dim"))
    return Chapter(section.stage.replace("_", " ").capitalize(), blocks)


def _figure(section: Section, tasks: Sequence[str], confidence: float) -> list[Block]:
    models = list(section.rows)
    groups: list[Group] = []
    for task in tasks:
        drawn: list[Bar] = []
        for number, model in enumerate(models):
            if (row := section.rows[model].get(task)) is not None:
                drawn.append(Bar(row.accuracy, _accuracy(row), number, (row.interval.low, row.interval.high)))
        baseline = next(rows[task].baseline for rows in section.rows.values() if task in rows)
        groups.append(Group(task.replace("_", " "), drawn, baseline))
    caption = f"Questions answered right, with {confidence:.0%} intervals; the dashed line is the share of a guess."
    return [Figure(bars(groups, models, "a guess"), caption)] if groups else []


def _comparison(comparison: Comparison, section: Section) -> list[Block]:
    first, second = comparison.first, comparison.second
    heads = ["task", "questions", first, second, "difference", "p", "could be seen", "verdict"]
    rows = [
        *(_difference(name.replace("_", " "), found, 100) for name, found in comparison.tasks.items()),
        _difference("mean centered accuracy", comparison.overall, 1),
    ]
    blocks: list[Block] = [Heading(f"{second} against {first}"), Table(heads, rows, heads[1:-1])]
    if comparison.left_out:
        counts = ", ".join(f"{task} {count:,}" for task, count in comparison.left_out.items())
        blocks.append(Text(f"Questions that only one of them answered are left out: {counts}.", "dim"))
    answers = {each.name: each for each in section.answers}
    won, lost = won_and_lost(answers[first].examples, answers[second].examples)
    blocks.append(
        Text(
            f"Questions won and lost: {second} answers {len(won):,} right that {first} does not, and {first} answers "
            f"{len(lost):,} right that {second} does not."
        )
    )
    for title, pairs in ((f"Won by {second}", won), (f"Lost by {second}", lost)):
        if pairs:
            shown = [_sample(pair, first, second) for pair in pairs[:SHOWN]]
            blocks.append(Fold(f"{title}: {len(shown)} of {len(pairs):,}", [Samples(shown)]))
    return blocks


Pair = tuple[Example, Example]


def won_and_lost(first: Sequence[Example], second: Sequence[Example]) -> tuple[list[Pair], list[Pair]]:
    """The common answers that only the second model has right, and those that only the first one has."""
    before = {(each.task, each.question, each.sample): each for each in first}
    pairs = [(before[at], each) for each in second if (at := (each.task, each.question, each.sample)) in before]
    return [p for p in pairs if p[1].right > p[0].right], [p for p in pairs if p[0].right > p[1].right]


def _sample(pair: Pair, first: str, second: str) -> Sample:
    before, after = pair
    text = f"{first}: {before.answer}\n{second}: {after.answer}\nright: {after.gold}"
    return Sample(after.prompt, text, after.task.replace("_", " "))


def _chance(section: Section, task: str) -> str:
    return next(f"{100 * rows[task].baseline:.0f}%" for rows in section.rows.values() if task in rows)


def _accuracy(row: TaskRow | None) -> str:
    if row is None:
        return ""
    return f"{100 * row.accuracy:.1f}% ({100 * row.interval.low:.1f} to {100 * row.interval.high:.1f})"


def _score(found: Estimate) -> str:
    return f"{found.value:.4f} ({found.interval.low:.4f} to {found.interval.high:.4f})"


def _difference(name: str, found: Difference, scale: int) -> list[str | Cell]:
    """A row; the tasks are in points (`scale` 100), the score is not."""
    digits = 1 if scale == 100 else 4

    def number(value: float) -> str:
        return f"{scale * value:+.{digits}f}"

    def share(value: float) -> str:
        return f"{scale * value:.{digits}f}" + "%" * (scale == 100)

    tones = {"better": Cell("better", "good"), "worse": Cell("worse", "bad")}
    return [
        name, f"{found.questions:,}", share(found.first), share(found.second),
        f"{number(found.difference)} ({number(found.interval.low)} to {number(found.interval.high)})",
        f"{found.adjusted:.3g}" if found.adjusted >= 0.001 else "< 0.001", f"{scale * found.detectable:.{digits}f}",
        tones.get(found.verdict, Cell(found.verdict, "dim")),
    ]  # fmt: skip


def _signed(interval: Interval) -> str:
    return f"{interval.low:+z.4f} to {interval.high:+z.4f}"
