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
from nanochat.graphs.pipeline import Text, prepare
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

        from flows.execute import asked, execute

        starting.wait(lambda _: None)

        @flow(name="prepare", validate_parameters=False)
        def prepare_flow(how: dict[str, Any], store: str) -> tuple[str, str, list[str]]:
            given = asked("demo", CONFIG, compute(**how), store)
            kept: list[Text] = []
            output = execute(given, lambda run: prepare(run, CONFIG, run.shards(CONFIG.data)), kept.append)
            return output.message, kept[0].data_card.digest, [rows.digest for rows in kept[0].rows]

        for how, store in runs:
            print(json.dumps(prepare_flow(how, store)), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
