"""Training on more ranks, each with as much work as one alone (weak scaling), and the bytes that a step sends.

    python benchmarks/ranks.py                 1, 2, … ranks of one thread each over gloo, as many as there are cores

The control runs the same number of independent processes: what they lose beside a single one is due to the memory and
the clock that cores share. `kept` is the speed of the ranks relative to the control: the rest is the cost of ranks.
`computing` and `waiting` are a rank's share of a step. `sent` is counted at the calls into `torch.distributed`, with a
ring's share of each, and compared with the minimum: every gradient to its owner and every weight back, (W-1)/W of each.
"""

from __future__ import annotations

import argparse
import json
import socket
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

sys.path.insert(0, str(Path(__file__).parent.parent))

from nanochat.config.training import ModelConfig, OptimizerConfig
from nanochat.data.loader import Loader
from nanochat.data.row_index import open_rows
from nanochat.model.architecture import Architecture
from nanochat.model.gpt import GPT
from nanochat.optim.optimizer import build_optimizer
from nanochat.optim.schedule import StepRates
from nanochat.scaling import hyperparameters_from_steps
from nanochat.settings import cores
from nanochat.training.metrics import Clock
from nanochat.training.step import optimizer_step
from tests.rows import write_rows

T, VOCABULARY, MICRO_ROWS = 256, 4096, 4


def rank_of(place: int, ranks: int, port: int, folder: str, args: argparse.Namespace) -> None:
    """One process: a rank of one training or, with `ranks` 1, a training of its own."""
    torch.set_num_threads(1)
    rank = place % ranks
    if ranks > 1:
        dist.init_process_group("gloo", init_method=f"tcp://localhost:{port}", rank=rank, world_size=ranks)
    sent = counted_bytes(ranks)
    architecture = Architecture(model=ModelConfig(depth=args.depth, head_dim=64), vocab_size=VOCABULARY, sequence_len=T)
    model = GPT(architecture, torch.bfloat16)
    model.init_weights(1)
    batch_rows = args.passes * MICRO_ROWS * ranks
    hyperparameters = hyperparameters_from_steps(
        architecture, batch_tokens=batch_rows * T, steps=100, muon_weight_decay=0.1
    )
    optimizer = build_optimizer(model, OptimizerConfig(), hyperparameters)
    loader = Loader(open_rows(Path(folder) / "rows.json", "train"), 1, batch_rows, rank, ranks, MICRO_ROWS)
    clock, times = Clock(), []
    for _ in range(args.steps + 1):
        sent.clear()
        began = time.perf_counter()
        optimizer_step(model, optimizer, loader, StepRates(1.0, 0.9, 0.1), clock, None)
        times.append(time.perf_counter() - began)
    loader.close()
    if place == 0:
        weights = sum(parameter.nbytes for parameter in model.parameters())
        found = {
            "step_s": median(times[1:]), "communication_s": clock.split()["communication_s"] / len(times),
            "sent": sum(sent), "least": 2 * weights * (ranks - 1) // ranks, "batch_tokens": batch_rows * T,
        }  # fmt: skip
        (Path(folder) / "found.json").write_text(json.dumps(found))
    if ranks > 1:
        dist.destroy_process_group()


def counted_bytes(ranks: int) -> list[int]:
    """A list to which every collective appends the bytes that this rank sends."""
    sent: list[int] = []

    def counting(name: str, whole: int, times: int) -> None:
        real = getattr(dist, name)

        def call(*given: torch.Tensor, **options: object) -> object:
            sent.append(times * given[whole].nbytes * (ranks - 1) // ranks)
            return real(*given, **options)

        setattr(dist, name, call)

    counting("all_reduce", 0, 2)
    counting("reduce_scatter_tensor", 1, 1)
    counting("all_gather_into_tensor", 0, 1)
    return sent


def measured(processes: int, ranks: int, folder: str, args: argparse.Namespace) -> dict[str, float]:
    """What the first of so many processes found; they are ranks of one training, or each is its own's only one."""
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        port = listener.getsockname()[1]
    mp.spawn(rank_of, (ranks, port, folder, args), nprocs=processes)
    found = json.loads((Path(folder) / "found.json").read_text())
    return {**found, "speed": found["batch_tokens"] / ranks / found["step_s"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--passes", type=int, default=4, help="micro-batches of a rank in a step")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3, help="rounds of alone, apart and together; medians are shown")
    parser.add_argument("--most", type=int, default=cores())
    args = parser.parse_args()
    print("| ranks | tokens/s each: alone | apart | together | kept | computing ms | waiting ms | sent MB | least |")
    print("|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        import numpy as np

        write_rows(Path(folder), train=np.random.default_rng(1).integers(0, VOCABULARY, (4096, T + 1), np.uint16))
        for ranks in (count for count in (2, 4, 8, 16, 32) if count <= args.most):
            rounds = [
                (measured(1, 1, folder, args), measured(ranks, 1, folder, args), measured(ranks, ranks, folder, args))
                for _ in range(args.rounds)
            ]
            alone, apart, together = (median(run["speed"] for run in mode) for mode in zip(*rounds, strict=True))
            last = sorted((run for *_, run in rounds), key=lambda run: run["step_s"])[len(rounds) // 2]
            waiting_s = last["communication_s"]
            print(f"| {ranks} | {alone:,.0f} | {apart:,.0f} ({apart / alone:.0%}) "
                  f"| {together:,.0f} ({together / alone:.0%}) | {together / apart:.0%} "
                  f"| {1e3 * (last['step_s'] - waiting_s):,.0f} | {1e3 * waiting_s:,.0f} "
                  f"| {last['sent'] / 1e6:.2f} | {last['least'] / 1e6:.2f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
