"""Two nodes train one model: the same command on each, one store, and the weights that one node would have made."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nanochat.store.store import Store
from tests.test_whole_chain import TINY


def start(home: Path, store: Path, *parallelism: str) -> subprocess.Popen[str]:
    changes = (*TINY, "pretrain.precision=fp32")
    words = [word for change in changes for word in ("--set", change)]
    words += [word for each in ("device=cpu", *parallelism) for word in ("--compute", f"parallelism.{each}")]
    return subprocess.Popen(
        [sys.executable, "-m", "nanochat.cli", "run", "--plain", "--store", store.as_uri(), *words],
        env={**os.environ, "NANOCHAT_HOME": str(home), "OMP_NUM_THREADS": "1", "NANOCHAT_ADDRESS": "127.0.0.1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def base(store: Path, cache: Path) -> tuple[str, int]:
    """SHA-256 of the base model's weights, and how many ranks made it."""
    manifest = Store(store.as_uri(), cache).resolve("base/latest")
    (weights,) = [file.sha256 for file in manifest.files if file.path == "model.safetensors"]
    return weights, manifest.metrics["world_size"]


@pytest.mark.slow
def test_two_nodes_make_what_one_makes(tmp_path: Path) -> None:
    nodes = [
        start(tmp_path / f"node-{node}", tmp_path / "together", "nodes=2", "ranks=1", f"node={node}") for node in (1, 0)
    ]
    outputs = [node.communicate()[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], "\n\n".join(outputs)
    alone = start(tmp_path / "alone", tmp_path / "one", "ranks=2")
    output, _ = alone.communicate()
    assert alone.returncode == 0, output
    assert base(tmp_path / "together", tmp_path / "cache") == base(tmp_path / "one", tmp_path / "cache")
