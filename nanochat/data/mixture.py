"""Conversations of a mixture of tasks as token ids with a loss mask.

Each conversation becomes ids and a mask (1 = a token of the assistant, which is trained on). It is truncated to the
length of a row. Weights and epochs of the items decide how often it is seen. What is truncated, skipped or ignored is
counted, and logged once an item is read.
"""

import logging
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from nanochat.config.base import canonical_json
from nanochat.config.chat import MixtureItem
from nanochat.errors import BadConfig, BadSource
from nanochat.events import Reporter
from nanochat.tasks.conversation import Question, Split
from nanochat.tasks.fields import Counts
from nanochat.tasks.registry import load_task
from nanochat.tokenizer.bpe import Tokenizer
from nanochat.tokenizer.chat import render

REPORT_EVERY = 1000
NO_LIMIT = 1 << 62
LOG = logging.getLogger("nanochat.conversations")


@dataclass(frozen=True)
class RenderedConversations:
    """Concatenated conversations: conversation i is `ids[offsets[i] : offsets[i + 1]]`."""

    ids: np.ndarray
    """(tokens,) uint16 or uint32."""
    mask: np.ndarray
    """(tokens,) uint8, 1 where the token is trained on."""
    offsets: np.ndarray
    """(conversations + 1,) int64."""
    repeats: np.ndarray
    """(conversations,) int64: how often each is seen."""
    counts: Counts
    """What was skipped and ignored."""
    truncated: int
    """Conversations that were longer than a row."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def metrics(self, rows: int, row_tokens: int) -> dict[str, Any]:
        """Metrics of these conversations in `rows` rows, with a count for each reason why something was left out.

        Of these counts, only `skipped` is included when it is 0.
        """
        left_out = {
            **{f"skipped_{reason}": count for reason, count in sorted(self.counts.skipped.items())},
            "other_split_rows": self.counts.other_split_rows,
            "ignored_fields": most_common(self.counts.ignored_fields),
            "ignored_files": self.counts.ignored_files.total(),
        }
        return {
            "rows": rows,
            "conversations": int(self.repeats.sum()),
            "tokens": self.seen_tokens,
            "learnt_share": round(self.trained_tokens / self.seen_tokens, 4),  # plain-words: ok
            "padding_share": round(1 - self.seen_tokens / (rows * row_tokens), 4),
            "skipped": self.counts.skipped.total(),
            **{name: value for name, value in left_out.items() if value},
            "cut": self.truncated,
        }

    @property
    def seen_tokens(self) -> int:
        """Number of tokens, with repetitions."""
        return int(np.diff(self.offsets) @ self.repeats)

    @property
    def trained_tokens(self) -> int:
        """Number of tokens that are trained on, with repetitions."""
        return int(np.add.reduceat(self.mask, self.offsets[:-1], dtype=np.int64) @ self.repeats)


def render_mixture(
    items: Sequence[MixtureItem], split: Split, tokenizer: Tokenizer, row_tokens: int, seed: int, progress: Reporter
) -> RenderedConversations:
    """Renders every conversation of the items, in order, each truncated to `row_tokens`.

    Raises `BadSource` if an item has no usable conversation, and what reading its task raises.
    """
    ids, mask_bytes, lengths = array(tokenizer.dtype.char), array("B"), list[int]()
    item_sizes: list[int] = []
    total, total_truncated = Counts(), 0
    for item in items:
        before, truncated = len(lengths), 0
        counts = Counts()
        needed_tokens: list[int] = []
        conversations = load_task(item, seed, counts).conversations(split)
        for conversation in islice(conversations, item.limit or None):
            tokens, mask = render(tokenizer, conversation, NO_LIMIT)
            if 1 not in mask[:row_tokens]:
                counts.skip("answer_beyond_row", "")
                needed_tokens.append(mask.index(1) + 1)
                continue
            truncated += len(tokens) > row_tokens
            ids.fromlist(tokens[:row_tokens])
            mask_bytes.fromlist(mask[:row_tokens])
            lengths.append(min(len(tokens), row_tokens))
            if len(lengths) % REPORT_EVERY == 0:
                skipped = f", {counts.skipped.total():,} skipped" if counts.skipped else ""
                progress(len(lengths), 0, "conversations", f"{item.task} ({split}){skipped}")
        item_sizes.append(len(lengths) - before)
        if unused := [name for name in item.ignore_fields if name not in counts.ignored_fields]:
            LOG.warning("%s (%s): no row has a field %s of `ignore_fields`", item.source or item.task, split, unused)
        if losses := describe_losses(counts, truncated):
            level = logging.WARNING if counts.skipped or truncated else logging.INFO
            LOG.log(level, "%s (%s): %d conversations; %s", item.source or item.task, split, item_sizes[-1], losses)
        if not item_sizes[-1]:
            raise nothing_to_train_on(item, split, row_tokens, counts, needed_tokens)
        total, total_truncated = total + counts, total_truncated + truncated
    return RenderedConversations(
        ids=np.frombuffer(ids, tokenizer.dtype),
        mask=np.frombuffer(mask_bytes, np.uint8),
        offsets=np.concatenate(([0], np.cumsum(lengths, dtype=np.int64))),
        repeats=times_seen(items, item_sizes, seed),
        counts=total,
        truncated=total_truncated,
    )


def times_seen(items: Sequence[MixtureItem], counts: Sequence[int], seed: int) -> np.ndarray:
    """How often each conversation is seen, (conversations,) int64; `counts` are the conversations per item.

    Raises `BadConfig` if some items have a weight and others have none.
    """
    weights = [item.weight for item in items]
    if any(weights) and not all(weights):
        raise BadConfig("Some items of a mixture have a `weight` and others have none.", hint="Set it for all or none.")
    wanted = [item.repeats * count for item, count in zip(items, counts, strict=True)]
    if any(weights):
        size = min(most / weight for most, weight in zip(wanted, weights, strict=True))
        wanted = [weight * size for weight in weights]
    generator = np.random.default_rng(seed)
    seen = []
    for conversations, count in zip(wanted, counts, strict=True):
        whole, rest = divmod(max(1, round(conversations)), count)
        times = np.full(count, whole, np.int64)
        times[generator.permutation(count)[:rest]] += 1
        seen.append(times)
    return np.concatenate(seen)


def write_questions(items: Sequence[MixtureItem], seed: int, path: Path) -> dict[str, Any]:
    """Writes the evaluation questions of every item, one JSON object per line, and returns their numbers."""
    tasks: dict[str, int] = {}
    counts = Counts()
    with path.open("w", encoding="utf-8") as lines:
        for question in questions_of(items, seed, counts):
            lines.write(canonical_json(question) + "\n")
            tasks[question["task"]] = tasks.get(question["task"], 0) + 1
    numbers = {"questions": sum(tasks.values()), "questions_by_task": tasks}
    return {**numbers, "questions_skipped": counts.skipped.total()}


def questions_of(items: Sequence[MixtureItem], seed: int, counts: Counts | None = None) -> Iterator[Question]:
    """The evaluation questions of every item; what is skipped is added to `counts`.

    Raises `BadConfig` if an item has no questions, or has `repeats` or a `weight`, which questions do not use.
    """
    counts = Counts() if counts is None else counts
    for item in items:
        if item.repeats != 1 or item.weight:
            raise BadConfig(
                f"`{item.task}` in `conversations.questions` has `repeats` or a `weight`, but each question is used "
                "once.",
                hint="Remove them; `limit` uses only the first questions.",
            )
        found = False
        for question in islice(load_task(item, seed, counts).questions(), item.limit or None):
            found = True
            yield question
        if not found:
            raise BadConfig(
                f"`conversations.questions` names `{item.task}`, which has no questions.",
                hint="Use `world`, `everyday`, `spelling`, `spelling_bee`, `mmlu`, `gsm8k`, `humaneval`, `arc_easy` or "
                "`arc_challenge`.",
            )
    if counts.skipped:
        LOG.warning("questions: %s", describe_losses(counts))


TURN_ORDER = "After an optional system message, user and assistant take turns; the user begins."


def describe_losses(counts: Counts, truncated: int = 0) -> str:
    """What was skipped, truncated and ignored, in one line; empty if nothing was."""
    parts = []
    if skipped := counts.skipped.total():
        parts.append(f"{skipped:,} skipped ({_reasons(counts)})")
    if truncated:
        parts.append(f"{truncated:,} truncated at the end of a row (`conversations.sequence_len`)")
    if counts.other_split_rows:
        parts.append(f"{counts.other_split_rows:,} rows belong to the other split")
    if counts.ignored_fields:
        parts.append(f"fields ignored: {most_common(counts.ignored_fields)}")
    if counts.ignored_files:
        parts.append(f"files ignored: {most_common(counts.ignored_files)}")
    return "; ".join(parts)


def _reasons(counts: Counts) -> str:
    """`empty answer 3, the first `a.jsonl`, line 7`: the most frequent reason first."""
    parts = []
    for reason, count in counts.skipped.most_common():
        where = counts.first_skipped.get(reason)
        parts.append(f"{reason.replace('_', ' ')} {count:,}" + (f", the first {where}" if where else ""))
    return "; ".join(parts)


def most_common(counts: Counter[str], limit: int = 20) -> str:
    """`id 120, source 3`: the most frequent first."""
    parts = [f"{' '.join(name.split())} {count:,}" for name, count in counts.most_common(limit)]
    return ", ".join(parts) + (f" and {len(counts) - limit:,} more" if len(counts) > limit else "")


def nothing_to_train_on(
    item: MixtureItem, split: Split, row_tokens: int, counts: Counts, needed_tokens: Sequence[int]
) -> BadSource:
    """The error for an item without a usable conversation.

    `needed_tokens` has, for each conversation whose first answer begins after the end of a row, the row length that
    includes the answer's first token.
    """
    name = f"`{item.task}`" + (f" (`{item.source}`)" if item.source else "")
    if needed_tokens:
        return BadSource(
            f"No conversation of {name} for `conversations.{split}` fits: in {len(needed_tokens):,} of "
            f"{counts.skipped.total():,}, the first answer begins after the end of a row of {row_tokens:,} tokens.",
            hint=f"Raise `conversations.sequence_len` to at least {min(needed_tokens) - 1:,}; whole conversations need "
            "more.",
        )
    if counts.skipped:
        return BadSource(
            f"{name} has nothing to train on for `conversations.{split}`: {describe_losses(counts)}.",
            hint=TURN_ORDER if counts.skipped["roles_out_of_turn"] else "Set another `source` for the item.",
        )
    return BadSource(
        f"{name} has no conversation for `conversations.{split}`.",
        hint="Every tenth row of a file, beginning with the first, is for validation: set a larger `source`."
        if counts.other_split_rows
        else "Set another `source` for the item.",
    )
