"""Conversations to rows: a mixture of tasks, rendered with a loss mask, shuffled, packed best fit and padded.

1. every conversation of the mixture becomes ids and a mask (1 = the token is the assistant's, to be learnt);
2. how often each is seen follows from the items' weights and epochs; their order is a permutation that depends on the
   seed alone;
3. a plan puts whole conversations into rows of T+1 tokens; what stays free at a row's end is BOS with mask 0.

A conversation is never split over rows; one that is longer than a row is cut. What is cut, skipped or ignored is
counted, and logged when an item is read.
"""

from __future__ import annotations

import logging
import os
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from nanochat._rustbpe import plan_padded
from nanochat.config.chat import ConversationsConfig, MixtureItem
from nanochat.data.rows import RowWriter
from nanochat.errors import BadConfig, BadSource
from nanochat.events import Reporter
from nanochat.sources.file_names import CHAT_FORMATS
from nanochat.sources.local_files import is_local, list_local, local_path
from nanochat.store.manifest import digest_of_files, measure_file
from nanochat.tasks.conversation import Question, Split
from nanochat.tasks.fields import Counts
from nanochat.tasks.registry import load_task
from nanochat.tokenizer.bpe import Tokenizer
from nanochat.tokenizer.chat import render

OPEN_ROWS = 100
"""Rows with space that are kept open; a conversation goes where it leaves the least."""
BLOCK_ROWS = 4096
"""Rows filled in memory at once."""
REPORT_EVERY = 1000
NO_LIMIT = 1 << 62
TURNS = "After an optional system message, user and assistant take turns; the user begins."
LOG = logging.getLogger("nanochat.conversations")


def with_file_hashes(config: ConversationsConfig) -> ConversationsConfig:
    """The same, with the SHA-256 of what its local sources hold now.

    Raises `BadSource` when one cannot be read, or is not what the item's `sha256` says.
    """
    filled = {
        name: tuple(item.model_copy(update={"sha256": _sha256(item)}) for item in items)
        for name, items in (("train", config.train), ("validation", config.validation), ("questions", config.questions))
    }
    return config.model_copy(update=filled)


def _sha256(item: MixtureItem) -> str:
    """Of a file, or of the names and bytes in a folder; the item's own when nothing is there, which the stage reports.

    A single file may also be named by the sum that `sha256sum` prints.
    """
    if not item.source or not is_local(item.source):
        return item.sha256
    place = local_path(item.source)
    try:
        if not place.exists():
            return item.sha256
        if place.is_file():
            files = {".": place}
        elif item.task == "conversations":
            files = {each.path: each.file for each in list_local(place, CHAT_FORMATS).files}
        else:
            files = {file.relative_to(place).as_posix(): file for file in _files_below(place)}
        measured = [(name, *measure_file(file)) for name, file in files.items()]
    except OSError as error:
        raise BadSource(f"`{error.filename or place}` cannot be read: {error.strerror or error}.") from error
    found = digest_of_files(measured)
    if item.sha256 and item.sha256 not in (found, *(sha256 for name, _, sha256 in measured if name == ".")):
        raise BadSource(
            f"`{item.source}` is not what the item's `sha256` says ({item.sha256[:12]}…, found {found[:12]}…).",
            hint="Put the file back, or remove `sha256` from the item to take what is there.",
        )
    return item.sha256 or found


def _files_below(place: Path) -> list[Path]:
    """Every file of a folder, linked folders followed once. Raises `OSError` when a part cannot be listed."""

    def failed(error: OSError) -> None:
        raise error

    found: list[Path] = []
    seen = {place.resolve(), *place.resolve().parents}
    for folder, folders, names in os.walk(place, onerror=failed, followlinks=True):
        targets = {name: Path(folder, name).resolve() for name in folders}
        folders[:] = [name for name in folders if targets[name] not in seen]
        seen.update(targets.values())
        found += [Path(folder, name) for name in names]
    return sorted(found)


@dataclass(frozen=True)
class Rendered:
    """Conversations as ids, one after the other: conversation i is `ids[offsets[i] : offsets[i + 1]]`."""

    ids: np.ndarray
    """(N,) uint16 or uint32."""
    mask: np.ndarray
    """(N,) uint8, 1 where the token is to be learnt."""
    offsets: np.ndarray
    """(conversations + 1,) int64."""
    repeats: np.ndarray
    """(conversations,) how often each is seen."""
    counts: Counts
    """What is not among them, and what was not read."""
    cut: int
    """Conversations that lost their end, because they are longer than a row."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def seen_tokens(self) -> int:
        """Tokens in all, repeats counted."""
        return int(np.diff(self.offsets) @ self.repeats)

    @property
    def learnt_tokens(self) -> int:
        """Those that are the assistant's."""
        return int(np.add.reduceat(self.mask, self.offsets[:-1], dtype=np.int64) @ self.repeats)


