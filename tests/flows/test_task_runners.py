"""Shards on other task runners: the same artifacts, from processes that share a store on S3 and no more."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nanochat.errors import BadConfig
from tests.compute import compute
from tests.flows.prepare import SHARDS

pytestmark = [
    pytest.mark.prefect,
    pytest.mark.skipif(importlib.util.find_spec("prefect") is None, reason="prefect is not installed"),
]


def flows(home: Path, *runs: tuple[dict[str, Any], str], **environment: str) -> list[tuple[str, str, list[str]]]:
    """Message, digest of the data card and of all rows, of one flow run each."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.flows.prepare", json.dumps(runs)], capture_output=True, text=True, timeout=280,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "NANOCHAT_HOME": str(home), "PREFECT_API_URL": "", **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return [tuple(json.loads(line)) for line in done.stdout.splitlines() if line.startswith("[")]


@pytest.mark.slow
@pytest.mark.s3
@pytest.mark.skipif(importlib.util.find_spec("prefect_dask") is None, reason="prefect-dask is not installed")
def test_shards_on_two_workers_of_dask_with_a_store_on_s3(tmp_path: Path, s3_server: dict[str, str]) -> None:
    dask = {"task_runner": "dask", "count": 2}
    processes = {"task_runner": "processes", "count": 2, "shards_per_task": 3}
    first, again, others = flows(
        tmp_path, (dask, "s3://dask/store"), (dask, "s3://dask/store"), (processes, (tmp_path / "store").as_uri()),
        **s3_server,
    )  # fmt: skip
    made = 3 * SHARDS + 2
    assert (first[0], again[0]) == (f"{made} computed, 0 cached", f"0 computed, {made} cached")
    assert first[1:] == again[1:] == others[1:], "what is made does not depend on who makes it"


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("prefect_ray") is None, reason="prefect-ray is not installed")
def test_ray_makes_the_same(tmp_path: Path) -> None:
    ray = {"task_runner": "ray", "count": 2}
    there, plain = flows(tmp_path, (ray, (tmp_path / "a").as_uri()), ({}, (tmp_path / "b").as_uri()))
    assert there[1:] == plain[1:]


def test_a_missing_package_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.runners import runners

    monkeypatch.setitem(sys.modules, "prefect_ray", None)
    with (
        pytest.raises(BadConfig, match=r"`task_runner=ray` needs a package") as caught,
        runners(compute(task_runner="ray")),
    ):
        pass
    assert "pip install -c constraints.txt 'nanochat[ray]'" in caught.value.hint
