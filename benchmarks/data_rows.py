"""Token shard → packed rows → batches, beside a packer in Python and torch's DataLoader on the same tokens.

    python benchmarks/data_rows.py [folder of Parquet shards with a `text` column]

A ready batch is the input of a step: inputs and targets (32, 2048), int64, in memory of their own. Packing and loading
are measured in processor time of all threads of the process, since other work may be on the machine; loading happens
with the allocator settings of training. The packer in Python follows nanochat's rule: a buffer of 1,000 documents, the
largest that fits, else the shortest, cropped; it is written with lists, as in nanochat, and with NumPy. torch gets its
rows one by one, a batch at a time, and without a DataLoader. The fastest of these counts.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.fastest import best_of
from benchmarks.fastest import measure as measure_call
from nanochat import _rustbpe, settings
from nanochat.data.packing import pack_tokens
from nanochat.data.token_shards import TokenFile, write_tokens
from nanochat.profiles import PROFILES
from nanochat.tokenizer.bpe import Tokenizer
from nanochat.world.documents import documents
from tests.faults import Fault, faulty
from tests.rows import index_folder, write_rows
from tests.s3 import serve, weed

CORPUS = ROOT.parent / "shared/data/corpus"
T, B = 2048, 32
BATCHES = 1000
STEPS, STEP_S = 10_000, 0.01
Line = tuple[str, str, str]
R = TypeVar("R")


def measure(folder: Path = CORPUS) -> list[Line]:
    """Rows of the table: what, figure, ratio."""
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        tokens = _tokens(folder, scratch)
        lines = [*_packing(tokens, scratch)]
        for what in ("loading", "training"):
            done = subprocess.run(
                [sys.executable, __file__, f"--{what}", str(scratch)],
                env=settings.child_environment(1), stdout=subprocess.PIPE, text=True, check=True,
            )  # fmt: skip
            lines += [(a, b, c) for a, b, c in (line.split(" | ") for line in done.stdout.splitlines())]
        return [*lines, *_streaming(scratch / "s3")]


def _tokens(folder: Path, scratch: Path) -> TokenFile:
    """A token shard of the first file, or of generated text."""
    raw = next(iter(sorted(folder.glob("shard_*.parquet"))), scratch / "raw.parquet")
    if not raw.exists():
        import pyarrow as pa

        pq.write_table(pa.table({"text": list(documents(1, 0, 200_000))}), raw)
    texts = (batch.column(0) for batch in islice(pq.ParquetFile(raw).iter_batches(1024, columns=["text"]), 6))
    tokenizer = Tokenizer.train_from_iterator(texts, 32_768)
    write_tokens(raw, scratch / "tokens.parquet", tokenizer, 1 << 20, 2)
    return TokenFile(scratch / "tokens.parquet")


def _packing(file: TokenFile, scratch: Path) -> list[Line]:
    groups = list(file.row_groups())
    ids = np.concatenate([ids for ids, _ in groups])
    starts = np.cumsum([0, *(len(ids) for ids, _ in groups)])
    offsets = np.concatenate([[0], *(found[1:] + start for (_, found), start in zip(groups, starts, strict=False))])
    (rows, dropped), seconds = _fastest(lambda: _rustbpe.pack(ids, offsets, T + 1))
    packers = {"lists": list_packer, "NumPy": numpy_packer}
    packed_by = {name: measure_call(name, partial(packer, ids, offsets, T + 1)) for name, packer in packers.items()}
    assert np.array_equal(packed_by["lists"].result[0], packed_by["NumPy"].result[0])
    fastest = min(packed_by.values(), key=lambda one: one.cpu_seconds)
    (kept, cropped), peer_s = fastest.result, fastest.cpu_seconds
    speed, peer = len(ids) / seconds, (kept.size + cropped) / peer_s
    packed, stage_s = _fastest(lambda: pack_tokens(file.path, scratch, "train", T + 1))
    index_folder(scratch, T + 1, file.dtype.name, {"train": packed.rows})
    pieces = np.count_nonzero(rows == ids[0]) / len(rows)
    return [
        (
            "packing, planned and assembled, one core",
            f"{speed / 1e6:,.0f} M tokens/s, {pieces:.1f} pieces a row",
            f"{speed / peer:,.0f}x a packer in Python ({fastest.call}: {peer / 1e6:.1f} M tokens/s)",
        ),
        (
            "tokens dropped; padding",
            f"{dropped / len(ids):.4%}; none",
            f"the packer in Python crops {cropped / (kept.size + cropped):.1%}",
        ),
        (
            "token shard → rows in the store, one core",
            f"{packed.tokens / stage_s / 1e6:,.0f} M tokens/s (read, packed, zstd-1)",
            f"{packed.tokens / stage_s / peer:,.0f}x the packer in Python alone",
        ),
    ]


def _fastest(work: Callable[[], R], times: int = 5) -> tuple[R, float]:
    """The result of `work`, and its least CPU time."""
    least = float("inf")
    for _ in range(times):
        began = time.process_time()
        result = work()
        least = min(least, time.process_time() - began)
    return result, least


def numpy_packer(ids: np.ndarray, offsets: np.ndarray, row_tokens: int) -> tuple[np.ndarray, int]:
    """The same as `list_packer`, with the lengths of the buffer in an array."""
    starts, lengths = offsets[:-1].tolist(), np.diff(offsets)
    buffered = np.empty(1000, np.int64)  # lengths of the buffered documents
    documents_: list[int] = []
    rows, cropped, following = [], 0, 0
    while len(starts) - following + len(documents_) > 1000:
        row, space = [], row_tokens
        while space:
            count, more = len(documents_), min(1000 - len(documents_), len(starts) - following)
            buffered[count : count + more] = lengths[following : following + more]
            documents_ += range(following, following + more)
            following, count = following + more, count + more
            fitting = np.where(buffered[:count] <= space, buffered[:count], -1)
            at = int(fitting.argmax())
            if fitting[at] < 0:
                at = int(buffered[:count].argmin())
            start, length = starts[documents_.pop(at)], int(buffered[at])
            buffered[at : count - 1] = buffered[at + 1 : count]
            taken = min(length, space)
            cropped += length - taken
            row.append(ids[start : start + taken])
            space -= taken
        rows.append(np.concatenate(row))
    return np.stack(rows), cropped


def list_packer(ids: np.ndarray, offsets: np.ndarray, row_tokens: int) -> tuple[np.ndarray, int]:
    """nanochat's rule: rows (N, row_tokens), and the tokens cropped."""
    waiting = [ids[a:b] for a, b in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)][::-1]
    buffer: list[np.ndarray] = []
    rows, cropped = [], 0
    while len(waiting) + len(buffer) > 1000:
        row, space = [], row_tokens
        while space:
            while len(buffer) < 1000 and waiting:
                buffer.append(waiting.pop())
            fitting = [number for number, document in enumerate(buffer) if len(document) <= space]
            if fitting:
                document = buffer.pop(max(fitting, key=lambda number: len(buffer[number])))
            else:
                document = buffer.pop(min(range(len(buffer)), key=lambda number: len(buffer[number])))
                cropped += len(document) - space
                document = document[:space]
            row.append(document)
            space -= len(document)
        rows.append(np.concatenate(row))
    return np.stack(rows), cropped


