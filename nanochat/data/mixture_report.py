"""Messages about what a mixture leaves out: skipped, truncated and ignored data."""

from collections import Counter
from collections.abc import Sequence

from nanochat.config.chat import MixtureItem
from nanochat.errors import BadSource
from nanochat.tasks.conversation import Split
from nanochat.tasks.fields import Counts

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
