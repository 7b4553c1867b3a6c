"""Trains the merges of a vocabulary, and checks the arguments."""

import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from nanochat import _rustbpe
from nanochat.errors import BadConfig, DamagedArtifact
from nanochat.tokenizer.special_tokens import number_special_tokens
from nanochat.tokenizer.text_batches import Texts, feed

BYTES = 256
MAX_TOKENS = (1 << 21) - 1
"""Bytes and merges that a vocabulary can have."""
MAX_THREADS = 1 << 16


def train_merges(
    texts: Texts | Iterable[Texts],
    vocab_size: int,
    special_tokens: Sequence[str],
    pattern: str,
    threads: int,
    progress: Callable[[int, int], None] | None,
) -> list[tuple[int, int]]:
    """The merges of a vocabulary with `vocab_size` ids, as `Tokenizer.train_from_iterator` describes."""
    try:
        specials = len(number_special_tokens(special_tokens, BYTES))
    except DamagedArtifact as error:
        raise BadConfig(error.message, hint=error.hint) from error
    wanted = _whole_number(vocab_size, "tokenizer.vocab_size") - BYTES - specials
    if wanted < 0:
        raise BadConfig(
            f"`tokenizer.vocab_size` = {vocab_size} is too small for the bytes and special tokens.",
            hint=f"Set at least {BYTES + specials}.",
        )
    if wanted + BYTES > MAX_TOKENS:
        raise BadConfig(
            f"`tokenizer.vocab_size` = {vocab_size} is more than a vocabulary can have.",
            hint=f"Set at most {MAX_TOKENS + specials:,}.",
        )
    try:
        trainer = _rustbpe.Trainer(thread_count(threads), pattern)
    except ValueError as error:
        raise BadConfig(f"`{pattern:.200}` cannot split text: {error}.") from error

    def checked(add: Callable[[Any], None]) -> Callable[[Any], None]:
        def add_batch(batch: Any) -> None:
            try:
                add(batch)
            except ValueError as error:  # the regex engine reached a limit
                raise BadConfig(f"`{pattern:.200}` cannot split text: {error}.") from error

        return add_batch

    feed(texts, checked(trainer.add), checked(trainer.add_buffers))
    merges = trainer.merges(wanted, (lambda done: progress(done, wanted)) if progress else None)
    if len(merges) < wanted:
        raise BadConfig(
            f"`tokenizer.vocab_size` = {vocab_size:,}: this text has only {len(merges):,} merges.",
            hint=f"Set at most {BYTES + specials + len(merges):,}, or add text.",
        )
    return merges


def thread_count(threads: int) -> int:
    """The number of threads for the crate. Raises `BadConfig` if it is negative or not a whole number."""
    number = _whole_number(threads, "threads")
    if number < 0:
        raise BadConfig(f"`threads` = {number} is negative.", hint="0 uses one thread per core.")
    return min(number, MAX_THREADS)


def _whole_number(value: object, field: str) -> int:
    try:
        if not isinstance(value, bool):
            return operator.index(value)  # pyright: ignore[reportArgumentType]
    except TypeError:
        pass
    raise BadConfig(f"`{field}` is {value!r:.60}, not a whole number.")
