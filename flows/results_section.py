"""The results on an artifact's page: curve of a model, bar per task of an evaluation, the report itself."""

import base64
import json
from collections.abc import Sequence
from typing import Any

from nanochat.console import number
from nanochat.report.data_card import conversation_facts, table
from nanochat.report.rl import answered, first_and_kept
from nanochat.rl.rollout_table import EVALUATIONS
from nanochat.store.manifest import Manifest
from nanochat.store.store import Store

WIDTH, HEIGHT, MARGIN, MAX_POINTS, BAR = 640, 190, 34, 200, 20
TRAINED, HELD_OUT, GREY = "#3b82f6", "#f97316", "#64748b"


def results(store: Store, manifest: Manifest) -> list[str]:
    """Paragraphs of markdown; reads only the small files that they need."""
    if manifest.kind == "Model":
        lines = _read(store, manifest, "metrics.jsonl").splitlines()
        events = [event for line in lines if line and "smoothed_loss" in (event := json.loads(line))]
        if len(events) > 1:
            name = "reward" if "reward" in events[-1] else "smoothed_loss"
            return [svg_image("training", curve(events, name)), *_answers(store, manifest)]
    if manifest.kind == "Evaluation":
        found = json.loads(_read(store, manifest, "evaluation.json") or "{}")
        return [
            paragraph for paragraph in (_tasks(found.get("tasks", {})), _samples(found.get("samples", []))) if paragraph
        ]
    if manifest.kind == "DataCard":
        lengths = svg_image("lengths of documents", _read(store, manifest, "lengths.svg"))
        return [_read(store, manifest, "card.md"), lengths]
    if manifest.kind == "Conversations":
        return ["\n".join(table(conversation_facts(manifest.metrics)))]
    if manifest.kind == "Report":
        return [_read(store, manifest, "report.md")]
    return []


def svg_image(name: str, svg: str) -> str:
    """A picture in markdown, as a `data:` address."""
    return f"![{name}](data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()})"


def curve(events: Sequence[dict[str, float]], trained: str) -> str:
    """SVG of a metric of training and of the validation metric over steps; each has a separate scale."""
    every = max(1, len(events) // MAX_POINTS)
    points = [(event["done"], event[trained]) for event in [*events[::every], events[-1]] if trained in event]
    name = next((name for event in events for name in event if name.startswith("validation_")), "")
    held_out = [(event["done"], event[name]) for event in events if name in event]
    last = events[-1]["done"]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="system-ui, sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="8" fill="#f8fafc"/>',
        _series(points, last, TRAINED, trained.removeprefix("smoothed_"), "start"),
        _series(held_out, last, HELD_OUT, name.replace("_", " "), "end") if held_out else "",
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 10}" fill="{GREY}" text-anchor="middle">{number(last)} steps</text>',
    ]
    return "".join([*parts, "</svg>"])


def _series(points: Sequence[tuple[float, float]], last: float, colour: str, name: str, side: str) -> str:
    lowest, highest = min(y for _, y in points), max(y for _, y in points)
    x0, width = MARGIN, WIDTH - 2 * MARGIN
    y0, height = MARGIN, HEIGHT - 2 * MARGIN - 6
    placed = [(x0 + width * x / last, y0 + height * (highest - y) / ((highest - lowest) or 1)) for x, y in points]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in placed) if len(points) <= 40 else ""
    at = x0 if side == "start" else x0 + width
    caption = f"{name} {points[0][1]:.4g} → {points[-1][1]:.4g}"
    return (
        f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.6"/><g fill="{colour}">{dots}</g>'
        f'<text x="{at}" y="20" fill="{colour}" text-anchor="{side}">{caption}</text>'
    )


def _answers(store: Store, manifest: Manifest) -> list[str]:
    """Answers to held-out problems before and after reinforcement learning."""
    evaluations = [json.loads(line) for line in _read(store, manifest, EVALUATIONS).splitlines()]
    if not evaluations:
        return []
    lines = ["| answers | problem | before | after | right |", "| --- | --- | --- | --- | --- |"]
    for kind, some in answered(*first_and_kept(evaluations, manifest.metrics.get("kept_step", 0))).items():
        for each in some:
            cells = (_inert(text) for text in (each.problem, each.before, each.after))
            lines.append(f"| {kind} | {' | '.join(cells)} | {each.right} |")
    return ["\n".join(lines)]


def _inert(text: str) -> str:
    """Any text as code in a cell of a table."""
    return f"`{' '.join(text.replace('|', '∣').replace('`', chr(39)).split())}`"


def _tasks(tasks: dict[str, Any]) -> str:
    rows = [
        f"| {name.replace('_', ' ')} | {_bar(task['accuracy'])} | {_correct(task)} | {task['baseline']:.0%} |"
        for name, task in tasks.items()
    ]
    return "\n".join(["| task | | correct | chance |", "| --- | --- | --- | --- |", *rows]) if rows else ""


def _correct(task: dict[str, Any]) -> str:
    """The accuracy, with its interval if the evaluation has one."""
    if "interval" not in task:
        return f"{task['accuracy']:.0%}"
    low, high = task["interval"]
    return f"{task['accuracy']:.1%} ({low:.1%} to {high:.1%})"


def _samples(samples: Sequence[Any]) -> str:
    texts = [sample.get("text", "") if isinstance(sample, dict) else str(sample) for sample in samples[:3]]
    return "\n\n".join("> " + text.strip().replace("\n", "\n> ") for text in texts if text.strip())


def _bar(share: float) -> str:
    filled = round(BAR * min(1.0, max(0.0, share)))
    return "█" * filled + "░" * (BAR - filled)


def _read(store: Store, manifest: Manifest, name: str) -> str:
    has_file = any(file.path == name for file in manifest.files)
    return store.payloads.read_file(manifest, name).decode(errors="replace") if has_file else ""
