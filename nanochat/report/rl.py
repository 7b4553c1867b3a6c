"""The part of a report about reinforcement learning: curves, gains by task, answers before and after."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nanochat.report.document import Block, Figure, Fold, Sample, Samples, Table, Text
from nanochat.report.figures import Series, curves, percent
from nanochat.report.inputs import training_events
from nanochat.rl.evaluation import paired_gain
from nanochat.rl.rollout_table import read_evaluations
from nanochat.store.artifacts import Artifact

SHOWN = 4
"""Problems of each kind."""
FIRST, LAST = "over the first tenth of the steps", "over the last"


def rl_tile(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The gain on held-out problems with its interval."""
    if "gain" not in metrics:
        return []
    gain = _gain(metrics["gain"], metrics["gain_low"], metrics["gain_high"])
    return [("points of pass@1 by reinforcement learning", gain)]


def rl_blocks(model: Artifact, before: Artifact, after: Artifact) -> list[Block]:
    """`before` and `after` are the evaluations of the chat models without and with it."""
    events = training_events(model, "reward")
    evaluations = read_evaluations(model.path)
    first, kept = first_and_kept(evaluations, model.metrics["kept_step"])
    heads = ["task", "before: pass@1", "after", "gain"]
    return [
        Text(_summary(model.metrics, kept, events)),
        *_figures(events, evaluations),
        Table(heads, [*_held_out_rows(first, kept), *task_rows(before, after)], heads[1:]),
        *(Fold(title, [Samples([_sample(each) for each in some])]) for title, some in answered(first, kept).items()),
    ]


def _figures(events: Sequence[Mapping[str, Any]], evaluations: Sequence[Mapping[str, Any]]) -> list[Block]:
    found: list[Block] = []
    if rewards := [(e["done"], e["reward"]) for e in events]:
        first, last = ends([reward for _, reward in rewards])
        caption = f"Mean reward of the sampled answers: {first:.3f} {FIRST}, {last:.3f} {LAST}."
        found.append(Figure(curves([Series("", rewards)], "step", "mean reward"), caption))
    held_out = [(e["step"], e["pass_at_1"]) for e in evaluations]
    band = [(e["step"], *e["interval"]) for e in evaluations]
    caption = (
        f"pass@1 on held-out problems with its interval: {held_out[0][1]:.1%} before, {held_out[-1][1]:.1%} at the end."
    )
    found.append(
        Figure(curves([Series("", held_out, band, dots=True)], "step", "held-out problems: pass@1", percent), caption)
    )
    for number, title, unit in (("policy_entropy", "Entropy of the sampled tokens", "nats per token"),
                                ("answer_tokens", "Length of the answers", "tokens")):  # fmt: skip
        if points := [(e["done"], e[number]) for e in events if number in e]:
            first, last = ends([value for _, value in points])
            caption = f"{title}: {first:.3g} {unit} {FIRST}, {last:.3g} {LAST}."
            found.append(Figure(curves([Series("", points)], "step", f"{title.lower()} ({unit})"), caption))
    return found


def ends(values: Sequence[float]) -> tuple[float, float]:
    """The means over the first and over the last tenth of the steps: of single steps, they are mostly noise."""
    count = -(-len(values) // 10)
    return sum(values[:count]) / count, sum(values[-count:]) / count


def _summary(metrics: Mapping[str, Any], kept: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> str:
    highest = max(kept["pass_at"], key=int)
    parts = [
        f"{metrics['steps']:,} steps, {metrics['rollouts']:,} sampled answers; the weights are those after step "
        f"{kept['step']:,}",
        f"pass@{highest} {kept['pass_at'][highest][0]:.1%}",
        f"answers of {kept['mean_tokens']:.0f} tokens, {kept['truncated']:.1%} truncated",
        f"KL from the start {kept['kl']:.3f} nats a token",
    ]
    if events:
        parts.append(f"groups with equal rewards {sum(e['dead_group_share'] for e in events) / len(events):.0%}")
    return "; ".join(parts) + "."


def _held_out_rows(first: dict[str, Any], kept: dict[str, Any]) -> list[list[str]]:
    """Sampled answers to the held-out problems of training, by task."""
    rows: list[list[str]] = []
    for task in first["by_task"]:
        gain, interval = paired_gain(first, kept, int(task))
        values = [f"{each['by_task'][task][0]:.1%}" for each in (first, kept)]
        name = f"held-out problems of task {int(task) + 1}"
        rows.append([name, *values, _gain(gain, interval.low, interval.high)])
    return rows


def task_rows(before: Artifact, after: Artifact) -> list[list[str]]:
    """Tasks of the chat evaluation before and after a training, which show what else has changed."""
    old, new = (json.loads((each.path / "evaluation.json").read_text("utf-8"))["tasks"] for each in (before, after))
    return [
        [
            name.replace("_", " "), f"{old[name]['accuracy']:.1%}", f"{new[name]['accuracy']:.1%}",
            f"{100 * (new[name]['accuracy'] - old[name]['accuracy']):+.1f}",
        ]
        for name in new
        if name in old
    ]  # fmt: skip


def first_and_kept(evaluations: list[dict[str, Any]], kept_step: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The evaluation before the first step, and that of the weights that were kept."""
    return evaluations[0], next((each for each in evaluations if each["step"] == kept_step), evaluations[-1])


@dataclass(frozen=True)
class Answered:
    """A held-out problem with its first answers before and after."""

    problem: str
    before: str
    after: str
    right: str
    """`1 → 4 of 4`."""


def answered(first: dict[str, Any], kept: dict[str, Any]) -> dict[str, list[Answered]]:
    """Held-out problems that are answered best, worst, and with the largest gain, of two evaluations."""
    pairs = list(zip(first["problems"], kept["problems"], strict=True))

    def shown(chosen: list[tuple[dict[str, Any], dict[str, Any]]]) -> list[Answered]:
        return [
            Answered(
                new["question"], old["answer"], new["answer"], f"{old['right']} → {new['right']} of {kept['samples']}"
            )
            for old, new in chosen[:SHOWN]
        ]

    by_gain = sorted(pairs, key=lambda pair: pair[0]["right"] - pair[1]["right"])
    by_right = sorted(pairs, key=lambda pair: -pair[1]["right"])
    return {"Most improved": shown(by_gain), "Best": shown(by_right), "Worst": shown(by_right[::-1])}


def _sample(each: Answered) -> Sample:
    return Sample(each.problem, f"before: {each.before}\nafter: {each.after}", f"right {each.right}")


def _gain(value: float, low: float, high: float) -> str:
    return f"{100 * value:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
