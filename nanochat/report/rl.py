"""The chapter of a report about reinforcement learning: curves, gains by task, answers before and after."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from nanochat.report.plots import answers_curve, reward_curve
from nanochat.rl.evaluation import paired_gain
from nanochat.rl.rollout_table import read_evaluations
from nanochat.store.artifacts import Artifact

SHOWN = 4
"""Problems of each kind."""


def rl_tile(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The gain on held-out problems with its interval."""
    if "gain" not in metrics:
        return []
    gain = _gain(metrics["gain"], metrics["gain_low"], metrics["gain_high"])
    return [("points of pass@1 by reinforcement learning", gain)]


def rl_chapter(model: Artifact, before: Artifact, after: Artifact) -> dict[str, Any]:
    """What the templates show: `before` and `after` are the evaluations of the chat models without and with it."""
    lines = (model.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    events = [event for line in lines if line and "reward" in (event := json.loads(line))]
    evaluations = read_evaluations(model.path)
    by_step = {each["step"]: each for each in evaluations}
    first, kept = evaluations[0], by_step.get(model.metrics["kept_step"], evaluations[-1])
    return {
        "summary": _summary(model.metrics, kept, events),
        "rewards": Markup(reward_curve(events, evaluations)) if events else "",  # noqa: S704 - our own SVG
        "answers": Markup(answers_curve(events)) if events else "",  # noqa: S704
        "rows": [*_held_out_rows(first, kept), *_task_rows(before, after)],
        "samples": _samples(first, kept),
    }


def _summary(metrics: Mapping[str, Any], kept: Mapping[str, Any], events: list[dict[str, float]]) -> str:
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


def _held_out_rows(first: dict[str, Any], kept: dict[str, Any]) -> list[dict[str, str]]:
    """Sampled answers to the held-out problems of training, by task."""
    rows: list[dict[str, str]] = []
    for task in first["by_task"]:
        gain, interval = paired_gain(first, kept, int(task))
        values = [f"{each['by_task'][task][0]:.1%}" for each in (first, kept)]
        name = f"held-out problems of task {int(task) + 1}"
        rows.append(
            {"name": name, "before": values[0], "after": values[1], "gain": _gain(gain, interval.low, interval.high)}
        )
    return rows


def _task_rows(before: Artifact, after: Artifact) -> list[dict[str, str]]:
    """Tasks of the chat evaluation, which show what else has changed."""
    old, new = (json.loads((each.path / "evaluation.json").read_text("utf-8"))["tasks"] for each in (before, after))
    return [
        {
            "name": name.replace("_", " "),
            "before": f"{old[name]['accuracy']:.1%}",
            "after": f"{new[name]['accuracy']:.1%}",
            "gain": f"{100 * (new[name]['accuracy'] - old[name]['accuracy']):+.1f}",
        }
        for name in new
        if name in old
    ]


def _samples(first: dict[str, Any], kept: dict[str, Any]) -> dict[str, list[dict[str, str]]]:
    """Held-out problems that are answered best, worst, and with the largest gain, with their first answers."""
    pairs = list(zip(first["problems"], kept["problems"], strict=True))
    samples = kept["samples"]

    def shown(chosen: list[tuple[dict[str, Any], dict[str, Any]]]) -> list[dict[str, str]]:
        return [
            {
                "question": new["question"],
                "before": old["answer"],
                "after": new["answer"],
                "right": f"{old['right']} → {new['right']} of {samples}",
            }
            for old, new in chosen[:SHOWN]
        ]

    by_gain = sorted(pairs, key=lambda pair: pair[0]["right"] - pair[1]["right"])
    by_right = sorted(pairs, key=lambda pair: -pair[1]["right"])
    return {"Most improved": shown(by_gain), "Best": shown(by_right), "Worst": shown(by_right[::-1])}


def _gain(value: float, low: float, high: float) -> str:
    return f"{100 * value:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
