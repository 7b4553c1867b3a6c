"""A run that is killed, and run again: shards that were finished are not touched, and nothing half-written is used."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

from nanochat.config.data import DataConfig, RowsConfig, TokenizerConfig, WorldConfig
from nanochat.config.pipeline import PipelineConfig
from nanochat.graphs.pipeline import PlainRun, Text, prepare
from nanochat.store.store import Store
from tests.compute import compute

SHARDS = 6
CONFIG = PipelineConfig(
    data=DataConfig(validation_documents=10, world=WorldConfig(shards=SHARDS, documents_per_shard=1500)),
    tokenizer=TokenizerConfig(vocab_size=300),
    rows=RowsConfig(sequence_len=32),
)
PROGRAM = "import sys; from tests.promises.test_finished_shards_are_kept import run; run(sys.argv[1])"


def run(folder: str) -> Text:
    store = Store(f"{folder}/store", Path(folder) / "cache")
    plain = PlainRun(store, compute(count=1), Path(folder) / "runs")
    return prepare(plain, CONFIG, plain.shards(CONFIG.data))


def finished(folder: Path) -> set[Path]:
    return set((folder / "store").glob("v1/artifacts/*/*/manifest.json"))


def test_killed_in_every_stage(tmp_path: Path) -> None:
    whole = run(str(tmp_path / "whole"))
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
    after = run(str(folder))
    assert {path: path.stat().st_mtime_ns for path in made} == written, "a finished shard was made again"
    assert [each.digest for each in after.rows] == [each.digest for each in whole.rows]
    assert after.data_card.digest == whole.data_card.digest
    assert sum(each.reused for each in after.raw) == SHARDS
