"""What a thousand shards cost in the flow when there is nothing to do, and whether memory grows with them.

    python benchmarks/data_orchestration.py [shards]

A folder of tiny shards goes from raw text to packed rows as a Prefect flow on a real server, in a process of its own;
then again, all cached, twice. The figure is the time of the second run's flow, from its first line to its last.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

SHARDS = 1000
DOCUMENTS = 12


def measure(shards: int = SHARDS) -> list[tuple[str, str, str]]:
    """Rows of the table: what, figure, limit."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "text").mkdir()
        for number in range(shards):
            lines = (json.dumps({"text": f"shard {number}, document {i}: once upon a time"}) for i in range(DOCUMENTS))
            (folder / f"text/shard_{number:05}.jsonl").write_text("\n".join(lines))
        environment = {**os.environ, "NANOCHAT_HOME": str(folder / "home"), "PREFECT_API_URL": ""}
        command = [sys.executable, __file__, "--flow", str(folder / "text")]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    first, second, third = (json.loads(line) for line in done.stdout.splitlines() if line.startswith("{"))
    assert second["cached"] == third["cached"] == 3 * shards + 2
    grown = (third["memory"] - second["memory"]) / 1e6
    return [
        (f"{shards:,} shards, nothing cached", f"{first['seconds']:.0f} s in the flow", ""),
        (f"{shards:,} shards, all cached", f"{third['seconds']:.1f} s in the flow", "limit 20 s"),
        ("memory of a run more, all cached", f"{grown:+.0f} MB on {second['memory'] / 1e6:.0f} MB", "flat"),
    ]


def _flows(folder: str) -> None:
    from flows.server import begin
    from nanochat import settings
    from nanochat.config import Compute, DataConfig, PipelineConfig, RowsConfig, TokenizerConfig
    from nanochat.pipeline import prepare

    with begin(settings.home()) as starting:
        settings.use_prefect(starting.api_url, settings.home() / "prefect")
        from prefect import flow

        from flows.execute import asked, execute

        starting.wait(lambda _: None)
        config = PipelineConfig(
            data=DataConfig(source=folder),
            tokenizer=TokenizerConfig(vocab_size=280),
            rows=RowsConfig(sequence_len=16),
        )

        @flow(name="prepare", validate_parameters=False)
        def prepare_flow() -> str:
            given = asked("demo", config, Compute(), "")
            return execute(given, lambda run: prepare(run, config, run.shards(config.data)), lambda _: None).message

        for _ in range(3):
            began = time.perf_counter()
            said = prepare_flow()
            seconds = time.perf_counter() - began
            status = Path("/proc/self/status").read_text()
            memory = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS"))
            cached = int(said.partition(", ")[2].split()[0])
            print(json.dumps({"seconds": seconds, "cached": cached, "memory": memory}), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--flow"]:
        _flows(sys.argv[2])
    else:
        for row in measure(*map(int, sys.argv[1:2])):
            print(" | ".join(row))
