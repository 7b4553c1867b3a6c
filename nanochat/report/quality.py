"""The chapter "Is it any good?": scores with intervals, beside those of other models, and verdicts in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pyarrow import ArrowException

from nanochat.errors import NanochatError
from nanochat.evaluation.comparison import compare
from nanochat.evaluation.row_bits import FILE_NAME as ROWS
from nanochat.evaluation.row_bits import RowBits
from nanochat.evaluation.statistics import Interval
from nanochat.report.answers import answers_of, has_answers
from nanochat.report.comparison import sentence
from nanochat.report.core import core_blocks
from nanochat.report.document import Block, Figure, Heading, Points, Table, Text
from nanochat.report.figures import Bar, Group, bars
from nanochat.report.inputs import CORE, DPO, DPO_EVALUATION, RL, ComparedModel, ReportInputs, read_json
from nanochat.report.preferences import preference_blocks
from nanochat.report.rl import rl_blocks
from nanochat.report.summary import readable
from nanochat.store.artifacts import Artifact

GPT2_CORE = {"GPT-2 124M": 0.1139, "GPT-2 355M": 0.1849, "GPT-2 774M": 0.2146, "GPT-2 1.6B": 0.2565}
"""CORE of OpenAI's GPT-2 in nanochat's harness, over all questions."""
SCORES = (
    ("evaluate_base", "bits_per_byte", "bits per byte of held-out text (less is better)"),
    (CORE, "core", "CORE"),
    ("evaluate_chat", "chatcore", "ChatCORE"),
    ("evaluate_chat", "centered_accuracy", "mean centered accuracy"),
)
MOST_DRAWN = 4
"""Other models in a figure."""


def quality(inputs: ReportInputs) -> list[Block]:
    """Verdicts against the other models, the scores side by side, and each task."""
    blocks: list[Block] = []
    if verdicts := [verdict for other in inputs.compared for verdict in verdicts_against(inputs, other)]:
        blocks.append(Points(verdicts))
    elif not inputs.compared:
        blocks.append(Text("The store has no other model to compare with.", "dim"))
    blocks += _scores(inputs)
    evaluated = read_json(inputs.chat_evaluation, "evaluation.json")
    others = [(other.name, read_json(other.evaluations["evaluate_chat"], "evaluation.json").get("tasks", {}))
              for other in inputs.compared if "evaluate_chat" in other.evaluations]  # fmt: skip
    blocks += _tasks(evaluated["tasks"], others[:MOST_DRAWN])
    for evaluation in inputs.stages.get(CORE, []):
        blocks += [Heading("CORE of the base model"), *_gpt2(read_json(evaluation, "evaluation.json"), inputs.compared)]
        blocks += core_blocks(read_json(evaluation, "evaluation.json"))
    fine_tuned, before_rl = inputs.one("evaluate_chat"), inputs.one(DPO_EVALUATION, "evaluate_chat")
    for model in inputs.stages.get(DPO, []):
        blocks += [Heading("Preference optimization"), *preference_blocks(model, fine_tuned, before_rl)]
    for model in inputs.stages.get(RL, []):
        blocks += [Heading("Reinforcement learning"), *rl_blocks(model, before_rl, inputs.chat_evaluation)]
    return blocks


def verdicts_against(inputs: ReportInputs, other: ComparedModel) -> list[str]:
    """One sentence for each evaluation that both models have; or why there is none."""
    if not other.evaluations:
        return [other.missing or f"{other.name} has no evaluation in the store."]
    found: list[str] = [other.missing] if other.missing else []
    shared = [
        (ours, other.evaluations[stage]) for stage, ours in inputs.evaluations.items() if stage in other.evaluations
    ]
    for ours, theirs in shared:
        if ours.digest == theirs.digest:
            found.append(f"{readable(ours.stage)}: the same answers as {other.name}.")
        elif ours.stage == "evaluate_base":
            found.append(bits_verdict(ours, theirs, "this model", other.name))
        elif has_answers(ours) and has_answers(theirs):
            try:
                compared = compare(answers_of(other.name, theirs), answers_of("this model", ours))
                found.append(f"{readable(ours.stage)}: {sentence(compared)}")
            except NanochatError as error:
                found.append(f"{readable(ours.stage)}: not compared with {other.name}. {error.message}")
        else:
            found.append(f"{readable(ours.stage)}: {other.name} has kept no answers, so only its scores are shown.")
    return found or [f"{other.name} has no evaluation of the same kind."]


def bits_verdict(ours: Artifact, theirs: Artifact, name: str, other: str) -> str:
    """Bits per byte of two base models in words: only on the same rows is a difference one of the models."""
    rows = [[ref.digest for ref in each.manifest.inputs.get("rows", [])] for each in (ours, theirs)]
    if rows[0] != rows[1] or ours.manifest.config != theirs.manifest.config:
        return f"Bits per byte: {name} and {other} were evaluated on different rows of text, so they are not compared."
    mine, yours = ours.metrics.get("bits_per_byte"), theirs.metrics.get("bits_per_byte")
    if mine is None or yours is None:
        return f"Bits per byte: unknown for {name if mine is None else other}."
    seed = "It is one run of each: how much another seed changes this is not known here."
    difference, interval = _row_difference(ours, theirs) or (mine - yours, None)
    if interval is None:
        word = "fewer, which is better" if mine < yours else "more, which is worse" if mine > yours else "the same"
        return (
            f"Bits per byte: {name} {mine:.4f}, {other} {yours:.4f}: {abs(mine - yours):.4f} {word}. "
            f"How much other rows change this is not known. {seed}"
        )
    low, high = sorted((abs(interval.low), abs(interval.high)))
    if 0 in interval:
        return (
            f"Bits per byte: {name} {mine:.4f}, {other} {yours:.4f}: cannot tell which is better "
            f"({difference:+.4f}, {interval.low:+.4f} to {interval.high:+.4f} over these rows). {seed}"
        )
    word = "fewer, which is better" if difference < 0 else "more, which is worse"
    return (
        f"Bits per byte: {name} {mine:.4f}, {other} {yours:.4f}: {abs(difference):.4f} {word} "
        f"({low:.4f} to {high:.4f} over these rows). {seed}"
    )


def _row_difference(ours: Artifact, theirs: Artifact) -> tuple[float, Interval | None] | None:
    """The difference in bits per byte, row by row; None if an evaluation of an earlier version kept no rows."""
    if not all(any(file.path == ROWS for file in each.manifest.files) for each in (ours, theirs)):
        return None
    try:
        return RowBits.read(ours.path).above(RowBits.read(theirs.path))
    except (NanochatError, OSError, ArrowException):  # its payload is gone: the scores are compared
        return None


def _scores(inputs: ReportInputs) -> list[Block]:
    others = [other for other in inputs.compared if other.evaluations]
    rows: list[list[str]] = []
    for stage, name, title in SCORES:
        if stage not in inputs.evaluations:
            continue
        mine = score_text(inputs.evaluations[stage], name)
        if mine:
            cells = [score_text(each.evaluations[stage], name) if stage in each.evaluations else "" for each in others]
            rows.append([title, mine, *cells])
    heads = ["score", "this model", *(each.name for each in others)]
    return [Table(heads, rows, heads[1:])] if rows and others else []


def score_text(evaluation: Artifact, name: str) -> str:
    """A score with its interval; empty if the evaluation has none."""
    found = read_json(evaluation, "evaluation.json")
    value, interval = found.get(name, evaluation.metrics.get(name)), found.get(f"{name}_interval")
    if value is None:
        return ""
    return f"{value:.4f}" + (f" ({interval[0]:.4f}–{interval[1]:.4f})" if interval else "")


def _tasks(tasks: Mapping[str, Any], others: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Block]:
    """Accuracies as bars with intervals, then as a table with all that was counted."""
    if not tasks:
        return [Text("The chat model was evaluated on no task.", "dim")]
    names = ["this model", *(name for name, _ in others)]
    groups = [
        Group(
            readable(task),
            [_bar(each[task], number) for number, each in enumerate([tasks, *(found for _, found in others)])
             if task in each],
            tasks[task]["baseline"],
        )
        for task in tasks
    ]  # fmt: skip
    rows = [task_row(name, task) for name, task in tasks.items()]
    heads = ["task", "kind", "form", "right", "chance", "questions", "also"]
    caption = (
        "Held-out questions that the chat model answers right, with 95% intervals; the dashed line is the share of a "
        "guess."
    )
    return [
        Heading("Tasks of the chat model"),
        Figure(bars(groups, names if others else (), "a guess"), caption),
        Table(heads, rows, ("right", "chance", "questions")),
    ]


def _bar(task: Mapping[str, Any], series: int) -> Bar:
    interval = tuple(task["interval"]) if "interval" in task else None
    text = f"{task['accuracy']:.1%}" + (f" ({100 * interval[0]:.1f}–{100 * interval[1]:.1f})" if interval else "")
    return Bar(task["accuracy"], text, series, interval)


def task_row(name: str, task: Mapping[str, Any]) -> list[str]:
    """A line of the table of tasks: accuracy with its interval, the form of the prompts, and what else was counted."""
    notes = [f"{task['flexible_accuracy']:.1%} by the lenient rule"] if "flexible_accuracy" in task else []
    notes += [f"pass@{k} {value:.1%}" for k, (value, _) in task.get("pass_at", {}).items()]
    notes += [f"{count:,} {reason}" for reason, count in task.get("no_answer", {}).items()]
    notes += [f"{task['truncated']:,} truncated"] if task.get("truncated") else []
    notes += [f"sandbox: {task['sandbox']}"] if task.get("sandbox", "full") != "full" else []
    return [
        readable(name), task["kind"], task.get("form", ""), _bar(task, 0).text, f"{task['baseline']:.0%}",
        f"{task['questions']:,}", ", ".join(notes),
    ]  # fmt: skip


def _gpt2(core: Mapping[str, Any], compared: Sequence[ComparedModel]) -> list[Block]:
    """CORE beside that of other models; GPT-2's only for CORE over all questions."""
    if core["core"] is None:
        return []
    low, high = core["core_interval"]
    found = [Bar(core["core"], f"this model {core['core']:.4f} ({low:.4f}–{high:.4f})", 0, (low, high))]
    for other in compared:
        if CORE in other.evaluations:
            theirs = read_json(other.evaluations[CORE], "evaluation.json")
            if theirs.get("core") is not None and theirs["limit"] == core["limit"]:
                low, high = theirs["core_interval"]
                found.append(Bar(theirs["core"], f"{other.name} {theirs['core']:.4f}", 1, (low, high)))
    if not core["limit"]:
        found += [Bar(value, f"{name} {value:.4f}", 2) for name, value in GPT2_CORE.items()]
    caption = (
        "CORE (0: guesses, 1: all right)" + ("" if core["limit"] else ", with GPT-2's in nanochat's harness") + "."
    )
    return [Figure(bars([Group("CORE", found)]), caption)] if len(found) > 1 else []
