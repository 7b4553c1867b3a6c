"""Our pretraining step beside nanochat's, rewritten (`training_peer.py`): speed, memory, first step, loss.

    python benchmarks/training.py                        d4, T = 512, vocabulary 32,768 on this CPU, every row
    python benchmarks/training.py --quick                the same rows from fewer steps and starts
    python benchmarks/training.py --device cuda --depth 12 --sequence-len 2048 --batch-tokens 524288 --micro-rows 32
    python benchmarks/training.py --curve --text FOLDER --vocabulary 8192 --batch-tokens 4096 --rounds 5 --steps 20

Each side is a process of its own. All start from the same weights and get the same rows. Every other side takes turns
with ours, so that other work on the machine affects both alike; medians are compared, and a ratio is of these turns.
CPU seconds per token are shown beside the wall clock: on a shared machine they vary less. On a CPU, the peer is
measured with nanochat's own settings (fp32), with our launcher's allocator settings, with `NANOCHAT_DTYPE=bfloat16`,
and with both; ours as it comes (bf16 products, allocator settings), without these settings, and in fp32. On a GPU, the
peer is measured with dense attention masks and with our attention kernel. The fastest peer is named at the end. With
`--text FOLDER` (Parquet files with a `text` column), rows are that text in a vocabulary trained on it; else they are
random ids. `--curve` evaluates each side's bits per byte after every round.
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
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))


@dataclass(frozen=True)
class Variant:
    """What a side runs, and with which settings."""

    label: str
    precision: str
    """Of the products; on a GPU, the peer's is bf16."""
    allocator: bool = True
    """Whether the environment has our launcher's allocator settings."""
    kernel: bool = False
    """Whether the peer has our attention kernel."""


VARIANTS = {
    "peer": Variant("nanochat's step", "fp32", allocator=False),
    "peer+allocator": Variant("nanochat's, our allocator settings", "fp32"),
    "peer+bf16": Variant("nanochat's, NANOCHAT_DTYPE=bfloat16", "bf16", allocator=False),
    "peer+allocator+bf16": Variant("nanochat's, both", "bf16"),
    "peer+kernel": Variant("nanochat's, our attention kernel", "bf16", allocator=False, kernel=True),
    "ours": Variant("ours", "bf16"),
    "ours-allocator": Variant("ours, without allocator settings", "bf16", allocator=False),
    "ours+fp32": Variant("ours in fp32", "fp32"),
}
ON_A_CPU = ["peer", "peer+allocator", "peer+bf16", "peer+allocator+bf16", "ours", "ours-allocator", "ours+fp32"]
ON_A_GPU = ["peer", "peer+kernel", "ours"]
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
    import torch

    from nanochat.config.compute import Compute
    from nanochat.config.training import ModelConfig, OptimizerConfig
    from nanochat.data.loader import Loader, sequential
    from nanochat.data.row_index import open_rows
    from nanochat.evaluation.bits_per_byte import bits_per_byte
    from nanochat.model.architecture import Architecture
    from nanochat.model.attention import best_backend
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

    device, variant = torch.device(args.device), VARIANTS[side]
    is_ours = side.startswith("ours")
    architecture = Architecture(
        model=ModelConfig(depth=args.depth), vocab_size=args.vocabulary, sequence_len=args.sequence_len
    )
    precision = args.precision if args.precision != "auto" and side == "ours" else variant.precision
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
    if is_ours and not args.micro_rows:
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
    if is_ours:
        setup = prepare_for_device(model, precision, Compute().kernels, device)
        optimizer = build_optimizer(model, recipe, hyperparameters)
        evaluated, settings = model, setup

        def step() -> float:
            found = optimizer_step(model, optimizer, loader, schedule[position], clock, None)
            return float(found[0] / found[1])
    else:
        from benchmarks.training_peer import PeerNetwork, PeerOptimizer

        bf16 = device.type == "cuda" or variant.precision == "bf16"
        peer = PeerNetwork(model, torch.bfloat16 if bf16 else torch.float32).to(device)
        attention = best_backend("auto", device, torch.bfloat16, True) if variant.kernel else "dense masks"
        if variant.kernel:
            peer.attend_with(attention)
        evaluated = torch.compile(peer, dynamic=False)
        settings = f"compiled, {'bf16' if bf16 else 'fp32'}, {attention}"
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
        times, cpu_times, losses = [], [], []
        for _ in range(int(count)):
            wall, cpu = time.perf_counter(), time.process_time()
            losses.append(step())
            position += 1
            times.append(time.perf_counter() - wall)
            cpu_times.append(time.process_time() - cpu)
        peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
        peak = peak or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        answer(seconds=times, cpu_seconds=cpu_times, losses=losses, peak_bytes=peak)


