"""The data card: statistics of the text."""

import json
from functools import partial
from pathlib import Path

from nanochat.config.data import DataCardConfig
from nanochat.data.data_card import describe, totals
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
    metrics = totals(raw, tokens, rows)
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