# --- in the environment of training ---------------------------------------------------------------------------------


def _loading(scratch: Path) -> None:
    import torch

    from nanochat.data.loader import Loader
    from nanochat.data.row_index import open_rows

    torch.set_num_threads(1)
    rows = open_rows(scratch / "rows.json", "train")
    loader = Loader(rows, 1, B)
    for _ in islice(loader, 50):  # fetched, mapped
        pass
    began = time.process_time()
    for _ in islice(loader, BATCHES):
        pass
    each_s = (time.process_time() - began) / BATCHES
    loader.close()
    mapped = _Mapped(scratch)
    count = BATCHES // 8
    found = best_of(
        {
            "DataLoader of rows": partial(_take, torch.utils.data.DataLoader(mapped, B, shuffle=True), count),
            "DataLoader of batches": partial(_take, _batch_loader(mapped), count),
            "indexing, without a DataLoader": partial(_take, mapped.shuffled_batches(), count),
        },
        by="cpu_seconds",
    )
    peer_s = found.cpu_seconds / count
    print(
        f"ready batches of {B} x {T:,} from the local cache, one core",
        f"{B * T / each_s / 1e6:,.0f} M tokens/s, {1000 * each_s:.3f} ms of CPU a batch",
        f"{peer_s / each_s:.1f}x torch on a memory map ({found.call}: {B * T / peer_s / 1e6:,.0f} M tokens/s)",
        sep=" | ",
    )