@dataclass
class Measured:
    """Steps of a side."""

    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)

    def __add__(self, other: Measured) -> Measured:
        return Measured(self.seconds + other.seconds, self.cpu_seconds + other.cpu_seconds)

    @property
    def step_s(self) -> float:
        return median(self.seconds)

    @property
    def step_cpu_s(self) -> float:
        return median(self.cpu_seconds)


class Side:
    """The process of one side, and its measurements."""

    def __init__(self, name: str, folder: Path, arguments: list[str]) -> None:
        from nanochat.settings import child_environment, cores

        variant = VARIANTS[name]
        # allocator settings change no kernel
        cache = folder / f"cache-{name[:4]}-{variant.precision}-{variant.kernel}"
        environment = {**child_environment(cores()), "TORCHINDUCTOR_CACHE_DIR": str(cache)}
        if not variant.allocator:
            environment = {key: value for key, value in environment.items() if key not in ALLOCATOR}
        self.name, self.label = name, variant.label
        self.process = subprocess.Popen(
            [sys.executable, __file__, *arguments, "--serve", name, "--folder", str(folder)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        self.about = self._answer()
        self.peak_bytes = 0
        self.losses: list[float] = []
        """Of each step so far, in nats per token."""

    def steps(self, count: int) -> Measured:
        found = self._request(f"step {count}")
        self.peak_bytes = found["peak_bytes"]
        self.losses += found["losses"]
        return Measured(found["seconds"], found["cpu_seconds"])

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


def started(name: str, folder: Path, arguments: list[str], starts: int) -> tuple[Side, list[float]]:
    """A side after its first step, and the seconds of the first step at each start: cold, then warm."""
    first_s: list[float] = []
    while True:
        began = time.perf_counter()
        side = Side(name, folder, arguments)
        first_s += side.steps(1).seconds
        print(f"{side.label}: first step {first_s[-1]:.1f} s ({time.perf_counter() - began:.1f} s with start); "
              f"{side.about['settings']}", flush=True)  # fmt: skip
        if len(first_s) == starts:
            return side, first_s
        side.close()


def compare(args: argparse.Namespace, arguments: list[str]) -> None:
    """Each other side in turns with ours. Two are in memory at a time: a peer may take 11 GB."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_rows(folder, args.text, args.vocabulary, args.sequence_len)
        ours, ours_first_s = started("ours", folder, arguments, starts=2)
        rows: list[Row] = []
        mine = Measured()
        for name in (side for side in args.sides if side != "ours"):
            # a start that compiles takes more memory, and nothing of ours may hide in it
            starts = 2 if name.startswith("ours") or not args.quick else 1
            other, first_s = started(name, folder, arguments, starts)
            ours.steps(1)
            theirs, beside = Measured(), Measured()
            for _ in range(args.rounds):
                theirs += other.steps(args.steps)
                beside += ours.steps(args.steps)
            rows.append(Row(other, first_s, theirs, beside))
            mine += beside
            other.close()
        if not rows:
            for _ in range(args.rounds):
                mine += ours.steps(args.steps)
        rows.insert(0, Row(ours, ours_first_s, mine, mine))
        ours.close()
        report(args, rows)


def curve(args: argparse.Namespace, arguments: list[str]) -> None:
    """Bits per byte of all sides after every round; all are in memory."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_rows(folder, args.text, args.vocabulary, args.sequence_len)
        sides = [started(name, folder, arguments, starts=1)[0] for name in args.sides]
        print("\n| tokens | " + " | ".join(f"{side.label}: bits per byte" for side in sides) + " |")
        print("|---" * (1 + len(sides)) + "|", flush=True)
        for number in range(1, args.rounds + 1):
            for side in sides:
                side.steps(args.steps)
            tokens = (1 + number * args.steps) * args.batch_tokens
            bits = " | ".join(f"{side.bits_per_byte():.4f}" for side in sides)
            print(f"| {tokens:,} | {bits} |", flush=True)
        for side in sides:
            side.close()


@dataclass
class Row:
    """A side, and our steps in the same turns."""

    side: Side
    first_s: list[float]
    theirs: Measured
    beside: Measured

    @property
    def ratio(self) -> float:
        """Our tokens/s to its tokens/s."""
        return self.theirs.step_s / self.beside.step_s

    @property
    def cpu_ratio(self) -> float:
        """Its CPU time to ours."""
        return self.theirs.step_cpu_s / self.beside.step_cpu_s


def report(args: argparse.Namespace, rows: list[Row]) -> None:
    ours, steps = rows[0].side, args.rounds * args.steps
    print(f"\n{args.device}, d{args.depth}, T={args.sequence_len}, {args.batch_tokens:,} tokens a step, "
          f"medians of {steps} steps, in turns with ours; the last columns are what ours gains")  # fmt: skip
    columns = ("", "s a step", "tokens/s", "CPU µs/token", "peak GB", "first step cold / warm s", "MFU",
               f"loss after {1 + steps} steps", "speed", "CPU time", "memory")  # fmt: skip
    print("| " + " | ".join(columns) + " |")
    print("|---" * len(columns) + "|")
    for row in rows:
        side, speed, peak = row.side, args.batch_tokens / row.theirs.step_s, row.side.about["peak"]
        cells = (
            side.label, f"{row.theirs.step_s:.2f}", f"{speed:,.0f}",
            f"{row.theirs.step_cpu_s / args.batch_tokens * 1e6:,.0f}", f"{side.peak_bytes / 1e9:.2f}",
            " / ".join(f"{seconds:.1f}" for seconds in row.first_s),
            f"{speed * side.about['flops_per_token'] / peak:.1%}" if peak else "–", f"{side.losses[steps]:.4f}",
            f"{row.ratio:.2f}x", f"{row.cpu_ratio:.2f}x", f"{side.peak_bytes / ours.peak_bytes:.2f}x",
        )  # fmt: skip
        print("| " + " | ".join(cells) + " |")
    peers = [row for row in rows if row.side.name.startswith("peer")]
    if peers:
        clock, cpu = min(peers, key=lambda row: row.ratio), min(peers, key=lambda row: row.cpu_ratio)
        print(f"the fastest peer by the clock is {clock.side.label}: ours makes {clock.ratio:.2f} times its tokens/s; "
              f"by CPU time {cpu.side.label}: {cpu.cpu_ratio:.2f} times")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--sequence-len", type=int, default=512)
    parser.add_argument("--vocabulary", type=int, default=32_768)
    parser.add_argument("--batch-tokens", type=int, default=16_384)
    parser.add_argument("--micro-rows", type=int, default=0, help="0: ours is chosen, the peer's is 32")
    parser.add_argument("--precision", default="auto", help="ours; the peer's follows from its side")
    parser.add_argument("--rounds", type=int, default=0, help="0: 3, with `--quick` 2")
    parser.add_argument("--steps", type=int, default=1, help="steps of each side in a round")
    parser.add_argument("--horizon", type=int, default=0, help="steps of the schedule; 0: 500, with `--curve` all")
    parser.add_argument("--curve", action="store_true", help="bits per byte of each side after every round")
    parser.add_argument("--quick", action="store_true", help="fewer steps; peers start once, with a cold cache")
    parser.add_argument(
        "--sides", nargs="+", choices=list(VARIANTS), help="beside ours; all of the device if not named"
    )
    parser.add_argument("--text", type=Path, default=None)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.rounds = args.rounds or (2 if args.quick else 3)
    args.sides = args.sides or (ON_A_GPU if args.device == "cuda" else ON_A_CPU)
    if args.serve:
        serve(args.serve, args.folder, args)
    elif args.curve:
        curve(args, sys.argv[1:])
    else:
        compare(args, sys.argv[1:])


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    main()
