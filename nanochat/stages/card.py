"""The data card: statistics of the text."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from nanochat.config.data import DataCardConfig
from nanochat.data.data_card import describe
from nanochat.execution.stage import Context, Metrics, stage
from nanochat.report.data_card import as_markdown
from nanochat.report.plots import length_bars
from nanochat.store.artifacts import DataCard, RawShard, Rows, TokenShard


@stage(version=1, produces=DataCard, resource="cpu")
def data_card(
    config: DataCardConfig,
    raw: list[RawShard],
    tokens: list[TokenShard],
    rows: list[Rows],
    *,
    out: Path,
    context: Context,
) -> Metrics:
    """Compute statistics of the text: lengths, duplicates, languages, compression, tokens lost in packing."""

    def total(shards: list[RawShard] | list[TokenShard] | list[Rows], name: str) -> int:
        return sum(int(shard.metrics.get(name, 0)) for shard in shards)

    metrics: Metrics = {"shards": len(raw), "skipped_documents": total(raw, "skipped_documents")}
    for split in ("train", "validation"):
        for counted in ("documents", "tokens", "bytes"):
            metrics[f"{split}_{counted}"] = total(tokens, f"{split}_{counted}")
    every_token = metrics["train_tokens"] + metrics["validation_tokens"]
    metrics["bytes_per_token"] = (metrics["train_bytes"] + metrics["validation_bytes"]) / max(every_token, 1)
    metrics["cropped_share"] = total(rows, "dropped_tokens") / max(every_token, 1)
    row_tokens = sum(
        (int(each.metrics["train_rows"]) + int(each.metrics["validation_rows"])) * (each.metrics["sequence_len"] + 1)
        for each in rows
    )
    metrics["padded_share"] = total(rows, "padding_tokens") / max(row_tokens, 1)
    # reads one file of each shard's payload, without its tokens
    readers = [partial(shard.store.payloads.read_file, shard.manifest, "documents.parquet") for shard in tokens]
    found = describe(
        readers, config.most_languages, lambda done: context.progress(done, len(tokens), "shards", "counting")
    )
    metrics["duplicate_documents"] = found["duplicates"]
    metrics["validation_documents_in_training"] = found["validation_in_training"]
    card = {**metrics, **found}
    (out / "card.json").write_text(json.dumps(card, indent=1), encoding="utf-8")
    (out / "card.md").write_text(as_markdown(card), encoding="utf-8")
    (out / "lengths.svg").write_text(length_bars(card["lengths"]), encoding="utf-8")
    return metrics