class _Mapped:
    """The peer's dataset: rows of a memory map."""

    def __init__(self, scratch: Path) -> None:
        from nanochat.data.row_index import open_rows
        from tests.rows import every

        (ids,) = every(open_rows(scratch / "rows.json", "train"))
        np.save(scratch / "rows.npy", ids)
        self._rows = np.load(scratch / "rows.npy", mmap_mode="r")

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, numbers: int | list[int]) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets of a row (T,), or of a batch of rows (B, T)."""
        rows = self._rows[numbers].astype(np.int64)
        return np.ascontiguousarray(rows[..., :-1]), np.ascontiguousarray(rows[..., 1:])

    def shuffled_batches(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        order = np.random.default_rng(1).permutation(len(self))
        return (self[order[first : first + B]] for first in range(0, len(order) - B, B))


def _batch_loader(dataset: _Mapped) -> Iterable[object]:
    """A DataLoader that reads a batch at a time: its sampler gives lists of row numbers."""
    from torch.utils.data import BatchSampler, DataLoader, RandomSampler

    return DataLoader(dataset, sampler=BatchSampler(RandomSampler(dataset), B, drop_last=True), batch_size=None)


def _take(batches: Iterable[object], count: int) -> None:
    taken = sum(1 for _ in islice(batches, count))
    assert taken == count, f"the dataset has only {taken} batches"


def _training(scratch: Path) -> None:
    """The demo's model, on rows of its length: how much of a step is spent in the loader."""
    import torch

    from nanochat.data.loader import Loader
    from nanochat.data.row_index import open_rows
    from nanochat.model.gpt import GPT
    from nanochat.optim.optimizer import build_optimizer
    from nanochat.optim.schedule import rates
    from nanochat.scaling import derive_hyperparameters
    from nanochat.training.metrics import Clock
    from nanochat.training.step import optimizer_step

    torch.set_num_threads(1)
    config = PROFILES["demo"].config
    ids = np.random.default_rng(0).integers(0, 1024, (2000, config.rows.sequence_len + 1)).astype(np.uint16)
    rows = open_rows(write_rows(scratch / "demo", train=ids), "train")
    hyperparameters = derive_hyperparameters(config.pretrain, 1024, rows.sequence_len)
    model = GPT(hyperparameters.architecture, torch.float32)
    model.init_weights(1)
    optimizer = build_optimizer(model, config.pretrain.optimizer, hyperparameters)
    spent = 0.0

    class Timed(Loader):
        def step(self):
            nonlocal spent
            began = time.perf_counter()
            batches = list(super().step())
            spent += time.perf_counter() - began
            return iter(batches)

    loader = Timed(rows, 1, hyperparameters.batch_rows)
    for step in range(25):
        if step == 5:
            began, spent = time.perf_counter(), 0.0
        optimizer_step(model, optimizer, loader, rates(step, 100, config.pretrain.optimizer, 0.0), Clock(), None)
    whole = time.perf_counter() - began
    loader.close()
    print(
        "the loader's share of a step in training (the demo's model on one core)",
        f"{spent / whole:.3%} of {1000 * whole / 20:.0f} ms",
        "limit 1%",
        sep=" | ",
    )


