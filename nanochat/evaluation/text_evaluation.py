"""The worker that evaluates a model on any text: `python -m nanochat.evaluation.text_evaluation job.json`."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nanochat.config.text_evaluation import TextEvaluationConfig
from nanochat.errors import BadSource
from nanochat.evaluation.any_model import load_any
from nanochat.evaluation.document_bits import DocumentBits, Windows, bits_per_byte, document_bits
from nanochat.evaluation.finished import Finished, FinishedTasks
from nanochat.evaluation.language_model import LanguageModel
from nanochat.evaluation.progress import EvaluationProgress
from nanochat.sources.documents import open_parquet
from nanochat.workers.job import Job
from nanochat.workers.ranks import World, from_all_ranks, main

FILE_NAME = "documents.parquet"
DOCUMENTS_AT_ONCE = 32
PART_DOCUMENTS = 512
"""Documents that are kept together when an evaluation is interrupted."""
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


Measured = tuple[int, int, DocumentBits]
"""Number of a document, its shard, and its bits."""


def evaluate_text(job: Job, world: World) -> dict[str, Any]:
    """Measures the bits of every document, on all ranks; returns the stage's metrics."""
    config = TextEvaluationConfig.model_validate(job.config)
    shards = [Path(path) for path in job.inputs["shards"]]
    total = sum(pq.read_metadata(file).num_rows for shard in shards for file in _files(shard))
    total = min(total, config.documents or total)
    if not total:
        raise BadSource("The source has no document with text.", hint="Name another file or column.")
    progress = EvaluationProgress(job, world, "documents")
    model = load_any(job.input("model"), world.device, crop=True, say=progress.say)
    windows = Windows.of(model, config.window_tokens, config.context_tokens)
    measured = measure(model, shards, total, windows, world, FinishedTasks(job.checkpoints), progress)
    if not world.is_first:
        return {}
    rows = [
        {"shard": shard, "document": number, "bytes": bits.text_bytes, "tokens": bits.tokens, "bits": bits.bits}
        for number, shard, bits in measured
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), Path(job.out) / FILE_NAME, compression="zstd")
    evaluation = _summary([bits for _, _, bits in measured], windows)
    (Path(job.out) / "evaluation.json").write_text(json.dumps(evaluation, indent=1), encoding="utf-8")
    return evaluation


def measure(
    model: LanguageModel, shards: Sequence[Path], total: int, windows: Windows, world: World, finished: FinishedTasks,
    progress: Callable[[int, int], None],
) -> list[Measured]:  # fmt: skip
    """The bits of the first `total` documents, in order; each rank measures every n-th document of a part.

    Collective: `finished` keeps the parts, so that an interrupted evaluation continues with the next one.
    """
    kept = from_all_ranks(finished.load() if world.is_first else {})[0]
    found: list[Measured] = []
    progress(sum(len(part.facts["documents"]) for part in kept.values()), total)
    read = islice(documents(shards), total)
    while part := list(islice(read, PART_DOCUMENTS)):
        name, before = f"documents from {part[0].number}", len(found)
        if name in kept:
            found += [(number, shard, DocumentBits(*bits)) for number, shard, *bits in kept[name].facts["documents"]]
            continue
        mine: list[Measured] = []
        wanted = iter(part[world.rank :: world.world_size])
        while some := list(islice(wanted, DOCUMENTS_AT_ONCE)):
            bits = document_bits(model, [each.text for each in some], windows)
            mine += [(each.number, each.shard, each_bits) for each, each_bits in zip(some, bits, strict=True)]
            progress(before + min(len(mine) * world.world_size, len(part)), total)
        found += sorted((each for some in from_all_ranks(mine) for each in some), key=lambda each: each[0])
        if world.is_first:
            of_part = [(number, shard, *astuple(bits)) for number, shard, bits in found[before:]]
            finished.save(Finished(name, [], [], {"documents": of_part}))
    return found


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
