"""Parquet shards → token shards, in the pipeline, beside tiktoken that only encodes; and the memory it takes.

    python benchmarks/data_tokens.py [folder of Parquet shards with a `text` column]

tiktoken gets its text in memory, as Python strings, and two threads; its fastest documented call counts. Our stage
reads raw shards from the store, encodes them, measures their documents, compresses, hashes and publishes the token
shards, two at once, as the pipeline does. Both use the same vocabulary. It is trained on each of three shards in
turn, and the other two are unseen; the figure is the median of the ratios. Each stage loads its tokenizer anew, so
that its caches are cold.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import tiktoken
import tiktoken.load

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.fastest import best_of
from nanochat._rustbpe import PATTERNS
from nanochat.config.compute import Compute, DataWorkers
from nanochat.config.data import ShardConfig, TokenizerConfig, TokensConfig
from nanochat.execution.graph import Results
from nanochat.execution.local import run_local
from nanochat.stages.download import download
from nanochat.stages.tokenizer import train_tokenizer
from nanochat.stages.tokens import tokenize
from nanochat.store.store import Store
from nanochat.tokenizer.bpe import Tokenizer
from nanochat.tokenizer.tiktoken_format import write_tiktoken
from nanochat.world.documents import documents

CORPUS = ROOT.parent / "shared/data/corpus"
THREADS, BATCH, LOOP_TEXTS, TRAIN_CHARACTERS = 2, 1024, 64, 60_000_000
COMPUTE = Compute(data_workers=DataWorkers(count=THREADS))
VOCAB_SIZE, GENERATED_VOCAB_SIZE, GENERATED_DOCUMENTS = 32_768, 1_536, 150_000
LARGE_BYTES = 1_500_000_000
LONGEST_BYTES = 50_000_000


def shards(folder: Path, scratch: Path) -> tuple[list[Path], int]:
    """As many Parquet shards as there are threads, and one to train on; generated ones if there are too few. And the
    size of the vocabulary that their text allows."""
    count = THREADS + 1
    files = sorted(folder.glob("shard_0*.parquet")) or sorted(folder.glob("*.parquet"))
    if len(files) >= count:
        return files[:count], VOCAB_SIZE
    files = [scratch / f"generated_{number}.parquet" for number in range(count)]
    for number, file in enumerate(files):
        generated = pa.table({"text": list(documents(1, number * GENERATED_DOCUMENTS, GENERATED_DOCUMENTS))})
        pq.write_table(generated, file, compression="zstd", row_group_size=1024)
    return files, GENERATED_VOCAB_SIZE


def measure(folder: Path = CORPUS) -> list[tuple[str, str, str]]:
    """Rows of the table: what, figure, ratio."""
    with tempfile.TemporaryDirectory() as scratch:
        return [*_speed(folder, Path(scratch)), *_memory(Path(scratch))]


def _speed(folder: Path, scratch: Path) -> list[tuple[str, str, str]]:
    store = Store(str(scratch / "store"), scratch / "cache")

    def run(graph: object) -> Results:
        return run_local(graph, store, COMPUTE, scratch / "runs")

    files, vocab_size = shards(folder, scratch)
    training = TokenizerConfig(vocab_size=vocab_size, max_characters=TRAIN_CHARACTERS)
    downloads = [download(config(file), item=file.name) for file in files]
    downloaded = run(downloads)
    raws = [downloaded[node] for node in downloads]
    ratios: list[float] = []
    won: set[str] = set()
    of_processor: list[float] = []
    speeds: list[float] = []
    for turn, train in enumerate(raws):
        trained = train_tokenizer(training, raw=[train])
        vocabulary = run(trained)[trained]
        run(tokenize(TokensConfig(), raw=train, vocabulary=vocabulary))  # imports, and what is loaded once
        peer = tiktoken_of(Tokenizer.load(vocabulary.path / "vocabulary.json"), scratch)
        unseen = [raw for raw in raws if raw is not train]
        texts = [text for at, file in enumerate(files) if at != turn for text in texts_of(file)]
        theirs = best_of({call: partial(count_tokens, encode, texts) for call, encode in tiktoken_calls(peer).items()})
        won.add(theirs.call)
        began, processor = time.perf_counter(), time.process_time()
        nodes = [tokenize(TokensConfig(), item=raw.key, raw=raw, vocabulary=vocabulary) for raw in unseen]
        results = run(nodes)
        made = [results[node] for node in nodes]
        ours, our_processor = time.perf_counter() - began, time.process_time() - processor
        assert sum(each.metrics["train_tokens"] for each in made) == theirs.result + len(texts)
        ratios.append(theirs.seconds / ours)
        of_processor.append(theirs.cpu_seconds / our_processor)
        speeds.append(sum(each.metrics["train_bytes"] for each in made) / ours / 1e6)
    return [
        (
            f"Parquet shards → token shards in the pipeline, {THREADS} threads",
            f"{statistics.median(speeds):.0f} MB/s of text",
            f"{statistics.median(ratios):.1f}x tiktoken that only encodes ({statistics.median(of_processor):.1f}x in "
            f"processor time; fastest call: {', '.join(sorted(won))})",
        )
    ]


def tiktoken_calls(peer: tiktoken.Encoding) -> dict[str, Callable[[list[str]], list[list[int]]]]:
    """Its documented calls for many texts, on `THREADS` threads."""

    def loop(texts: list[str]) -> list[list[int]]:
        parts = [texts[first : first + LOOP_TEXTS] for first in range(0, len(texts), LOOP_TEXTS)]
        with ThreadPoolExecutor(THREADS) as pool:
            return list(
                chain.from_iterable(pool.map(lambda part: [peer.encode_ordinary(text) for text in part], parts))
            )

    return {
        "encode_ordinary_batch": lambda texts: peer.encode_ordinary_batch(texts, num_threads=THREADS),
        "encode_ordinary in a loop": loop,
    }


def count_tokens(encode: Callable[[list[str]], list[list[int]]], texts: list[str]) -> int:
    """Encodes a thousand texts at a time: memory for all ids at once would slow it down."""
    batches = (texts[first : first + BATCH] for first in range(0, len(texts), BATCH))
    return sum(sum(map(len, encode(batch))) for batch in batches)


def config(file: Path) -> ShardConfig:
    there = file.stat()
    return ShardConfig(name=file.stem, url=str(file), identity=f"{there.st_size}-{there.st_mtime_ns}")


def texts_of(file: Path) -> list[str]:
    return pq.read_table(file, columns=["text"]).column(0).to_pylist()


def tiktoken_of(tokenizer: Tokenizer, scratch: Path) -> tiktoken.Encoding:
    """The same vocabulary."""
    path = scratch / f"{tokenizer.digest}.tiktoken"
    write_tiktoken(tokenizer, path)
    ranks = tiktoken.load.load_tiktoken_bpe(str(path))
    return tiktoken.Encoding("peer", pat_str=PATTERNS["nanochat"], mergeable_ranks=ranks, special_tokens={})


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
    """One row group: the hardest case for reading in parts."""
    block = list(documents(3, 0, 20_000))
    size = sum(map(len, block))
    schema = pa.schema([("text", pa.large_string())])
    every = [*block * (LARGE_BYTES // size), "word " * (LONGEST_BYTES // 5)]
    pq.write_table(
        pa.table({"text": pa.array(every, pa.large_string())}, schema=schema), path, row_group_size=len(every)
    )


def _measure_memory(scratch: Path) -> None:
    """Runs both stages of a shard; prints the peak memory of this process, the bytes of text, and the seconds."""
    path = scratch / "large.parquet"
    subprocess.run([sys.executable, __file__, "--large", str(path)], check=True)
    store = Store(str(scratch / "large-store"), scratch / "cache")
    raw = download(config(path))
    vocabulary = train_tokenizer(TokenizerConfig(vocab_size=1024, max_characters=2_000_000), raw=[raw])
    before = run_local(vocabulary, store, COMPUTE, scratch / "runs")
    began = time.perf_counter()
    node = tokenize(TokensConfig(), raw=before[raw], vocabulary=before[vocabulary])
    made = run_local(node, store, COMPUTE, scratch / "runs")[node]
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
