"""Our pretraining step beside nanochat's, rewritten (`training_peer.py`): speed, memory, first step, loss.

    python benchmarks/training.py                        d4, T = 512, vocabulary 32,768 on this CPU
    python benchmarks/training.py --device cuda --depth 12 --sequence-len 2048 --batch-tokens 524288 --micro-rows 32
    python benchmarks/training.py --curve --text FOLDER --vocabulary 8192 --batch-tokens 4096 --rounds 5 --steps 20

Each side is a process of its own. All start from the same weights and get the same rows; they take turns, so that other
work on the machine affects all alike, and medians are compared. CPU seconds per token are shown beside the wall clock:
on a shared machine they vary less. The peer is measured with nanochat's own settings (fp32 on a CPU), with our
launcher's allocator settings, and with these and bf16, which is our dtype; the fastest one is named at the end. With
`--text FOLDER` (Parquet files with a `text` column), rows are that text in a vocabulary trained on it; else they are
random ids, and bits per byte mean nothing. `--curve` evaluates each side's bits per byte after every round.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

SIDES = {
    "peer": "nanochat's step",
    "peer+allocator": "nanochat's step, our allocator settings",
    "peer+allocator+bf16": "nanochat's step, our allocator settings, bf16",
    "ours": "ours",
}
ALLOCATOR = ("MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_")


def make_rows(folder: Path, text: Path | None, vocabulary: int, sequence_len: int) -> None:
    """Writes `vocabulary.json`, and the blocks and the index of `rows`."""
    import numpy as np

    from nanochat.tokenizer.bpe import Tokenizer
    from tests.rows import write_rows

    ids = np.random.default_rng(1).integers(0, vocabulary - 9, 1 << 21)
    tokenizer = Tokenizer.from_merges([])
    if text is not None:
        import pyarrow.parquet as pq

        file = sorted(text.glob("*.parquet"))[0]
        texts = pq.read_table(file, columns=["text"]).column(0).to_pylist()[:6000]
        tokenizer = Tokenizer.train_from_iterator(iter([texts]), vocabulary, threads=2)
        ids = np.concatenate([[tokenizer.bos, *tokenizer.encode(document)] for document in texts])
    tokenizer.save(folder / "vocabulary.json")
    rows = ids[: len(ids) // (sequence_len + 1) * (sequence_len + 1)].reshape(-1, sequence_len + 1)
    rows = rows.astype(np.uint16)
    write_rows(folder / "rows", train=rows[64:], validation=rows[:64])


# --- one side, in a process of its own: reads `step N` or `evaluate`, prints a line of JSON ---------------------------


def serve(side: str, folder: Path, args: argparse.Namespace) -> None:
    began = time.perf_counter()
    import torch

    from nanochat.config.compute import Compute
    from nanochat.config.training import ModelConfig, OptimizerConfig
    from nanochat.data.loader import Loader, sequential
    from nanochat.data.row_index import open_rows
    from nanochat.evaluation.bits_per_byte import bits_per_byte
    from nanochat.model.architecture import Architecture
    from nanochat.model.gpt import GPT
    from nanochat.optim.optimizer import build_optimizer
    from nanochat.optim.schedule import rates
    from nanochat.profiles import CPU
    from nanochat.scaling import hyperparameters_from_steps
    from nanochat.tokenizer.bpe import Tokenizer
    from nanochat.training.device_setup import compute_dtype, prepare_for_device
    from nanochat.training.metrics import Clock, peak_flops
    from nanochat.training.micro_batch import micro_batch_rows
    from nanochat.training.step import optimizer_step
    from nanochat.workers.ranks import World

    device = torch.device(args.device)
    architecture = Architecture(
        model=ModelConfig(depth=args.depth), vocab_size=args.vocabulary, sequence_len=args.sequence_len
    )
    precision = "bf16" if args.precision == "auto" else args.precision
    horizon = args.horizon or (1 + args.rounds * args.steps if args.curve else 500)
    hyperparameters = hyperparameters_from_steps(
        architecture, batch_tokens=args.batch_tokens, steps=horizon, muon_weight_decay=0.1
    )
    recipe = CPU.config.pretrain.optimizer if args.curve else OptimizerConfig()  # the former converges in 100 steps
    model = GPT(architecture, compute_dtype(precision, device))
    model.init_weights(1)
    model.to(device)
    clock = Clock()
    micro_rows = args.micro_rows or 32
    if side == "ours" and not args.micro_rows:
        world = World(0, 1, device)
        micro_rows = micro_batch_rows(Compute(), model, args.sequence_len, hyperparameters.batch_rows, world)
    loader = Loader(
        open_rows(folder / "rows" / "rows.json", "train"),
        1,
        hyperparameters.batch_rows,
        micro_batch_rows=micro_rows,
        device=device,
    )
    schedule = [
        rates(step, hyperparameters.steps, recipe, hyperparameters.muon_weight_decay)
        for step in range(hyperparameters.steps)
    ]
    position = 0
    if side == "ours":
        setup = prepare_for_device(model, precision, Compute().kernels, device)
        optimizer = build_optimizer(model, recipe, hyperparameters)
        evaluated, settings = model, setup

        def step() -> float:
            found = optimizer_step(model, optimizer, loader, schedule[position], clock, None)
            return float(found[0] / found[1])
    else:
        from benchmarks.training_peer import PeerNetwork, PeerOptimizer

        bf16 = device.type == "cuda" or "bf16" in side
        peer = PeerNetwork(model, torch.bfloat16 if bf16 else torch.float32).to(device)
        evaluated, settings = torch.compile(peer, dynamic=False), f"compiled, {'bf16' if bf16 else 'fp32'}"
        peer_optimizer = PeerOptimizer(peer, model, recipe, hyperparameters)

        def step() -> float:
            batches = list(loader.step())
            loss = torch.zeros((), device=device)
            for inputs, targets in batches:
                loss = evaluated(inputs, targets)
                (loss / len(batches)).backward()
            peer_optimizer.step(schedule[position])
            return float(loss.detach())

    def answer(**found: object) -> None:
        print(json.dumps(found), flush=True)

    answer(settings=settings, peak=peak_flops(device), flops_per_token=architecture.flops_per_token)
    for line in sys.stdin:
        order, _, count = line.partition(" ")
        if order.strip() == "evaluate":
            token_bytes = torch.from_numpy(Tokenizer.load(folder / "vocabulary.json").token_byte_lengths())
            token_bytes = torch.cat([token_bytes, token_bytes.new_zeros(args.vocabulary - len(token_bytes))])
            held_out = sequential(open_rows(folder / "rows" / "rows.json", "validation"), micro_rows, device=device)
            evaluated.eval()
            answer(bits_per_byte=bits_per_byte(evaluated, held_out, token_bytes.to(device)))
            evaluated.train()
            continue
        times, cpu_times, loss = [], [], 0.0
        for _ in range(int(count)):
            wall, cpu = time.perf_counter(), time.process_time()
            loss = step()
            position += 1
            times.append(time.perf_counter() - wall)
            cpu_times.append(time.process_time() - cpu)
        peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
        peak = peak or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        answer(
            seconds=times, cpu_seconds=cpu_times, loss=loss, since_start=time.perf_counter() - began, peak_bytes=peak
        )


class Side:
    """The process of one side, and its measurements."""

    def __init__(self, name: str, folder: Path, cache: Path, arguments: list[str]) -> None:
        from nanochat.settings import child_environment, cores

        environment = {**child_environment(cores()), "TORCHINDUCTOR_CACHE_DIR": str(cache)}
        if name == "peer":
            environment = {key: value for key, value in environment.items() if key not in ALLOCATOR}
        self.name = name
        self.process = subprocess.Popen(
            [sys.executable, __file__, *arguments, "--serve", name, "--folder", str(folder)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        self.about = self._answer()
        self.seconds: list[float] = []
        self.cpu_seconds: list[float] = []
        self.peak_bytes = 0

    def steps(self, count: int) -> dict:
        found = self._request(f"step {count}")
        self.peak_bytes = found["peak_bytes"]
        return found

    def measured(self, count: int) -> None:
        found = self.steps(count)
        self.seconds += found["seconds"]
        self.cpu_seconds += found["cpu_seconds"]

    def bits_per_byte(self) -> float:
        return self._request("evaluate")["bits_per_byte"]

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()

    def _request(self, order: str) -> dict:
        assert self.process.stdin
        self.process.stdin.write(order + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended; its output is above")
        return json.loads(line)


def compare(args: argparse.Namespace, arguments: list[str]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_rows(folder, args.text, args.vocabulary, args.sequence_len)
        sides: dict[str, Side] = {}
        first: dict[str, list[float]] = {}
        for name in args.sides:
            dtype = "bf16" if "bf16" in name else ""
            cache = folder / f"cache-{name.partition('+')[0]}{dtype}"  # allocator settings change no kernel
            first[name] = []
            for _ in range(1 if name == "peer+allocator" or args.curve else 2):  # cold, then warm
                if name in sides:
                    sides.pop(name).close()
                began = time.perf_counter()
                sides[name] = Side(name, folder, cache, arguments)
                first[name].append(sides[name].steps(1)["seconds"][0])
                print(f"{SIDES[name]}: first step {first[name][-1]:.1f} s "
                      f"({time.perf_counter() - began:.1f} s with start); {sides[name].about['settings']}",
                      flush=True)  # fmt: skip
        if args.curve:
            print("\n| tokens | " + " | ".join(f"{SIDES[name]}: bits per byte" for name in sides) + " |")
            print("|---" * (1 + len(sides)) + "|", flush=True)
        bits: dict[str, float] = {}
        for number in range(1, args.rounds + 1):
            for side in sides.values():
                side.measured(args.steps)
            if args.text is not None and (args.curve or number == args.rounds):
                bits = {name: side.bits_per_byte() for name, side in sides.items()}
            if args.curve:
                tokens = (1 + number * args.steps) * args.batch_tokens
                print(f"| {tokens:,} | " + " | ".join(f"{value:.4f}" for value in bits.values()) + " |", flush=True)
        report(args, sides, first, bits)
        for side in sides.values():
            side.close()


def report(
    args: argparse.Namespace, sides: dict[str, Side], first: dict[str, list[float]], bits: dict[str, float]
) -> None:
    speed = {name: args.batch_tokens / median(side.seconds) for name, side in sides.items()}
    effort = {name: median(side.cpu_seconds) / args.batch_tokens * 1e6 for name, side in sides.items()}
    print(f"\n{args.device}, d{args.depth}, T={args.sequence_len}, {args.batch_tokens:,} tokens a step, "
          f"median of {args.rounds * args.steps} steps each, in turns")  # fmt: skip
    print("| | tokens/s | CPU µs/token | peak GB | first step cold / warm s | MFU | validation bits per byte |")
    print("|---|---|---|---|---|---|---|")
    for name, side in sides.items():
        peak = side.about["peak"]
        mfu = f"{speed[name] * side.about['flops_per_token'] / peak:.1%}" if peak else "–"
        starts = " / ".join(f"{seconds:.1f}" for seconds in first[name])
        bits_per_byte = f"{bits[name]:.4f}" if name in bits else "–"
        print(f"| {SIDES[name]} | {speed[name]:,.0f} | {effort[name]:,.0f} | {side.peak_bytes / 1e9:.2f} "
              f"| {starts} | {mfu} | {bits_per_byte} |")  # fmt: skip
    for name in sides:
        if name != "ours" and "ours" in sides:
            print(f"ours / {SIDES[name]}: {speed['ours'] / speed[name]:.2f}x by the clock, "
                  f"{effort[name] / effort['ours']:.2f}x by CPU time, "
                  f"{sides['ours'].peak_bytes / sides[name].peak_bytes:.2f}x the memory")  # fmt: skip
    others = [name for name in sides if name != "ours"]
    if others:
        print(f"fastest peer by the clock: {SIDES[max(others, key=lambda name: speed[name])]}; "
              f"by CPU time: {SIDES[min(others, key=lambda name: effort[name])]}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--sequence-len", type=int, default=512)
    parser.add_argument("--vocabulary", type=int, default=32_768)
    parser.add_argument("--batch-tokens", type=int, default=16_384)
    parser.add_argument("--micro-rows", type=int, default=0, help="0: ours is chosen, the peer's is 32")
    parser.add_argument("--precision", default="auto", help="ours; the peer's follows from its side")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1, help="steps of each side in a round")
    parser.add_argument("--horizon", type=int, default=0, help="steps of the schedule; 0: 500, with `--curve` all")
    parser.add_argument("--curve", action="store_true", help="bits per byte of each side after every round")
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=list(SIDES))
    parser.add_argument("--text", type=Path, default=None)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve, args.folder, args)
    else:
        compare(args, sys.argv[1:])


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    main()
