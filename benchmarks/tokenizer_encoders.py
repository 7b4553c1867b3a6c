"""The encoders of the tokenizer benchmark, each with its documented calls for many texts."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from benchmarks.tokenizer_work import SEPARATOR, Peer, Work, column, flat, strings
from nanochat._rustbpe import PATTERNS
from nanochat.data.token_shards import TokenFile, write_tokens
from nanochat.tokenizer.bpe import SPECIALS, Tokenizer

R = TypeVar("R")
SLICE_TEXTS = 64


def in_a_loop(encode: Callable[[str], R], texts: list[str], threads: int) -> list[R]:
    """Calls `encode` for each text; with several threads, each takes 64 texts at a time."""
    if threads == 1:
        return [encode(text) for text in texts]
    slices = [texts[first : first + SLICE_TEXTS] for first in range(0, len(texts), SLICE_TEXTS)]
    with ThreadPoolExecutor(threads) as pool:
        return list(chain.from_iterable(pool.map(lambda part: [encode(text) for text in part], slices)))


class Tiktoken(Peer):
    package = "tiktoken"
    calls = ("encode_ordinary in a loop", "encode_ordinary_batch", "encode_to_numpy in a loop")

    def __init__(self, work: Work) -> None:
        super().__init__(work)
        import tiktoken
        from tiktoken.load import load_tiktoken_bpe

        ranks = load_tiktoken_bpe(str(work.vocabulary(".tiktoken")))
        self._encoding = tiktoken.Encoding(
            "peer", pat_str=PATTERNS[work.pattern], mergeable_ranks=ranks, special_tokens={}
        )

    def run(self, texts: list[str]) -> Any:
        encoding, threads = self._encoding, self.work.threads
        match self.work.call:
            case "encode_ordinary_batch":
                return encoding.encode_ordinary_batch(texts, num_threads=threads)
            case "encode_ordinary in a loop":
                return in_a_loop(encoding.encode_ordinary, texts, threads)
            case _:
                return in_a_loop(lambda text: encoding.encode_to_numpy(text, disallowed_special=()), texts, threads)

    def ids(self, result: Any) -> np.ndarray:
        return np.concatenate(result) if self.work.call == "encode_to_numpy in a loop" else flat(result)


class Ours(Peer):
    """Arrow strings to one array of ids."""

    package = "nanochat"
    calls = ("encode_batch",)

    def __init__(self, work: Work) -> None:
        super().__init__(work)
        self._tokenizer = Tokenizer.load(work.vocabulary(".json"))
        self._out: np.ndarray | None = None

    def load(self, path: Path) -> Any:
        return column(path)

    def run(self, texts: Any) -> Any:
        return self._tokenizer.encode_batch(texts, threads=self.work.threads, out=self._out)

    def ids(self, result: Any) -> np.ndarray:
        return result[0]


class OursFromStrings(Ours):
    """The same from a list of str, which is what tiktoken takes."""

    def load(self, path: Path) -> Any:
        return strings(path)


class OursInPlace(Ours):
    """The same into one buffer that is reused, so that its memory is mapped already."""

    def __init__(self, work: Work) -> None:
        super().__init__(work)
        self._out = np.ones(64 << 20, self._tokenizer.dtype)


class OursFromParquet(Ours):
    """Decompressing and decoding the text is part of the measured time."""

    calls = ("encode_parquet",)

    def load(self, path: Path) -> Any:
        return path

    def run(self, texts: Path) -> Any:
        return [batch.ids for batch in self._tokenizer.encode_parquet(texts, threads=self.work.threads)]

    def ids(self, result: Any) -> np.ndarray:
        return np.concatenate(result)


class OursToParquet(OursFromParquet):
    """From a Parquet file of texts to one of tokens: decoding, encoding, compressing."""

    calls = ("write_tokens",)

    def run(self, texts: Path) -> Any:
        out = texts.with_suffix(f".{os.getpid()}.tokens")
        write_tokens(texts, out, self._tokenizer, 1 << 20, self.work.threads)
        return out

    def ids(self, result: Any) -> np.ndarray:
        found = np.concatenate([ids for ids, _ in TokenFile(result).row_groups()])
        result.unlink()
        return found[found != self._tokenizer.bos]


class HuggingFace(Peer):
    package = "tokenizers"
    calls = ("encode_batch_fast", "encode_batch")

    def __init__(self, work: Work) -> None:
        super().__init__(work)
        import tokenizers

        self._tokenizer = tokenizers.Tokenizer.from_file(str(work.vocabulary(".hf.json")))
        self._tokenizer.encode_special_tokens = True

    def run(self, texts: list[str]) -> Any:
        return getattr(self._tokenizer, self.work.call)(texts, add_special_tokens=False)

    def ids(self, result: Any) -> np.ndarray:
        return flat(one.ids for one in result)


class Fastokens(Peer):
    package = "fastokens"
    calls = ("encode_batch_flat", "encode_batch", "encode_ordinary in a loop")

    def __init__(self, work: Work) -> None:
        super().__init__(work)
        import fastokens

        self._tokenizer = fastokens.Tokenizer.from_file(str(work.vocabulary(".hf.json")))

    def run(self, texts: list[str]) -> Any:
        if self.work.call == "encode_ordinary in a loop":
            return in_a_loop(self._tokenizer.encode_ordinary, texts, self.work.threads)
        return getattr(self._tokenizer, self.work.call)(texts, split_special_tokens=True)

    def ids(self, result: Any) -> np.ndarray:
        if self.work.call == "encode_batch_flat":
            return np.frombuffer(result[0], np.uint32)
        return flat(getattr(one, "ids", one) for one in result)


class Rustbpe(Peer):
    """It reads no vocabulary, so it trains the same one again."""

    package = "rustbpe"
    calls = ("batch_encode", "encode in a loop")

    def __init__(self, work: Work) -> None:
        super().__init__(work)
        import rustbpe

        self._tokenizer = rustbpe.Tokenizer()
        self._tokenizer.train_from_iterator(
            iter(strings(Path(work.train_text))), work.vocab_size - len(SPECIALS), pattern=PATTERNS[work.pattern]
        )

    def run(self, texts: list[str]) -> Any:
        if self.work.call == "batch_encode":
            return self._tokenizer.batch_encode(texts)
        return in_a_loop(self._tokenizer.encode, texts, self.work.threads)

    def ids(self, result: Any) -> np.ndarray:
        return flat(result)


class Gigatoken(Peer):
    package = "gigatoken"
    calls = ("encode_batch(BytesSource)", "encode_batch(list)", "encode_batch_list(BytesSource)")

    def __init__(self, work: Work) -> None:
        super().__init__(work)
        import gigatoken

        name = {"cl100k": "gpt4"}.get(work.pattern, work.pattern)
        self._tokenizer = gigatoken.Tokenizer.from_tiktoken(work.vocabulary(".tiktoken"), pretokenizer=name)
        self._parallel = work.threads > 1

    def load(self, path: Path) -> Any:
        import gigatoken

        texts = strings(path)
        if self.work.call == "encode_batch(list)":
            return texts
        return gigatoken.BytesSource(SEPARATOR.join(text.encode() for text in texts), separator=SEPARATOR)

    def run(self, texts: Any) -> Any:
        as_list = self.work.call == "encode_batch_list(BytesSource)"
        encode = self._tokenizer.encode_batch_list if as_list else self._tokenizer.encode_batch
        return encode(texts, parallel=self._parallel)

    def ids(self, result: Any) -> np.ndarray:
        if isinstance(result, list):
            return flat(result)
        import awkward

        return awkward.to_numpy(awkward.flatten(result))


class GigatokenFromParquet(Gigatoken):
    calls = ("encode_files",)

    def load(self, path: Path) -> Any:
        import gigatoken

        return gigatoken.ParquetFileSource([path])

    def run(self, texts: Any) -> Any:
        return self._tokenizer.encode_files(texts, parallel=self._parallel)


ENCODERS: dict[str, type[Peer]] = {
    "tiktoken": Tiktoken,
    "nanochat": Ours,
    "nanochat, from str": OursFromStrings,
    "nanochat, out=": OursInPlace,
    "nanochat, Parquet → ids": OursFromParquet,
    "nanochat, Parquet → Parquet": OursToParquet,
    "fastokens": Fastokens,
    "tokenizers": HuggingFace,
    "rustbpe": Rustbpe,
    "gigatoken": Gigatoken,
    "gigatoken, Parquet → ids": GigatokenFromParquet,
}
