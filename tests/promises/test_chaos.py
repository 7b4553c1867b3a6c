"""Killed again and again at random moments, a run ends with the right model, and leaves nothing behind.

    NANOCHAT_KILLS=100 NANOCHAT_SEED=7 pytest tests/promises/test_chaos.py -s

Text is prepared and a model trained on two ranks, saving all the time: once in peace, then in empty stores, killed:
everything at once, the run alone, its supervisor, one rank, or with TERM to the run or to all; at a moment that is
anywhere between start and end. It is started again until it ends well. Few kills by default.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from nanochat.config.overrides import override
from nanochat.execution.local import run_local
from nanochat.graphs import resolve
from nanochat.graphs.pipeline import prepare_text
from nanochat.profiles import profile
from nanochat.stages.pretrain import pretrain
from nanochat.store import deletion, reachability
from nanochat.store.deletion import delete_garbage
from nanochat.store.garbage import find_garbage
from nanochat.store.store import Store
from tests.compute import compute
from tests.test_whole_chain import TINY

ROOT = Path(__file__).parents[2]
CHANGES = ("pretrain.horizon.amount=150", "pretrain.precision=fp32", "pretrain.evaluate_every_steps=50")
PROGRAM = "import sys; from pathlib import Path; from tests.promises.test_chaos import run; run(Path(sys.argv[1]))"
KINDS = ("all", "parent", "supervisor", "rank", "term", "term to all")
PATIENCE_S = 40.0
LATER_S = 3 * 3600
pytestmark = pytest.mark.kills


def run(home: Path) -> None:
    """What is killed: from nothing to a base model with its alias."""
    config = override(profile("demo").config, [*TINY, *CHANGES])
    store = Store((home / "store").as_uri(), home / "cache")
    how = compute(device="cpu", ranks=2, count=2, every_s=0.02)
    text = prepare_text(config, resolve.shards(config.data, store))
    base = pretrain(config.pretrain, vocabulary=text.vocabulary, rows=text.rows, bundle=[])
    results = run_local([text, base], store, how, home / "runs")
    store.set_alias("base/latest", results[base].manifest)


def start(home: Path) -> psutil.Popen:
    with home.with_suffix(".log").open("ab") as log:
        return psutil.Popen(
            [sys.executable, "-c", PROGRAM, str(home)], cwd=ROOT, stdout=log, stderr=log, start_new_session=True,
            env={**os.environ, "NANOCHAT_HOME": str(home), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip


def strike(parent: psutil.Popen, kind: str, generator: random.Random) -> str:
    """Kills; returns whom."""
    below = []
    with contextlib.suppress(psutil.NoSuchProcess):
        below = parent.children(recursive=True)
    supervisors = [process for process in below if "nanochat.workers.supervisor" in _words(process)]
    ranks = [
        p for p in below if "nanochat.training.pretrain" in _words(p) and "nanochat.workers.torchrun" not in _words(p)
    ]
    if (kind == "rank" and not ranks) or (kind == "supervisor" and not supervisors):
        kind = "all"
    whom, number = {
        "all": ([parent, *below], signal.SIGKILL),
        "parent": ([parent], signal.SIGKILL),
        "supervisor": (supervisors, signal.SIGKILL),
        "rank": (generator.sample(ranks, min(1, len(ranks))), signal.SIGKILL),
        "term": ([parent], signal.SIGTERM),
        "term to all": ([parent, *below], signal.SIGTERM),
    }[kind]
    for process in whom:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)
    _, alive = psutil.wait_procs([parent, *below], timeout=PATIENCE_S)
    assert not alive, f"after `{kind}` there are still {[_words(process) for process in alive]}"
    return kind


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def orphans(home: Path) -> list[list[str]]:
    """Processes that name this home."""
    found = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    return [words for words in found if any(str(home) in word for word in words)]


def whole(home: Path) -> int:
    """Step of the newest whole checkpoint."""
    steps = [int(path.parent.name.split("-")[1]) for path in home.glob("store/v1/checkpoints/*/step-*/manifest.json")]
    return max(steps, default=0)


def attempt(home: Path) -> Path | None:
    """Folder of the newest attempt at training."""
    return max(home.glob("runs/pretrain/*"), default=None, key=lambda folder: folder.stat().st_mtime_ns)


def trained(folder: Path) -> int:
    """Steps that an attempt has reported."""
    metrics = folder / "metrics.jsonl"
    lines = metrics.read_text().splitlines() if metrics.exists() else []
    return max((json.loads(line)["done"] for line in lines if line.endswith("}")), default=0)


def moment(home: Path) -> str:
    """What is going on."""
    folder = attempt(home)
    if folder is None:
        return "preparing text"
    if list(home.glob("store/v1/artifacts/pretrain/*/manifest.json")):
        return "published"
    if (folder / "result.json").exists():
        return "publishing"
    if not trained(folder):
        return "resuming" if whole(home) else "starting"
    return "saving" if list(folder.glob("spool-*/save-*")) else "training"


def model(home: Path) -> tuple[str, int]:
    """SHA-256 of the weights, and from which step training went on the last time."""
    (path,) = home.glob("store/v1/artifacts/pretrain/*/manifest.json")
    manifest = json.loads(path.read_text())
    (sha256,) = [file["sha256"] for file in manifest["files"] if file["path"] == "model.safetensors"]
    return sha256, manifest["metrics"]["resumed_from_step"]


def leaked(home: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is still there of checkpoints, leases and half-written files when `gc` has run, once it may."""
    store = Store((home / "store").as_uri(), home / "cache")
    with monkeypatch.context() as patch:
        patch.setattr(reachability, "now_s", lambda: time.time() + LATER_S)
        patch.setattr(deletion, "CLOCKS_DIFFER_S", 2 * LATER_S)
        delete_garbage(store, find_garbage(store, keep_runs=0, min_age_hours=0))
    left = [entry for folder in ("v1/checkpoints", "v1/leases") for entry in store.objects.list(folder)]
    return [entry.path for entry in [*left, *store.objects.unfinished("v1")]]


