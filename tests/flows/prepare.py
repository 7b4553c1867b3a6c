"""From a small invented text to packed rows, as Prefect flows on a server of their own; a program for tests.

    python -m tests.flows.prepare '[[{"task_runner": "dask"}, "s3://bucket/store"], …]'

Prints a line of JSON a run: its message, the digest of its data card, those of its rows.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from flows.site import prefect_environment
from flows.site.server import start_server
from nanochat import settings
from nanochat.config.data import DataConfig, RowsConfig, TokenizerConfig, WorldConfig
from nanochat.config.pipeline import PipelineConfig
from nanochat.execution.graph import Results
from nanochat.graphs import resolve
from nanochat.graphs.pipeline import prepare_text
from tests.compute import compute

SHARDS = 5
CONFIG = PipelineConfig(
    data=DataConfig(validation_documents=10, world=WorldConfig(shards=SHARDS, documents_per_shard=200)),
    tokenizer=TokenizerConfig(vocab_size=300),
    rows=RowsConfig(sequence_len=32),
)


def main(runs: list[tuple[dict[str, Any], str]]) -> None:
    with start_server(settings.home()) as starting:
        prefect_environment.configure_client(starting.api_url, settings.home() / "prefect")
        from prefect import flow

        from flows.execute import execute
        from flows.request import parse_request

        starting.wait(lambda _: None)

        @flow(name="prepare", validate_parameters=False)
        def prepare_flow(how: dict[str, Any], store: str) -> tuple[str, str, list[str]]:
            request = parse_request("demo", CONFIG, compute(**how), store)
            graph = prepare_text(CONFIG, resolve.shards(CONFIG.data, request.store))
            kept: list[Results] = []
            summary = execute(request, lambda: graph, lambda _, results: kept.append(results))
            return summary.message, kept[0][graph.data_card].digest, [kept[0][rows].digest for rows in graph.rows]

        for how, store in runs:
            print(json.dumps(prepare_flow(how, store)), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
