"""The pairs of preference optimization, as the stage `collect_pairs` stores them, and as tokens.

train.jsonl, held_out.jsonl     a line is a pair: `prompt`, `chosen`, `rejected`
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nanochat.config.base import canonical_json
from nanochat.config.preferences import PairsConfig
from nanochat.data.file_hashes import hash_of_source
from nanochat.errors import BadSource
from nanochat.tasks.preference_pairs import Pair, read_pairs
from nanochat.tokenizer.bpe import Tokenizer
from nanochat.tokenizer.chat import render

TRAIN, HELD_OUT = "train.jsonl", "held_out.jsonl"


@dataclass(frozen=True)
class Conversation:
    """A prompt with one of its answers."""

    ids: list[int]
    mask: list[int]
    """For each id, 1 if it is in the loss: the answer with its end token, without the outputs of the calculator."""


@dataclass(frozen=True)
class RenderedPair:
    """A pair as tokens."""

    chosen: Conversation
    rejected: Conversation

    @property
    def tokens(self) -> int:
        """Tokens of the longer conversation."""
        return max(len(self.chosen.ids), len(self.rejected.ids))

    @property
    def trained_tokens(self) -> int:
        """Tokens of both answers that are in the loss."""
        return sum(self.chosen.mask) + sum(self.rejected.mask)


def with_hash(config: PairsConfig) -> PairsConfig:
    """The config with the hash of its file. Raises `BadSource` if its `sha256` is set and differs."""
    return config.model_copy(update={"sha256": hash_of_source(config)})


def collect(config: PairsConfig, out: Path) -> dict[str, Any]:
    """Writes the pairs to `out`; returns the metrics of the stage.

    A pair with the prompt of a held-out one is left out. Raises `BadSource` for another file than that of the hash, for
    a row that is not a pair, and if there are no pairs to train on or none to hold out.
    """
    with_hash(config)
    held_out, found = (list(read_pairs(config.source, split)) for split in ("validation", "train"))
    known = {canonical_json(pair.prompt) for pair in held_out}
    train = [pair for pair in found if canonical_json(pair.prompt) not in known]
    if not train:
        raise BadSource(
            f"`{config.source}` has no pairs to train on.",
            hint="Every tenth row, beginning with the first, is held out, and all pairs with its prompt are left out.",
        )
    for name, pairs in ((TRAIN, train), (HELD_OUT, held_out)):
        (out / name).write_text("".join(f"{canonical_json(asdict(pair))}\n" for pair in pairs), encoding="utf-8")
    return {"pairs": len(train), "held_out_pairs": len(held_out), "also_held_out": len(found) - len(train)}


def read(path: Path) -> list[Pair]:
    """Reads a file that `collect` wrote."""
    return [Pair(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def rendered(tokenizer: Tokenizer, pairs: Iterable[Pair], max_tokens: int) -> list[RenderedPair]:
    """The pairs as tokens, without those that have a conversation of more than `max_tokens`."""
    found = [
        RenderedPair(*(Conversation(*render(tokenizer, each, 1 << 62)) for each in pair.conversations()))
        for pair in pairs
    ]
    return [pair for pair in found if pair.tokens <= max_tokens]


def by_length(pairs: Sequence[RenderedPair], places: Iterable[int]) -> list[int]:
    """The places, longest pairs first: pairs of a micro-batch have about one length."""
    return sorted(places, key=lambda place: -pairs[place].tokens)
