"""The report of a run: metrics, curves, samples, lineage and time."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from nanochat.console import duration, headline
from nanochat.lineage.picture import as_svg, fold
from nanochat.report.core import core_chapter, core_tile
from nanochat.report.data_card import as_markdown, conversation_facts
from nanochat.report.data_card import facts as card_facts
from nanochat.report.plots import accuracy_bars, language_bars, length_bars, training_curve
from nanochat.report.rl import rl_chapter, rl_tile
from nanochat.report.templates import render_template
from nanochat.store.artifacts import Artifact

CHAT_SCORES = {"chatcore": "ChatCORE", "centered_accuracy": "mean centered accuracy"}
"""Scores of a chat model, and how tables name them. Up to version 1 of `evaluate_chat`, both were `chatcore`."""

CORE, RL, RL_EVALUATION = "evaluate_core", "rl", "evaluate_chat rl"


@dataclass(frozen=True)
class ReportInputs:
    """The title and the artifacts of a report."""

    title: str
    stages: dict[str, list[Artifact]]
    """Stage → its artifacts, in the order of the graph; several for a stage that is mapped over shards."""

    def one(self, *stages: str) -> Artifact:
        """The artifact of the first of these stages that has one."""
        return next(self.stages[stage][0] for stage in stages if stage in self.stages)


def render(inputs: ReportInputs) -> tuple[str, str]:
    """The report, as Markdown and as HTML."""
    return render_template("report", _values(inputs))


def _values(inputs: ReportInputs) -> dict[str, Any]:
    base, chat = inputs.one("pretrain", "continue_pretrain"), inputs.one("sft")
    base_evaluation = json.loads((inputs.one("evaluate_base").path / "evaluation.json").read_text(encoding="utf-8"))
    evaluated = inputs.one(RL_EVALUATION, "evaluate_chat")
    chat_evaluation = json.loads((evaluated.path / "evaluation.json").read_text(encoding="utf-8"))
    reinforced = inputs.stages.get(RL, [])
    core = [json.loads((each.path / "evaluation.json").read_text("utf-8")) for each in inputs.stages.get(CORE, [])]
    card = json.loads((inputs.one("data_card").path / "card.json").read_text(encoding="utf-8"))
    conversations = conversation_facts(inputs.one("converse").metrics)
    pretraining, fine_tuning = _events(base.path), _events(chat.path)
    rows = [_row(stage, artifacts) for stage, artifacts in inputs.stages.items()]
    seconds = sum(row["seconds"] for row in rows)
    manifests = [artifact.manifest for artifacts in inputs.stages.values() for artifact in artifacts]
    producer = base.manifest.producer
    tasks = chat_evaluation["tasks"]
    tiles = [
        ("validation bits per byte", f"{base_evaluation['bits_per_byte']:.4f}"),
        *(tile for evaluation in core for tile in core_tile(evaluation)),
        *(tile for model in reinforced for tile in rl_tile(model.metrics)),
        *((f"{_readable(name)} (chance {t['baseline']:.0%})", f"{t['accuracy']:.0%}") for name, t in tasks.items()),
        *((label, f"{chat_evaluation[name]:.3f}") for name, label in CHAT_SCORES.items() if name in chat_evaluation),
        ("parameters", _short(base.metrics["parameters"])),
        ("training tokens", _short(base.metrics["train_tokens"])),
        ("tokens per second", f"{base.metrics['tokens_per_s']:,.0f}"),
        ("time of all stages", duration(seconds)),
    ]  # fmt: skip
    return {
        "title": inputs.title,
        "tiles": tiles,
        "seconds": seconds,
        "rows": [{**row, "share": row["seconds"] / seconds if seconds else 0} for row in rows],
        "core_while_training": Markup(training_curve(pretraining, "core", "CORE")) if _has_core(pretraining) else "",  # noqa: S704 - our own SVG
        "pretraining": Markup(training_curve(pretraining, "validation_bits_per_byte", "validation bits per byte")),  # noqa: S704 - our own SVG
        "fine_tuning": Markup(training_curve(fine_tuning, "validation_loss", "validation loss (nats a token)")),  # noqa: S704
        "bars": Markup(accuracy_bars(chat_evaluation["tasks"])),  # noqa: S704
        "card": [*card_facts(card), *conversations],
        "card_markdown": as_markdown(card, conversations),
        "lengths": Markup(length_bars(card["lengths"])),  # noqa: S704
        "languages": Markup(language_bars(card["languages"])),  # noqa: S704
        "lineage": Markup(as_svg(fold(manifests))),  # noqa: S704
        "tasks": [_task_row(name, task) for name, task in chat_evaluation["tasks"].items()],
        "rl": [rl_chapter(model, inputs.one("evaluate_chat"), evaluated) for model in reinforced],
        "core": [core_chapter(evaluation) for evaluation in core],
        "samples": base_evaluation["samples"],
        "examples": chat_evaluation["examples"],
        "configs": {
            stage: json.dumps(a[0].manifest.config, indent=1, ensure_ascii=False) for stage, a in inputs.stages.items()
        },
        "environment": {
            "commit": (producer.git_commit or "unknown") + (" (with changes)" if producer.git_dirty else ""),
            "code": producer.code_sha256[:16],
            "machine": f"{producer.hardware.get('cpu', '')}, {producer.hardware.get('cores', '?')} cores, "
            f"{producer.hardware.get('memory_bytes', 0) / 2**30:.0f} GiB",
            **producer.packages,
        },
        "ended": f"{chat.manifest.producer.ended:%Y-%m-%d %H:%M} UTC",
    }


def _task_row(name: str, task: Mapping[str, Any]) -> dict[str, Any]:
    """A line of the table of tasks: accuracy with its interval, the form of the prompts, and what else was counted."""
    right = f"{task['accuracy']:.1%}"
    if "interval" in task:
        low, high = task["interval"]
        right += f" ({100 * low:.1f}–{100 * high:.1f})"
    notes = [f"{task['flexible_accuracy']:.1%} by the lenient rule"] if "flexible_accuracy" in task else []
    notes += [f"pass@{k} {value:.1%}" for k, (value, _) in task.get("pass_at", {}).items()]
    notes += [f"{count:,} {reason}" for reason, count in task.get("no_answer", {}).items()]
    notes += [f"{task['truncated']:,} truncated"] if task.get("truncated") else []
    notes += [f"sandbox: {task['sandbox']}"] if task.get("sandbox", "full") != "full" else []
    return {
        "name": name,
        "kind": task["kind"],
        "form": task.get("form", ""),
        "right": right,
        "chance": f"{task['baseline']:.0%}",
        "questions": f"{task['questions']:,}",
        "notes": ", ".join(notes),
    }


def _has_core(events: Sequence[Mapping[str, float]]) -> bool:
    return any("core" in event for event in events)


def _events(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [event for line in lines if line and "smoothed_loss" in (event := json.loads(line))]


def _row(stage: str, artifacts: Sequence[Artifact]) -> dict[str, Any]:
    return {
        "stage": stage if len(artifacts) == 1 else f"{stage} ×{len(artifacts)}",
        "seconds": sum(artifact.manifest.producer.seconds for artifact in artifacts),
        "key": artifacts[0].key[:8],
        "digest": artifacts[0].digest[:8],
        "headline": headline(artifacts[0].metrics) if len(artifacts) == 1 else "",
        "bytes": sum(file.size for artifact in artifacts for file in artifact.manifest.files),
    }


def _readable(name: str) -> str:
    return name.replace("_", " ")


def _short(value: float) -> str:
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:g}"
