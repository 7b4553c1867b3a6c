"""A run that is killed, and run again: shards that were finished are not touched, and nothing half-written is used."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

from nanochat.config.data import DataConfig, RowsConfig, TokenizerConfig, WorldConfig
from nanochat.config.pipeline import PipelineConfig
from nanochat.execution.local import run_local
from nanochat.graphs import resolve
from nanochat.graphs.pipeline import prepare_text
from nanochat.store.artifacts import Artifact
from nanochat.store.store import Store
from tests.compute import compute

SHARDS = 6
CONFIG = PipelineConfig(
    data=DataConfig(validation_documents=10, world=WorldConfig(shards=SHARDS, documents_per_shard=1500)),
    tokenizer=TokenizerConfig(vocab_size=300),
    rows=RowsConfig(sequence_len=32),
)
PROGRAM = "import sys; from tests.promises.test_finished_shards_are_kept import run; run(sys.argv[1])"


def run(folder: str) -> tuple[list[Artifact], list[Artifact], Artifact]:
    """Raw shards, rows and data card."""
    store = Store(f"{folder}/store", Path(folder) / "cache")
    text = prepare_text(CONFIG, resolve.shards(CONFIG.data, store))
    results = run_local(text, store, compute(count=1), Path(folder) / "runs")
    return [results[node] for node in text.raw], [results[node] for node in text.rows], results[text.data_card]


def finished(folder: Path) -> set[Path]:
    return set((folder / "store").glob("v1/artifacts/*/*/manifest.json"))


def test_killed_in_every_stage(tmp_path: Path) -> None:
    _, whole_rows, whole_card = run(str(tmp_path / "whole"))
    folder = tmp_path / "killed"
    made: set[Path] = set()
    for stage in ("download", "tokenize", "pack"):
        process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(folder)], cwd=Path(__file__).parents[2])
        while process.poll() is None and not list((folder / "store").glob(f"v1/artifacts/{stage}/*/manifest.json")):
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert made <= finished(folder)
        made = finished(folder)
    assert 0 < len(made) < 3 * SHARDS + 2, "it was killed too late"
    written = {path: path.stat().st_mtime_ns for path in made}
    raw, rows, card = run(str(folder))
    assert {path: path.stat().st_mtime_ns for path in made} == written, "a finished shard was made again"
    assert [each.digest for each in rows] == [each.digest for each in whole_rows]
    assert card.digest == whole_card.digest
    assert sum(each.reused for each in raw) == SHARDS
