"""Models with random weights in the shapes of the profiles, for `inference.py`."""

from __future__ import annotations

from pathlib import Path

import torch

from nanochat.model.architecture import Architecture
from nanochat.model.files import save_model
from nanochat.model.gpt import GPT
from nanochat.profiles import PROFILES
from nanochat.tokenizer.bpe import Tokenizer

PROFILE = {"demo": "demo", "d4": "cpu", "d12": "d12"}
NOISE = 0.02
"""Added to all weights: some of the initial ones are zero."""


def write_model(name: str, folder: Path) -> Path:
    """A model artifact's files. Its tokens are letters and pairs, triples … of letters, so that all text is ASCII."""
    config = PROFILES[PROFILE[name]].config
    tokenizer = _tokenizer(config.tokenizer.vocab_size)
    model = GPT(
        Architecture(
            model=config.pretrain.model, vocab_size=tokenizer.vocab_size, sequence_len=config.rows.sequence_len
        )
    )
    model.init_weights(1)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight += NOISE * torch.randn(weight.shape, generator=generator)
    save_model(folder, model)
    tokenizer.save(folder / "vocabulary.json")
    return folder


def _tokenizer(vocab_size: int) -> Tokenizer:
    letters = [ord(letter) for letter in "abcdefghijklmnopqrstuvwxyz"]
    count = vocab_size - Tokenizer.from_merges([]).vocab_size
    merges: list[tuple[int, int]] = []
    stems = letters
    while len(merges) < count:
        first = 256 + len(merges)
        merges += [(stem, letter) for stem in stems for letter in letters]
        stems = list(range(first, 256 + len(merges)))
    return Tokenizer.from_merges(merges[:count])