# --- from a faulty store --------------------------------------------------------------------------------------------


def _streaming(scratch: Path) -> list[Line]:
    """Steps of 10 ms on blocks from an S3 server: one answer in five is a fault, one second in ten has no answer."""
    what = f"steps that waited longer than a step ({1000 * STEP_S:.0f} ms), of {STEPS:,} on a faulty S3 store"
    if weed() is None:
        return [(what, "no S3 server here", "-")]
    from nanochat.data import rows as rows_module
    from nanochat.data.loader import Loader
    from nanochat.data.row_index import RowIndex, RowSet
    from nanochat.store.objects import Objects

    short, block_rows, batch_rows = 512, 512, 8
    ids = np.random.default_rng(0).integers(0, 1 << 16, (80 * 1024, short + 1)).astype(np.uint16)
    rows_module.BLOCK_BYTES = block_rows * 2 * (short + 1)
    local = RowIndex.model_validate_json(write_rows(scratch / "rows", train=ids).read_text())
    (scratch / "server").mkdir()
    with serve(scratch / "server") as environment:
        os.environ.update(environment)
        objects = Objects("s3://bucket/rows")
        objects.make_bucket()
        for block in local.blocks["train"]:
            objects.upload(scratch / "rows" / block.path, block.path)
        proxy = subprocess.Popen(
            [sys.executable, __file__, "--proxy", environment["AWS_ENDPOINT_URL"]],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert proxy.stdout
        os.environ |= {"AWS_ENDPOINT_URL": proxy.stdout.readline().strip(), "NANOCHAT_ROWS_GB": "0"}
        index = local.model_copy(update={"store": "s3://bucket/rows", "cache": str(scratch / "cache")})
        loader = Loader(RowSet(index, "train"), 1, batch_rows, group_rows=16 * block_rows)
        batches, stalls, longest = iter(loader), 0, 0.0
        next(batches)
        late = _watch_blocks()
        for _ in range(STEPS):
            time.sleep(STEP_S)
            requested = time.perf_counter()
            next(batches)
            waited = time.perf_counter() - requested
            stalls, longest = stalls + (waited > STEP_S), max(longest, waited)
        kept = len(list((scratch / "cache").glob("*.rows")))
        loader.close()
        faults, reads = proxy.communicate()[0].split()
    return [
        (
            what,
            f"{stalls} (longest {1000 * longest:.1f} ms), {sum(each > STEP_S for each in late)} of them for a block "
            f"(longest {1000 * max(late):.1f} ms); {faults} faults in {reads} reads",
            f"limit 1; {kept} of {len(local.blocks['train'])} blocks kept",
        )
    ]


def _watch_blocks() -> list[float]:
    """A list of the seconds that rows wait for blocks, from now on."""
    from nanochat.data.blocks import BlockReader

    waited, original = [0.0], BlockReader._wait

    def timed(reader: BlockReader, block: int):
        began = time.perf_counter()
        columns = original(reader, block)
        waited.append(time.perf_counter() - began)
        return columns

    BlockReader._wait = timed
    return waited


def _proxy(endpoint: str) -> None:
    """A proxy: one answer in five is a fault, one second in ten has no answer. It ends when its input ends."""
    generator, began = random.Random(1), time.monotonic()

    def fault(_: int) -> Fault:
        if (time.monotonic() - began) % 10 > 9:
            return "drop"
        return generator.choice((*[""] * 16, "drop", "short", "busy", 0.5))

    with faulty(endpoint, fault) as (address, done):
        print(address, flush=True)
        sys.stdin.read()
    print(sum(each != "" for each in done), len(done))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--loading"]:
        _loading(Path(sys.argv[2]))
    elif sys.argv[1:2] == ["--proxy"]:
        _proxy(sys.argv[2])
    elif sys.argv[1:2] == ["--training"]:
        _training(Path(sys.argv[2]))
    else:
        for line in measure(*[Path(folder) for folder in sys.argv[1:2]]):
            print(" | ".join(line))
