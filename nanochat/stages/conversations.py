"""Conversations: the mixture of supervised fine-tuning as rows with a loss mask, and the evaluation questions."""

from __future__ import annotations

from pathlib import Path

from nanochat.config.base import canonical_json
from nanochat.config.chat import ConversationsConfig, MixtureItem
from nanochat.data.conversation_rows import write_conversation_rows
from nanochat.data.mixture import questions_of, render_mixture
from nanochat.data.mixture_report import most_common
from nanochat.data.rows import rows_per_block
from nanochat.execution.stage import Context, Metrics, stage
from nanochat.store.artifacts import Conversations, Vocabulary
from nanochat.tasks.conversation import Split
from nanochat.tasks.fields import Counts
from nanochat.tokenizer.bpe import Tokenizer


@stage(version=3, produces=Conversations, resource="cpu")
def converse(config: ConversationsConfig, vocabulary: Vocabulary, *, out: Path, context: Context) -> Metrics:
    """Render the training conversations to rows with a loss mask, and collect the held-out questions."""
    tokenizer = Tokenizer.load(vocabulary.path / "vocabulary.json")
    row_tokens = config.sequence_len + 1
    metrics: Metrics = {
        "sequence_len": config.sequence_len,
        "dtype": tokenizer.dtype.name,
        "block_rows": rows_per_block(row_tokens, tokenizer.dtype),
    }
    mixtures: dict[Split, tuple[MixtureItem, ...]] = {"train": config.train, "validation": config.validation}
    for split, items in mixtures.items():
        rendered = render_mixture(items, split, tokenizer, row_tokens, config.seed, context.progress)
        rows = write_conversation_rows(rendered, out, split, row_tokens, tokenizer.bos, config.seed)
        metrics[f"{split}_rows"] = rows
        metrics[f"{split}_conversations"] = int(rendered.repeats.sum())
        metrics[f"{split}_tokens"] = rendered.seen_tokens
        metrics[f"{split}_learnt_share"] = round(rendered.trained_tokens / rendered.seen_tokens, 4)
        metrics[f"{split}_padding_share"] = round(1 - rendered.seen_tokens / (rows * row_tokens), 4)
        metrics |= {f"{split}_{name}": value for name, value in left_out(rendered.counts).items()}
        metrics[f"{split}_cut"] = rendered.truncated
    tasks: dict[str, int] = {}
    counts = Counts()
    with (out / "questions.jsonl").open("w", encoding="utf-8") as lines:
        for question in questions_of(config.questions, config.seed, counts):
            lines.write(canonical_json(question) + "\n")
            tasks[question["task"]] = tasks.get(question["task"], 0) + 1
    metrics["questions"] = sum(tasks.values())
    metrics["questions_by_task"] = tasks
    metrics["questions_skipped"] = counts.skipped.total()
    return metrics


def left_out(counts: Counts) -> Metrics:
    """Counts of what was skipped and ignored, one metric per reason. Only `skipped` is included when it is 0."""
    others = {
        **{f"skipped_{reason}": count for reason, count in sorted(counts.skipped.items())},
        "other_split_rows": counts.other_split_rows,
        "ignored_fields": most_common(counts.ignored_fields),
        "ignored_files": counts.ignored_files.total(),
    }
    return {"skipped": counts.skipped.total(), **{name: value for name, value in others.items() if value}}
