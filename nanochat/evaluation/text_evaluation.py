"""The worker that evaluates a model on any text: `python -m nanochat.evaluation.text_evaluation job.json`."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nanochat.config.text_evaluation import TextEvaluationConfig
from nanochat.errors import BadSource
from nanochat.evaluation.any_model import load_any
from nanochat.evaluation.document_bits import DocumentBits, Windows, bits_per_byte, document_bits
from nanochat.sources.documents import open_parquet
from nanochat.workers.job import Job
from nanochat.workers.ranks import World, from_all_ranks, main, raise_if_terminated

FILE_NAME = "documents.parquet"
DOCUMENTS_AT_ONCE = 32
SCHEMA = pa.schema(
    [
        ("shard", pa.int32()),
        ("document", pa.int64()),
        ("bytes", pa.int64()),
        ("tokens", pa.int64()),
        ("bits", pa.float64()),
    ]
)
"""`shard` counts the raw shards, `document` the documents of all shards."""


@dataclass(frozen=True)
class Document:
    """A document of one of the shards."""

    shard: int
    number: int
    text: str


def evaluate_text(job: Job, world: World) -> dict[str, Any]:
    """Measures the bits of every document, on all ranks; returns the stage's metrics."""
    config = TextEvaluationConfig.model_validate(job.config)
    shards = [Path(path) for path in job.inputs["shards"]]
    total = sum(pq.read_metadata(file).num_rows for shard in shards for file in _files(shard))
    total = min(total, config.documents or total)
    if not total:
        raise BadSource("The source has no document with text.", hint="Name another file or column.")
    model = load_any(job.input("model"), world.device, crop=True)
    windows = Windows.of(model, config.window_tokens, config.context_tokens)
    mine = islice(documents(shards), world.rank, total, world.world_size)
    found: list[tuple[int, int, DocumentBits]] = []
    while some := list(islice(mine, DOCUMENTS_AT_ONCE)):
        measured = document_bits(model, [each.text for each in some], windows)
        found += [(each.number, each.shard, bits) for each, bits in zip(some, measured, strict=True)]
        raise_if_terminated()
        if world.is_first:
            job.event(min(len(found) * world.world_size, total), total, "documents")
    everything = sorted((each for part in from_all_ranks(found) for each in part), key=lambda each: each[0])
    if not world.is_first:
        return {}
    rows = [
        {"shard": shard, "document": number, "bytes": bits.text_bytes, "tokens": bits.tokens, "bits": bits.bits}
        for number, shard, bits in everything
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), Path(job.out) / FILE_NAME, compression="zstd")
    evaluation = _summary([bits for _, _, bits in everything], windows)
    (Path(job.out) / "evaluation.json").write_text(json.dumps(evaluation, indent=1), encoding="utf-8")
    return evaluation


def documents(shards: Sequence[Path]) -> Iterator[Document]:
    """The documents of raw shards, in order."""
    number = 0
    for index, shard in enumerate(shards):
        for file in _files(shard):
            with open_parquet(file) as parquet:
                for batch in parquet.iter_batches(DOCUMENTS_AT_ONCE, columns=["text"]):
                    for text in batch.column(0).to_pylist():
                        yield Document(index, number, text)
                        number += 1


def _files(shard: Path) -> list[Path]:
    return [file for name in ("train.parquet", "validation.parquet") if (file := shard / name).exists()]


def _summary(found: Sequence[DocumentBits], windows: Windows) -> dict[str, Any]:
    ratio, interval = bits_per_byte(found)
    bits, tokens = math.fsum(each.bits for each in found), sum(each.tokens for each in found)
    return {
        "bits_per_byte": ratio,
        "bits_per_byte_interval": None if interval is None else [interval.low, interval.high],
        "perplexity": math.exp(min(bits * math.log(2) / tokens, 700.0)),
        "documents": len(found),
        "bytes": sum(each.text_bytes for each in found),
        "tokens": tokens,
        "window_tokens": windows.window_tokens,
        "context_tokens": windows.context_tokens,
        "bos": windows.bos,
    }


if __name__ == "__main__":
    main(evaluate_text)
