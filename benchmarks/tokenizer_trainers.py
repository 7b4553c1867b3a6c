"""The trainers of the tokenizer benchmark, each with its documented calls."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.tokenizer_work import SEPARATOR, Peer, column, strings
from nanochat._rustbpe import PATTERNS
from nanochat.tokenizer.bpe import SPECIALS, Tokenizer

BATCH_TEXTS = 1000


class TrainOurs(Peer):
    package = "nanochat"
    calls = ("train_from_iterator",)

    def load(self, path: Path) -> Any:
        return column(path)

    def run(self, texts: Any) -> Any:
        work = self.work
        return Tokenizer.train_from_iterator(
            texts, work.vocab_size, pattern=PATTERNS[work.pattern], threads=work.threads
        )

    def ids(self, result: Any) -> np.ndarray:
        return lengths_and_bytes(token for token in result.token_bytes() if token is not None)


class TrainRustbpe(Peer):
    package = "rustbpe"
    calls = ("train_from_iterator", "train_from_iterator(buffer_size=all)")

    def run(self, texts: list[str]) -> Any:
        import rustbpe

        work = self.work
        tokenizer = rustbpe.Tokenizer()
        options = {} if work.call == "train_from_iterator" else {"buffer_size": len(texts)}
        tokenizer.train_from_iterator(
            iter(texts), work.vocab_size - len(SPECIALS), pattern=PATTERNS[work.pattern], **options
        )
        return tokenizer

    def ids(self, result: Any) -> np.ndarray:
        ranks = sorted(result.get_mergeable_ranks(), key=lambda item: item[1])
        return lengths_and_bytes(bytes(token) for token, _ in ranks)


class TrainHuggingFace(Peer):
    """It breaks ties by another rule, so the vocabulary is not comparable."""

    package = "tokenizers"
    calls = ("train_from_iterator(texts)", "train_from_iterator(batches)", "train(files)")

    def load(self, path: Path) -> Any:
        if self.work.call == "train(files)":
            return text_file(path, "tokenizers", "\n")
        return strings(path)

    def run(self, texts: Any) -> Any:
        import tokenizers
        from tokenizers import models, pre_tokenizers, trainers

        tokenizer = tokenizers.Tokenizer(models.BPE())
        split = pre_tokenizers.Split(tokenizers.Regex(PATTERNS[self.work.pattern]), "isolated")
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
        trainer = trainers.BpeTrainer(
            vocab_size=self.work.vocab_size - len(SPECIALS),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        match self.work.call:
            case "train(files)":
                tokenizer.train([texts], trainer)
            case "train_from_iterator(batches)":
                tokenizer.train_from_iterator(batches(texts), trainer)
            case _:
                tokenizer.train_from_iterator(iter(texts), trainer)
        return tokenizer


class TrainGigabpe(Peer):
    """It reads a file, in which each line is a document; the vocabulary is not comparable."""

    package = "gigabpe"
    calls = ("train_bpe",)
    separator = "\n"

    def load(self, path: Path) -> Any:
        return text_file(path, self.package, self.separator)

    def run(self, texts: str) -> Any:
        import gigabpe

        return gigabpe.train_bpe(
            [texts], self.work.vocab_size, pretokenizer="bytelevel", special_tokens=[], threads=self.work.threads
        )


class TrainGigatoken(TrainGigabpe):
    package = "gigatoken"
    separator = SEPARATOR.decode()

    def run(self, texts: str) -> Any:
        import gigatoken

        return gigatoken.train_bpe(Path(texts), self.work.vocab_size, [], separator=SEPARATOR)


def batches(texts: list[str]) -> Iterator[list[str]]:
    return (texts[first : first + BATCH_TEXTS] for first in range(0, len(texts), BATCH_TEXTS))


def text_file(path: Path, package: str, separator: str) -> str:
    """The texts of a Parquet file as a plain file."""
    text = path.with_suffix(f".{package}.txt")
    text.write_text(separator.join(strings(path)), encoding="utf-8")
    return str(text)


def lengths_and_bytes(tokens: Iterable[bytes]) -> np.ndarray:
    """An array that is equal only if all tokens are."""
    listed = list(tokens)
    return np.concatenate([[len(token) for token in listed], np.frombuffer(b"".join(listed), np.uint8)])


TRAINERS: dict[str, type[Peer]] = {
    "rustbpe": TrainRustbpe,
    "nanochat": TrainOurs,
    "tokenizers": TrainHuggingFace,
    "gigabpe": TrainGigabpe,
    "gigatoken": TrainGigatoken,
}
