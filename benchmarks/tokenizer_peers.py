"""Who takes part in the benchmark of tokenizers, and the process in which one of them works.

    python -m benchmarks.tokenizer_peers '{"task": "encode", "peer": "tiktoken", …}'

Every peer gets the call that it is fastest with, and its text in the form that it likes best. The process prints a line
of JSON when it is ready; then it does its work on each file that it is sent a line about, and prints what it took.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nanochat._rustbpe import PATTERNS
from nanochat.data.token_shards import TokenFile, write_tokens
from nanochat.tokenizer.bpe import SPECIALS, Tokenizer


@dataclass(frozen=True)
class Work:
    """What a process is started for."""

    task: str
    """`encode`, `train`, or `memory` (training again, but watched)."""
    peer: str
    pattern: str
    """Name of a split pattern."""
    threads: int
    vocab_size: int
    folder: str
    """Where the files of vocabularies are, by name of the pattern."""
    learnt_from: str
    """The file that the vocabularies were learnt from."""
    warm_up: str
    """A small file to encode before anything is measured, so that what is loaded late is there."""

    def vocabulary(self, suffix: str) -> Path:
        return Path(self.folder) / f"{self.pattern}{suffix}"

    def to_json(self) -> str:
        return json.dumps(asdict(self))


SEPARATOR = b"<|endoftext|>"
"""Between documents, for peers that want them in one buffer."""


def column(path: Path) -> pa.ChunkedArray:
    return pq.read_table(path, columns=["text"]).column(0)


def strings(path: Path) -> list[str]:
    return column(path).to_pylist()


def flat(rows: Iterable[Sequence[int]]) -> np.ndarray:
    return np.fromiter(chain.from_iterable(rows), np.uint32)


# --- encoders: `load` a file (not timed), `run` (timed), `ids` (N,) of all texts on end (not timed) -------------------


class Tiktoken:
    package = "tiktoken"

    def __init__(self, work: Work) -> None:
        import tiktoken
        from tiktoken.load import load_tiktoken_bpe

        ranks = load_tiktoken_bpe(str(work.vocabulary(".tiktoken")))
        self._encoding = tiktoken.Encoding(
            "peer", pat_str=PATTERNS[work.pattern], mergeable_ranks=ranks, special_tokens={}
        )
        self._threads = work.threads

    load = staticmethod(strings)
    ids = staticmethod(flat)

    def run(self, texts: list[str]) -> list[list[int]]:
        return self._encoding.encode_ordinary_batch(texts, num_threads=self._threads)


class Ours:
    package = "nanochat"

    def __init__(self, work: Work) -> None:
        self._tokenizer = Tokenizer.load(work.vocabulary(".json"))
        self._threads = work.threads
        self._out: np.ndarray | None = None

    load = staticmethod(column)

    def run(self, texts: Any) -> tuple[np.ndarray, np.ndarray]:
        return self._tokenizer.encode_batch(texts, threads=self._threads, out=self._out)

    def ids(self, result: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        return result[0]


class OursFromStrings(Ours):
    load = staticmethod(strings)


class OursInPlace(Ours):
    """Writes into one buffer again and again, so that its pages are there already."""

    def __init__(self, work: Work) -> None:
        super().__init__(work)
        self._out = np.ones(64 << 20, self._tokenizer.dtype)


class OursFromParquet(Ours):
    """The text is decompressed and decoded within the measured time; ids come batch by batch."""

    def load(self, path: Path) -> Path:
        return path

    def run(self, texts: Path) -> list[np.ndarray]:
        return [batch.ids for batch in self._tokenizer.encode_parquet(texts, threads=self._threads)]

    def ids(self, result: list[np.ndarray]) -> np.ndarray:
        return np.concatenate(result)


class OursToParquet(Ours):
    """From a Parquet file of texts to one of tokens: decoding, encoding, compressing."""

    def load(self, path: Path) -> Path:
        return path

    def run(self, texts: Path) -> Path:
        out = texts.with_suffix(f".{os.getpid()}.tokens")
        write_tokens(texts, out, self._tokenizer, 1 << 20, self._threads)
        return out

    def ids(self, result: Path) -> np.ndarray:
        found = np.concatenate([ids for ids, _ in TokenFile(result).row_groups()])
        result.unlink()
        return found[found != self._tokenizer.bos]


class HuggingFace:
    package = "tokenizers"

    def __init__(self, work: Work) -> None:
        import tokenizers

        self._tokenizer = tokenizers.Tokenizer.from_file(str(work.vocabulary(".hf.json")))
        self._tokenizer.encode_special_tokens = True

    load = staticmethod(strings)

    def run(self, texts: list[str]) -> list[Any]:
        return self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)

    def ids(self, result: list[Any]) -> np.ndarray:
        return flat(one.ids for one in result)


class Fastokens:
    package = "fastokens"

    def __init__(self, work: Work) -> None:
        import fastokens

        self._tokenizer = fastokens.Tokenizer.from_file(str(work.vocabulary(".hf.json")))

    load = staticmethod(strings)

    def run(self, texts: list[str]) -> tuple[bytes, bytes]:
        return self._tokenizer.encode_batch_flat(texts, split_special_tokens=True)

    def ids(self, result: tuple[bytes, bytes]) -> np.ndarray:
        return np.frombuffer(result[0], np.uint32)


class Rustbpe:
    """It can read no vocabulary, so it learns the same one again."""

    package = "rustbpe"

    def __init__(self, work: Work) -> None:
        import rustbpe

        self._tokenizer = rustbpe.Tokenizer()
        self._tokenizer.train_from_iterator(
            iter(strings(Path(work.learnt_from))), work.vocab_size - len(SPECIALS), pattern=PATTERNS[work.pattern]
        )

    load = staticmethod(strings)
    ids = staticmethod(flat)

    def run(self, texts: list[str]) -> list[list[int]]:
        return self._tokenizer.batch_encode(texts)


class Gigatoken:
    package = "gigatoken"

    def __init__(self, work: Work) -> None:
        import gigatoken

        name = {"cl100k": "gpt4"}.get(work.pattern, work.pattern)
        self._tokenizer = gigatoken.Tokenizer.from_tiktoken(work.vocabulary(".tiktoken"), pretokenizer=name)
        self._parallel = work.threads > 1

    def load(self, path: Path) -> Any:
        import gigatoken

        joined = SEPARATOR.join(text.encode() for text in strings(path))
        return gigatoken.BytesSource(joined, separator=SEPARATOR)

    def run(self, texts: Any) -> Any:
        return self._tokenizer.encode_batch(texts, parallel=self._parallel)

    def ids(self, result: Any) -> np.ndarray:
        import awkward

        return awkward.to_numpy(awkward.flatten(result))


class GigatokenFromParquet(Gigatoken):
    def load(self, path: Path) -> Any:
        import gigatoken

        return gigatoken.ParquetFileSource([path])

    def run(self, texts: Any) -> Any:
        return self._tokenizer.encode_files(texts, parallel=self._parallel)


# --- trainers: `load` (not timed), `run` (timed), `ids`: bytes of the tokens in order, or None ------------------------


class TrainOurs:
    package = "nanochat"

    def __init__(self, work: Work) -> None:
        self._work = work

    load = staticmethod(column)

    def run(self, texts: Any) -> Any:
        work = self._work
        return Tokenizer.train_from_iterator(
            texts, work.vocab_size, pattern=PATTERNS[work.pattern], threads=work.threads
        )

    def ids(self, result: Any) -> np.ndarray:
        return lengths_and_bytes(token for token in result.token_bytes() if token is not None)


class TrainRustbpe:
    package = "rustbpe"

    def __init__(self, work: Work) -> None:
        self._size, self._pattern = work.vocab_size - len(SPECIALS), PATTERNS[work.pattern]

    load = staticmethod(strings)

    def run(self, texts: list[str]) -> Any:
        import rustbpe

        tokenizer = rustbpe.Tokenizer()
        tokenizer.train_from_iterator(iter(texts), self._size, pattern=self._pattern)
        return tokenizer

    def ids(self, result: Any) -> np.ndarray:
        ranks = sorted(result.get_mergeable_ranks(), key=lambda item: item[1])
        return lengths_and_bytes(bytes(token) for token, _ in ranks)


class TrainHuggingFace:
    package = "tokenizers"

    def __init__(self, work: Work) -> None:
        self._size, self._pattern = work.vocab_size - len(SPECIALS), PATTERNS[work.pattern]

    load = staticmethod(strings)

    def run(self, texts: list[str]) -> Any:
        import tokenizers
        from tokenizers import models, pre_tokenizers, trainers

        tokenizer = tokenizers.Tokenizer(models.BPE())
        split = pre_tokenizers.Split(tokenizers.Regex(self._pattern), "isolated")
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
        trainer = trainers.BpeTrainer(
            vocab_size=self._size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
        )
        tokenizer.train_from_iterator(iter(texts), trainer)
        return tokenizer

    def ids(self, result: Any) -> None:
        """Ties are broken by another rule, so the vocabulary is another."""


class TrainGigabpe:
    """Reads a file itself; documents are lines there."""

    package = "gigabpe"
    separator = "\n"

    def __init__(self, work: Work) -> None:
        self._work = work

    def load(self, path: Path) -> str:
        text = path.with_suffix(f".{self.package}.txt")
        text.write_text(self.separator.join(strings(path)), encoding="utf-8")
        return str(text)

    def run(self, texts: str) -> Any:
        import gigabpe

        return gigabpe.train_bpe(
            [texts], self._work.vocab_size, pretokenizer="bytelevel", special_tokens=[], threads=self._work.threads
        )

    def ids(self, result: Any) -> None:
        """Ties and documents are others, so the vocabulary is another."""


class TrainGigatoken(TrainGigabpe):
    package = "gigatoken"
    separator = SEPARATOR.decode()

    def run(self, texts: str) -> Any:
        import gigatoken

        return gigatoken.train_bpe(Path(texts), self._work.vocab_size, [], separator=SEPARATOR)


def lengths_and_bytes(tokens: Iterable[bytes]) -> np.ndarray:
    """Something that is equal only if all tokens are."""
    listed = list(tokens)
    return np.concatenate([[len(token) for token in listed], np.frombuffer(b"".join(listed), np.uint8)])


ENCODERS: dict[str, type[Any]] = {
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
TRAINERS: dict[str, type[Any]] = {
    "rustbpe": TrainRustbpe,
    "nanochat": TrainOurs,
    "tokenizers": TrainHuggingFace,
    "gigabpe": TrainGigabpe,
    "gigatoken": TrainGigatoken,
}


def peers(task: str) -> dict[str, type[Any]]:
    return ENCODERS if task == "encode" else TRAINERS


def missing(task: str, peer: str) -> str | None:
    """The package that a peer needs, if it is not installed."""
    package = peers(task)[peer].package
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return package
    return None


# --- the process ------------------------------------------------------------------------------------------------------


def forget_peak() -> None:
    """Gives back what is free, and lets the kernel begin anew with the peak of this process' memory."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def memory(field: str) -> int:
    """`VmRSS` (now) or `VmHWM` (at most, until now), in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(field))


def one_run(worker: Any, path: Path, watched: bool) -> dict[str, Any]:
    text = worker.load(path)
    before = 0
    if watched:
        forget_peak()
        before = memory("VmRSS")
    started = time.perf_counter()
    result = worker.run(text)
    seconds = time.perf_counter() - started
    above = memory("VmHWM") - before if watched else 0
    ids = worker.ids(result)
    digest = None if ids is None else hashlib.sha256(ids.astype(np.uint32).tobytes()).hexdigest()
    return {"seconds": seconds, "above": above, "tokens": 0 if ids is None else len(ids), "digest": digest}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # some peers print what they do
    work = Work(**json.loads(sys.argv[1]))
    worker = peers(work.task)[work.peer](work)
    importlib.import_module(worker.package)
    if work.task == "encode":
        one_run(worker, Path(work.warm_up), False)
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(one_run(worker, Path(json.loads(line)), work.task == "memory")), file=answers, flush=True)


if __name__ == "__main__":
    main()
