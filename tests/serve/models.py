"""Models for the server's tests: each token decides the next one, so that answers are known; in a real store."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from pathlib import Path

import torch

from nanochat.config.training import ModelConfig
from nanochat.model.architecture import Architecture
from nanochat.model.files import save_model
from nanochat.model.gpt import GPT
from nanochat.store.manifest import Manifest
from nanochat.store.producer import describe_producer
from nanochat.store.store import Store
from nanochat.tokenizer.bpe import Tokenizer

TOKENIZER = Tokenizer.from_merges([])
"""One token per byte, and the special tokens."""
ANSWER = "ok ď😀!"
"""What the model answers: no byte occurs twice."""
CONTEXT = 256
MARGIN = 30
"""Logit of a successor, before the cap of 15; those of all other tokens are about 0."""


def ids(*words: str) -> list[int]:
    """Ids of texts and of the names of special tokens."""
    return [
        token
        for word in words
        for token in ([TOKENIZER.special(word)] if word.startswith("<|") else TOKENIZER.encode(word))
    ]


CHAINS = (
    ids("<|assistant_start|>", ANSWER, "<|assistant_end|>"),
    ids("=", "<|python_start|>", "3+4", "<|python_end|>"),  # after a message that ends with `=`
    ids("<|output_end|>", "ABCD", "<|assistant_end|>"),
    ids("a", "b", "c", "d", "e", "a"),  # has no end
    ids("Z", "<|user_start|>"),
)


def chain_model(chains: tuple[list[int], ...] = CHAINS, *, context_tokens: int = CONTEXT, width: int = 128) -> GPT:
    """A model in which a token has the successor that the chains have, also when it is sampled at temperature 1.

    At initialization, attention and MLP add nothing: the logits are a function of the last token.
    """
    options = ModelConfig(depth=1, aspect_ratio=width, head_dim=16, window_pattern="L")
    model = GPT(Architecture(model=options, vocab_size=TOKENIZER.vocab_size, sequence_len=context_tokens))
    model.init_weights(1)
    pairs = [pair for chain in chains for pair in itertools.pairwise(chain)]
    tokens = sorted({token for token, _ in pairs})
    with torch.no_grad():
        embeddings = torch.nn.functional.rms_norm(model.embedding.weight[tokens].float(), (width,))
        directions = torch.linalg.pinv(embeddings).T  # each is at right angles to all other tokens' embeddings
        for token, successor in pairs:
            model.head.weight[successor] += MARGIN * directions[tokens.index(token)]
    return model.eval()


def publish(store: Store, folder: Path, model: GPT, *, key: str, alias: str = "") -> Manifest:
    """Publishes a model as the stage `sft` does, and moves an alias to it."""
    save_model(folder, model)
    TOKENIZER.save(folder / "vocabulary.json")
    manifest = store.publish(
        folder, stage="sft", stage_version=1, kind="Model", key=key, config={}, inputs={}, metrics={},
        producer=describe_producer(datetime.now(UTC)),
    )  # fmt: skip
    if alias:
        store.set_alias(alias, manifest)
    return manifest