def render_mixture(
    items: Sequence[MixtureItem],
    split: Split,
    tokenizer: Tokenizer,
    row_tokens: int,
    seed: int,
    progress: Reporter,
) -> Rendered:
    """Every conversation of the items, in their order, each cut to a row.

    Raises `BadSource` when an item has no conversation to learn from, and what reading its task raises.
    """
    ids, mask_bytes, lengths = array(tokenizer.dtype.char), array("B"), list[int]()
    item_sizes: list[int] = []
    total, total_cut = Counts(), 0
    for item in items:
        before, cut = len(lengths), 0
        counts = Counts()
        needed_tokens: list[int] = []  # of those that are left out: up to the first token to be learnt
        conversations = load_task(item, seed, counts).conversations(split)
        for conversation in islice(conversations, item.limit or None):
            tokens, mask = render(tokenizer, conversation, NO_LIMIT)
            if 1 not in mask[:row_tokens]:
                counts.skip("answer_beyond_row", "")
                needed_tokens.append(mask.index(1) + 1)
                continue
            cut += len(tokens) > row_tokens
            ids.fromlist(tokens[:row_tokens])
            mask_bytes.fromlist(mask[:row_tokens])
            lengths.append(min(len(tokens), row_tokens))
            if len(lengths) % REPORT_EVERY == 0:
                skipped = f", {counts.skipped.total():,} skipped" if counts.skipped else ""
                progress(len(lengths), 0, "conversations", f"{item.task} ({split}){skipped}")
        item_sizes.append(len(lengths) - before)
        if unused := [name for name in item.ignore_fields if name not in counts.ignored_fields]:
            LOG.warning("%s (%s): no row has a field %s of `ignore_fields`", item.source or item.task, split, unused)
        if losses := in_words(counts, cut):
            level = logging.WARNING if counts.skipped or cut else logging.INFO
            LOG.log(level, "%s (%s): %d conversations; %s", item.source or item.task, split, item_sizes[-1], losses)
        if not item_sizes[-1]:
            raise _nothing_left(item, split, row_tokens, counts, needed_tokens)
        total, total_cut = total + counts, total_cut + cut
    offsets = np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)))
    times = times_seen(items, item_sizes, seed)
    seen = np.frombuffer(ids, tokenizer.dtype), np.frombuffer(mask_bytes, np.uint8)
    return Rendered(*seen, offsets, times, total, total_cut)


def in_words(counts: Counts, cut: int = 0) -> str:
    """What was skipped, cut and ignored, in a line; empty if nothing was."""
    said = []
    if skipped := counts.skipped.total():
        said.append(f"{skipped:,} skipped ({_reasons(counts)})")
    if cut:
        said.append(f"{cut:,} cut at the end of a row (`conversations.sequence_len`)")
    if counts.other_split_rows:
        said.append(f"{counts.other_split_rows:,} rows belong to the other split")
    if counts.ignored_fields:
        said.append(f"fields ignored: {listed(counts.ignored_fields)}")
    if counts.ignored_files:
        said.append(f"files ignored: {listed(counts.ignored_files)}")
    return "; ".join(said)


def _reasons(counts: Counts) -> str:
    """`empty answer 3, the first `a.jsonl`, line 7`: the most frequent reason first."""
    said = []
    for reason, count in counts.skipped.most_common():
        where = counts.first_skipped.get(reason)
        said.append(f"{reason.replace('_', ' ')} {count:,}" + (f", the first {where}" if where else ""))
    return "; ".join(said)


def listed(counts: Counter[str], most: int = 20) -> str:
    """`id 120, source 3`: the most frequent first."""
    said = [f"{' '.join(name.split())} {count:,}" for name, count in counts.most_common(most)]
    return ", ".join(said) + (f" and {len(counts) - most:,} more" if len(counts) > most else "")


