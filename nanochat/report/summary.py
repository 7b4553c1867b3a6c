"""The chapter "What was made?": the models, and the most important numbers."""

from __future__ import annotations

from typing import Any

from nanochat.console import duration
from nanochat.report.core import core_tile
from nanochat.report.document import Block, Facts, Tiles
from nanochat.report.figures import amount
from nanochat.report.inputs import CORE, RL, ReportInputs, read_json
from nanochat.report.rl import rl_tile

CHAT_SCORES = {"chatcore": "ChatCORE", "centered_accuracy": "mean centered accuracy"}
"""Scores of a chat model, and how tables name them. Up to version 1 of `evaluate_chat`, both were `chatcore`."""


def tiles(inputs: ReportInputs) -> Tiles:
    """The most important numbers."""
    base, chat = inputs.base, read_json(inputs.chat_evaluation, "evaluation.json")
    bits = read_json(inputs.one("evaluate_base"), "evaluation.json")["bits_per_byte"]
    seconds = sum(a.manifest.producer.seconds for each in inputs.stages.values() for a in each)
    core = [read_json(each, "evaluation.json") for each in inputs.stages.get(CORE, [])]
    return Tiles([
        ("validation bits per byte", f"{bits:.4f}"),
        *(tile for evaluation in core for tile in core_tile(evaluation)),
        *(tile for model in inputs.stages.get(RL, []) for tile in rl_tile(model.metrics)),
        *((f"{readable(name)} (chance {t['baseline']:.0%})", f"{t['accuracy']:.0%}")
          for name, t in chat["tasks"].items()),
        *((label, _with_interval(chat, name)) for name, label in CHAT_SCORES.items() if name in chat),
        ("parameters", short(base.metrics["parameters"])),
        ("training tokens", short(base.metrics["train_tokens"])),
        ("tokens per second", f"{base.metrics['tokens_per_s']:,.0f}"),
        ("time of all stages", duration(seconds)),
    ])  # fmt: skip


def what_was_made(inputs: ReportInputs) -> list[Block]:
    """The models in a few facts."""
    base, chat = inputs.base, inputs.chat
    config: dict[str, Any] = base.manifest.config
    shape = config.get("model", {})
    vocabulary = inputs.one("train_tokenizer").metrics.get("vocab_size")
    steps = [f"{name}: {artifact.stage}/{artifact.key[:12]}" for name, artifact in (("base", base), ("chat", chat))]
    size = [f"{base.metrics['parameters']:,} parameters"]
    size += [f"depth {shape['depth']}"] if "depth" in shape else []
    size += [f"vocabulary of {vocabulary:,} tokens"] if vocabulary else []
    size += [f"rows of {base.metrics['sequence_len']:,} tokens"] if "sequence_len" in base.metrics else []
    read = [f"{base.metrics['train_tokens']:,} tokens"]
    read += [f"{base.metrics['epochs']:.2f} times the text"] if "epochs" in base.metrics else []
    read += [f"{amount(base.metrics['flops'])} FLOPs"] if "flops" in base.metrics else []
    steps_of_chat = {
        "sft": "fine-tuning on conversations", "dpo": "preference optimization", "rl": "reinforcement learning"
    }  # fmt: skip
    made_by = ", then ".join(text for stage, text in steps_of_chat.items() if stage in inputs.stages)
    return [
        Facts([
            ("a model that continues text, and a chat model", "; ".join(steps)),
            ("size", ", ".join(size)),
            ("pretraining", ", ".join(read)),
            ("chat model", made_by),
            ("finished", f"{chat.manifest.producer.ended:%Y-%m-%d %H:%M} UTC"),
        ])
    ]  # fmt: skip


def readable(name: str) -> str:
    return name.replace("_", " ")


def short(value: float) -> str:
    """`1.31 M`."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:g}"


def _with_interval(found: dict[str, Any], name: str) -> str:
    if f"{name}_interval" not in found:
        return f"{found[name]:.3f}"
    low, high = found[f"{name}_interval"]
    return f"{found[name]:.3f} ({low:.3f}–{high:.3f})"
