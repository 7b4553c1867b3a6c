"""Small random models, exported and loaded by transformers."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from nanochat.config.training import ModelConfig
from nanochat.export.model_folder import write_network
from nanochat.model.architecture import Architecture
from nanochat.model.files import save_model
from nanochat.model.gpt import GPT
from nanochat.tokenizer.bpe import Tokenizer

T = 256
"""Context of the models; windows are 128."""
SWITCHES: dict[str, dict[str, Any]] = {
    "everything": {},
    "grouped queries": {"queries_per_kv_head": 2},
    "no value embeddings": {"value_embeddings": False},
    "no residual scalars": {"residual_scalars": False},
    "no smear": {"smear": False},
    "no backout": {"backout": False},
    "no cap": {"logit_softcap": 0.0},
    "no windows": {"window_pattern": "L"},
    "nothing": {
        "value_embeddings": False, "residual_scalars": False, "smear": False, "backout": False, "logit_softcap": 0.0,
        "window_pattern": "L",
    },
}  # fmt: skip


@cache
def tokenizer() -> Tokenizer:
    text = "the quick brown fox jumps over a lazy dog and naïve café 漢字 3.14 don't"
    words = text.split()
    return Tokenizer.train_from_iterator([" ".join(words[i:] + words[:i]) for i in range(13)], 320)


@dataclass(frozen=True)
class Exported:
    """A model, its artifact's folder, and the folder for transformers."""

    ours: GPT
    stored: Path
    folder: Path

    def load(self, **arguments: Any) -> Any:
        found = transformers.AutoModelForCausalLM.from_pretrained(self.folder, trust_remote_code=True, **arguments)
        return found.eval()

    def load_tokenizer(self, **arguments: Any) -> Any:
        return transformers.AutoTokenizer.from_pretrained(self.folder, trust_remote_code=True, **arguments)


def export_random(place: Path, dtype: Any = "fp32", *, sequence_len: int = T, **switches: Any) -> Exported:
    """A model whose every part has an effect on the logits."""
    settings = ModelConfig(**{"depth": 4, "aspect_ratio": 16, "head_dim": 16, "window_pattern": "SSSL", **switches})
    ours = GPT(Architecture(model=settings, vocab_size=tokenizer().vocab_size, sequence_len=sequence_len)).eval()
    ours.init_weights(seed=1)
    generator = torch.Generator().manual_seed(2)
    for name, weight in ours.named_parameters():
        if name in ("smear", "backout"):
            weight.data.fill_(0.4)
        elif name in ("residual_L", "first_L"):
            weight.data.add_(0.2 * torch.randn(weight.shape, generator=generator))
        elif "gate" in name:
            weight.data.copy_(torch.randn(weight.shape, generator=generator))
        elif name == "head.weight" or name.endswith(("out.weight", "down.weight")):
            weight.data.copy_(0.1 * torch.randn(weight.shape, generator=generator))
    stored, folder = place / "stored", place / f"export-{uuid.uuid4().hex[:8]}"
    save_model(stored, ours)
    tokenizer().save(stored / "vocabulary.json")
    folder.mkdir()
    write_network(stored, folder, dtype)
    return Exported(ours, stored, folder)


def random_ids(rows: int, length: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, tokenizer().vocab_size, (rows, length), generator=generator)


@torch.no_grad()
def greedy(model: GPT, prompt: list[int], count: int) -> list[int]:
    """The most likely ids, each from a whole forward pass."""
    ids = list(prompt)
    for _ in range(count):
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    return ids[len(prompt) :]
