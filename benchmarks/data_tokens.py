"""Parquet shards → token shards, in the pipeline, next to tiktoken that only encodes; and what memory it takes.

    python benchmarks/data_tokens.py [folder of Parquet shards with a `text` column]

tiktoken is given its text in memory, as Python strings, and two threads; our stage reads raw shards from the store,
encodes them, notes their documents, compresses, hashes and publishes the token shards, as many at once as there are
threads, as the pipeline does with all shards. Both speak the same vocabulary. They take turns, each time on text that
neither has seen, and the figure is the median of the ratios.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import tiktoken
import tiktoken.load

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from nanochat._rustbpe import PATTERNS
from nanochat.config import Compute, ShardConfig, TokenizerConfig, TokensConfig
from nanochat.pipeline import Each, PlainRun
from nanochat.stages.download import download
from nanochat.stages.tokenizer import train_tokenizer
from nanochat.stages.tokens import tokenize
from nanochat.store.artifacts import Store
from nanochat.tokenizer.bpe import Tokenizer
from nanochat.tokenizer.formats import write_tiktoken
from nanochat.world.documents import documents

CORPUS = ROOT.parent / "shared/data/corpus"
THREADS, TURNS, LEARN_CHARACTERS = 2, 3, 60_000_000
LARGE_BYTES = 1_500_000_000
LONGEST_BYTES = 50_000_000


def texts(folder: Path) -> Iterator[str]:
    """Documents of all shards, or invented ones where there are none."""
    files = sorted(folder.glob("shard_0*.parquet")) or sorted(folder.glob("*.parquet"))
    if not files:
        yield from documents(1, 0, 400_000)
    for file in files:
        for batch in pq.ParquetFile(file).iter_batches(1024, columns=["text"]):
            yield from batch.column(0).to_pylist()


def pieces(every: Iterator[str], count: int, bytes_each: int) -> list[list[str]]:
    """So many pieces of text, of about so many bytes."""
    cut: list[list[str]] = [[] for _ in range(count)]
    for piece in cut:
        size = 0
        while size < bytes_each and (text := next(every, None)) is not None:
            piece.append(text)
            size += len(text.encode())
    return [piece for piece in cut if piece]


def measure(folder: Path = CORPUS) -> list[tuple[str, str, str]]:
    """Rows of the table: what, figure, ratio."""
    with tempfile.TemporaryDirectory() as scratch:
        return [*_speed(folder, Path(scratch)), *_memory(Path(scratch))]


def _speed(folder: Path, scratch: Path) -> list[tuple[str, str, str]]:
    run = PlainRun(Store(str(scratch / "store"), scratch / "cache"), Compute(workers=THREADS), scratch / "runs")

    def shard(name: str, some: list[str]) -> ShardConfig:
        path = scratch / f"{name}.parquet"
        pq.write_table(pa.table({"text": some}), path, compression="zstd", row_group_size=1024)
        there = path.stat()
        return ShardConfig(name=name, url=str(path), identity=f"{there.st_size}-{there.st_mtime_ns}")

    files = list(folder.glob("shard_0*.parquet"))
    text_bytes = (
        sum(
            pq.read_metadata(file).row_group(i).column(0).total_uncompressed_size
            for file in files
            for i in range(pq.read_metadata(file).num_row_groups)
        )
        or 150_000_000
    )
    every, turn_bytes = texts(folder), text_bytes // (TURNS + 1) - (2 << 20)
    (learn,) = pieces(every, 1, turn_bytes)
    unseen = pieces(every, TURNS * THREADS, turn_bytes // THREADS)
    learnt = run(download, shard("learn", learn))
    vocabulary = run(train_tokenizer, TokenizerConfig(max_characters=LEARN_CHARACTERS), raw=[learnt])
    tokenizer = Tokenizer.load(vocabulary.path / "vocabulary.json")
    write_tiktoken(tokenizer, scratch / "peer.tiktoken")
    ranks = tiktoken.load.load_tiktoken_bpe(str(scratch / "peer.tiktoken"))
    peer = tiktoken.Encoding("peer", pat_str=PATTERNS["nanochat"], mergeable_ranks=ranks, special_tokens={})
    raws = run.map(download, [shard(f"unseen_{i}", some) for i, some in enumerate(unseen)], [""] * len(unseen))
    run(tokenize, TokensConfig(), raw=learnt, vocabulary=vocabulary)  # what is imported and loaded once
    ratios: list[float] = []
    of_processor: list[float] = []
    speeds: list[float] = []
    for turn in range(0, len(unseen), THREADS):
        some = [text for shard in unseen[turn : turn + THREADS] for text in shard]
        shards = raws[turn : turn + THREADS]
        began, processor = time.perf_counter(), time.process_time()
        ids = peer.encode_ordinary_batch(some, num_threads=THREADS)
        theirs, their_processor = time.perf_counter() - began, time.process_time() - processor
        began, processor = time.perf_counter(), time.process_time()
        made = run.map(tokenize, [TokensConfig()] * THREADS, [""] * THREADS, raw=Each(shards), vocabulary=vocabulary)
        ours, our_processor = time.perf_counter() - began, time.process_time() - processor
        assert sum(each.metrics["train_tokens"] for each in made) == sum(map(len, ids)) + len(some)
        ratios.append(theirs / ours)
        of_processor.append(their_processor / our_processor)
        speeds.append(sum(each.metrics["train_bytes"] for each in made) / ours / 1e6)
    return [
        (
            f"Parquet shards → token shards in the pipeline, {THREADS} threads",
            f"{statistics.median(speeds):.0f} MB/s of text",
            f"{statistics.median(ratios):.1f}x tiktoken, encoding alone ({statistics.median(of_processor):.1f}x in "
            "processor time)",
        )
    ]


def _memory(scratch: Path) -> list[tuple[str, str, str]]:
    """The stage in a process of its own, on a shard of one row group with one enormous document in it."""
    done = subprocess.run(
        [sys.executable, __file__, "--memory", str(scratch)], stdout=subprocess.PIPE, text=True, check=True
    )
    above, text_bytes, seconds = map(float, done.stdout.split())
    return [
        (
            f"memory of the stage: {text_bytes / 1e9:.1f} GB of text in one row group, a document of 50 MB",
            f"{above / 1e6:.0f} MB at most ({text_bytes / seconds / 1e6:.0f} MB/s)",
            "limit 1,000 MB",
        )
    ]


def large_shard(path: Path) -> None:
    """One row group, which is the hardest to read piece by piece."""
    block = list(documents(3, 0, 20_000))
    size = sum(map(len, block))
    schema = pa.schema([("text", pa.large_string())])
    every = [*block * (LARGE_BYTES // size), "word " * (LONGEST_BYTES // 5)]
    pq.write_table(
        pa.table({"text": pa.array(every, pa.large_string())}, schema=schema), path, row_group_size=len(every)
    )


def _measure_memory(scratch: Path) -> None:
    """Both stages of a shard under a watch of this process's resident memory; prints bytes, bytes of text, seconds."""
    path = scratch / "large.parquet"
    subprocess.run([sys.executable, __file__, "--large", str(path)], check=True)
    run = PlainRun(Store(str(scratch / "large-store"), scratch / "cache"), Compute(workers=THREADS), scratch / "runs")
    there = path.stat()
    config = ShardConfig(name="large", url=str(path), identity=f"{there.st_size}-{there.st_mtime_ns}")
    raw = run(download, config)
    vocabulary = run(train_tokenizer, TokenizerConfig(vocab_size=1024, max_characters=2_000_000), raw=[raw])
    began = time.perf_counter()
    made = run(tokenize, TokensConfig(), raw=raw, vocabulary=vocabulary)
    seconds = time.perf_counter() - began
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(int(peak.split()[1]) * 1024, made.metrics["train_bytes"], seconds)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--large"]:
        large_shard(Path(sys.argv[2]))
    elif sys.argv[1:2] == ["--memory"]:
        _measure_memory(Path(sys.argv[2]))
    else:
        for row in measure(*[Path(folder) for folder in sys.argv[1:2]]):
            print(" | ".join(row))
