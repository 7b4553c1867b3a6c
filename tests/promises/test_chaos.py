"""Killed again and again at random moments, a run ends with the right model, and leaves nothing behind.

    NANOCHAT_KILLS=100 pytest tests/promises/test_chaos.py -m chaos -s

The pipeline is run to the end once, in peace. Then it is run on empty stores and killed: everything at once, the run
alone, one rank of two, or told to end; at a moment that is anywhere between its start and its end, so also while it
saves, uploads, publishes, or takes a checkpoint up. It is started again until it ends well. Few kills by default.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.test_whole_chain import TINY

ROOT = Path(__file__).parents[2]
CHANGES = (*TINY, "pretrain.horizon.amount=120", "pretrain.precision=fp32", "sft.precision=fp32")
KINDS = ("all", "parent", "rank", "term")
PATIENCE_S = 40.0
pytestmark = pytest.mark.chaos


def start(home: Path) -> psutil.Popen:
    sets = [word for change in CHANGES for word in ("--set", change)]
    compute = ["--compute", "device=cpu", "--compute", "ranks=2", "--compute", "checkpoint_every_s=0.3"]
    environment = {**os.environ, "NANOCHAT_HOME": str(home), "OMP_NUM_THREADS": "1"}
    with (home.parent / f"{home.name}.log").open("ab") as log:
        return psutil.Popen(
            [sys.executable, "-m", "nanochat.cli", "run", "--plain", *sets, *compute],
            cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip


def family(parent: psutil.Popen) -> list[psutil.Process]:
    try:
        return parent.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def strike(parent: psutil.Popen, kind: str, dice: random.Random) -> str:
    """Kills; returns whom."""
    below = family(parent)
    ranks = [process for process in below if "job.json" in " ".join(_words(process)) and not _launches(process)]
    if kind == "rank" and not ranks:
        kind = "all"
    match kind:
        case "all":
            for process in [parent, *below]:
                _send(process, signal.SIGKILL)
        case "parent":
            _send(parent, signal.SIGKILL)
        case "term":
            _send(parent, signal.SIGTERM)
        case "rank":
            _send(dice.choice(ranks), signal.SIGKILL)
    _, alive = psutil.wait_procs([parent, *below], timeout=PATIENCE_S)
    assert not alive, f"after `{kind}` there are still {[_words(process) for process in alive]}"
    return kind


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _launches(process: psutil.Process) -> bool:
    return any(word in _words(process) for word in ("torch.distributed.run", "nanochat.stages.supervise"))


def _send(process: psutil.Process, number: int) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def newest(home: Path) -> int:
    """Step of the newest whole checkpoint of pretraining, or of the one that was published."""
    steps = [int(path.parent.name.split("-")[1]) for path in home.glob("store/v1/checkpoints/*/step-*/manifest.json")]
    return max(steps, default=0)


def models(home: Path) -> dict[str, str]:
    """SHA-256 of the weights, by the stage that made them."""
    found = {}
    for path in home.glob("store/v1/artifacts/*/*/manifest.json"):
        manifest = json.loads(path.read_text())
        files = {file["path"]: file["sha256"] for file in manifest["files"]}
        if "model.safetensors" in files:
            found[manifest["stage"]] = files["model.safetensors"]
    return found


def resumed(home: Path) -> int:
    """From where pretraining went on the last time."""
    (path,) = home.glob("store/v1/artifacts/pretrain/*/manifest.json")
    return json.loads(path.read_text())["metrics"]["resumed_from_step"]


def test_killed_at_random_moments(tmp_path: Path) -> None:
    kills = int(os.environ.get("NANOCHAT_KILLS", "4"))
    dice = random.Random(int(os.environ.get("NANOCHAT_DICE", "1")))
    began = time.monotonic()
    assert start(tmp_path / "peace").wait() == 0, (tmp_path / "peace.log").read_text()[-3000:]
    takes_s = time.monotonic() - began
    wanted = models(tmp_path / "peace")
    assert set(wanted) == {"pretrain", "sft"}
    struck: dict[str, int] = {}
    for world in range(1000):
        home, last = tmp_path / f"world-{world}", 0
        while True:
            run = start(home)
            if sum(struck.values()) < kills:
                try:
                    run.wait(dice.uniform(0, takes_s))
                except psutil.TimeoutExpired:
                    kind = strike(run, dice.choice(KINDS), dice)
                    struck[kind] = struck.get(kind, 0) + 1
                    last = max(last, newest(home)) if not models(home).get("pretrain") else last
                    continue
            assert run.wait() == 0, (tmp_path / f"{home.name}.log").read_text()[-3000:]
            break
        assert models(home) == wanted, f"other weights, after {struck}"
        assert resumed(home) >= last, "steps were lost that a checkpoint had"
        left = [
            path for path in (home / "store").rglob("*") if path.name.endswith(".part") or "checkpoints" in path.parts
        ]
        nanochat = [sys.executable, "-m", "nanochat.cli", "gc", "--delete", "--min-age-hours", "0"]
        subprocess.run(nanochat, cwd=ROOT, env={**os.environ, "NANOCHAT_HOME": str(home)}, check=True)
        kept = [path for path in left if path.is_file() and path.exists()]
        assert not kept, "gc leaves what nobody needs"
        print(f"world {world}: {struck}")
        if sum(struck.values()) >= kills:
            return