def test_killed_at_random_moments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kills = int(os.environ.get("NANOCHAT_KILLS", "4"))
    generator = random.Random(int(os.environ.get("NANOCHAT_SEED", "1")))
    began = time.monotonic()
    assert start(tmp_path / "peace").wait() == 0, (tmp_path / "peace.log").read_text()[-3000:]
    takes_s = time.monotonic() - began
    right, _ = model(tmp_path / "peace")
    kinds: Counter[str] = Counter()
    moments: Counter[str] = Counter()
    repeated: list[int] = []
    world = 0
    while kinds.total() < kills:
        world += 1
        home, last = tmp_path / f"world-{world}", 0
        while True:
            process = start(home)
            if kinds.total() < kills:
                try:
                    process.wait(generator.uniform(0, takes_s))
                except psutil.TimeoutExpired:
                    now = moment(home)
                    kinds[strike(process, generator.choice(KINDS), generator)] += 1
                    moments[now] += 1
                    assert not orphans(home)
                    if now in ("training", "saving") and (folder := attempt(home)):
                        repeated.append(max(0, trained(folder) - whole(home)))
                    last = max(last, whole(home))
                    print(f"{kinds.total()} of {kills}: {sorted(kinds.items())}, while {now}", flush=True)
                    continue
            assert process.wait() == 0, home.with_suffix(".log").read_text()[-3000:]
            break
        sha256, resumed_from = model(home)
        assert sha256 == right, f"other weights, after {kinds}"
        assert resumed_from >= last, f"went on from {resumed_from}, and a checkpoint had {last}"
        assert not leaked(home, monkeypatch)
    print(json.dumps({"kills": dict(kinds), "moments": dict(moments), "models": world, "repeated_steps": repeated}))