def _nothing_left(
    item: MixtureItem, split: Split, row_tokens: int, counts: Counts, needed_tokens: Sequence[int]
) -> BadSource:
    """Why an item has no conversation to learn from."""
    of = f"`{item.task}`" + (f" (`{item.source}`)" if item.source else "")
    if needed_tokens:
        return BadSource(
            f"No conversation of {of} for `conversations.{split}` fits: in {len(needed_tokens):,} of "
            f"{counts.skipped.total():,}, the first answer begins beyond the row of {row_tokens:,} tokens.",
            hint=f"Raise `conversations.sequence_len`, to {min(needed_tokens) - 1:,} at least; to learn whole "
            "conversations, further.",
        )
    if counts.skipped:
        return BadSource(
            f"{of} has nothing to learn for `conversations.{split}`: {in_words(counts)}.",
            hint=TURNS if counts.skipped["roles_out_of_turn"] else "Give the item another `source`.",
        )
    return BadSource(
        f"{of} has no conversation for `conversations.{split}`.",
        hint="Every tenth row of a file, beginning with the first, is for validation: give the item a larger `source`."
        if counts.other_split_rows
        else "Give the item another `source`.",
    )


def times_seen(items: Sequence[MixtureItem], counts: Sequence[int], seed: int) -> np.ndarray:
    """How often each conversation is seen (N,) int64, items of `counts` conversations one after the other.

    Raises `BadConfig` when some items have weights and others have none.
    """
    weights = [item.weight for item in items]
    if any(weights) and not all(weights):
        raise BadConfig(
            "Some items of a mixture have a `weight` and others have none.", hint="Give each of them one, or none."
        )
    wanted = [item.repeats * count for item, count in zip(items, counts, strict=True)]
    if any(weights):
        size = min(most / weight for most, weight in zip(wanted, weights, strict=True))
        wanted = [weight * size for weight in weights]
    dice = np.random.default_rng(seed)
    seen = []
    for conversations, count in zip(wanted, counts, strict=True):
        whole, rest = divmod(max(1, round(conversations)), count)
        times = np.full(count, whole, np.int64)
        times[dice.permutation(count)[:rest]] += 1
        seen.append(times)
    return np.concatenate(seen)


def write_rows(rendered: Rendered, out: Path, split: Split, row_tokens: int, bos: int, seed: int) -> int:
    """Shuffles and packs the conversations into the blocks of rows (T+1) of a split, and returns how many rows."""
    order = np.repeat(np.arange(len(rendered)), rendered.repeats)
    order = np.random.default_rng(seed).permutation(order)
    # (N,) row of each conversation, (N,) where it begins in it
    row_of, start_of, rows = plan_padded(np.diff(rendered.offsets)[order], row_tokens, OPEN_ROWS)
    by_row = np.argsort(row_of, kind="stable")
    with RowWriter(out, split, row_tokens, rendered.ids.dtype, masked=True) as writer:
        for first in range(0, rows, BLOCK_ROWS):
            block = min(BLOCK_ROWS, rows - first)
            ids = np.full((block, row_tokens), bos, rendered.ids.dtype)
            mask = np.zeros((block, row_tokens), np.uint8)
            begin, end = np.searchsorted(row_of[by_row], (first, first + block))
            for placed in by_row[begin:end]:
                taken = slice(*rendered.offsets[order[placed] : order[placed] + 2])
                row, start = row_of[placed] - first, start_of[placed]
                ids[row, start : start + taken.stop - taken.start] = rendered.ids[taken]
                mask[row, start : start + taken.stop - taken.start] = rendered.mask[taken]
            writer.write(ids, mask)
    return rows


def questions_of(items: Sequence[MixtureItem], seed: int, counts: Counts | None = None) -> Iterator[Question]:
    """The questions of every item; what is left out is added to `counts`.

    Raises `BadConfig` when an item has none, or has a share of the mixture, which questions do not have.
    """
    counts = Counts() if counts is None else counts
    for item in items:
        if item.repeats != 1 or item.weight:
            raise BadConfig(
                f"`{item.task}` in `conversations.questions` has `repeats` or a `weight`; each question is asked once.",
                hint="Remove them; `limit` takes only the first so many questions.",
            )
        found = False
        for question in islice(load_task(item, seed, counts).questions(), item.limit or None):
            found = True
            yield question
        if not found:
            raise BadConfig(
                f"`conversations.questions` asks for `{item.task}`, which has no questions.",
                hint="Take `world`, `spelling`, `mmlu`, `gsm8k`, `arc_easy` or `arc_challenge`.",
            )
    if counts.skipped:
        LOG.warning("questions: %s", in_words(counts))
