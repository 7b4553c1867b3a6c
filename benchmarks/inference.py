"""Our engine beside transformers' `generate` on our export, and beside our engine before: the numbers of inference.

    python benchmarks/inference.py                       every line, about ten minutes on two cores
    python benchmarks/inference.py --only d4-r32 start   some lines
    python benchmarks/inference.py --quick               a few tokens of each, to see that it runs
    python benchmarks/inference.py --json numbers.json

All sides have the same random weights and get the same prompts; they take turns, so that other work on the machine
affects all alike, and medians are compared. Of transformers, fp32 and bf16 with a dynamic and a static cache are tried
on a part of each line, and the fastest is measured. `d4` has the shapes of the profile `cpu`, `d12` those of `d12`.
Uniform lines have prompts and answers of one length (128 and 128 at d4; shorter at d12, to save time); ragged ones have
prompts of 32 to 256 tokens and answers of 16 to 256. Generated tokens that a request wants are counted, no others.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.inference_models import write_model
from benchmarks.inference_sides import (
    Answers,
    Before,
    Work,
    first_output_s,
    our_engine,
    our_request,
    ours,
    transformers_calls,
)
from nanochat.config.training import ModelConfig
from nanochat.inference.engine import make_decoder
from nanochat.model.architecture import Architecture
from nanochat.model.gpt import GPT


@dataclass
class Line:
    """A line of the table."""

    name: str
    ours: str
    peer: str
    ratio: float
    goal: str
    reached: bool
    note: str = ""
    seconds: dict[str, list[float]] = field(default_factory=dict)


class Bench:
    """The models, and the sides that were started for them; each is made when a line needs it."""

    def __init__(self, scratch: Path, options: argparse.Namespace) -> None:
        self.scratch, self.options = scratch, options
        self._models: dict[str, Path] = {}
        self._transformers: dict[str, dict[str, Answers]] = {}
        self._engines: dict[str, Any] = {}
        self._before: Before | None = None

    def model(self, name: str) -> Path:
        if name not in self._models:
            self._models[name] = write_model(name, self.scratch / name)
        return self._models[name]

    def engine(self, name: str, slots: int = 32, **settings: Any) -> Any:
        key = f"{name} {slots} {settings}"
        if key not in self._engines:
            self._engines[key] = our_engine(self.model(name), slots=slots, **settings)
        return self._engines[key]

    def transformers(self, name: str) -> dict[str, Answers]:
        if name not in self._transformers:
            exported = self.scratch / f"{name}-exported"
            self._transformers[name] = transformers_calls(self.model(name), exported)
        return self._transformers[name]

    def before(self, name: str) -> Before:
        if self._before is None:
            self._before = Before(self.model(name), self.scratch / "before")
        return self._before

    def drop(self, name: str) -> None:
        """Frees the memory of a model's sides."""
        self._transformers.pop(name, None)
        self._engines = {key: engine for key, engine in self._engines.items() if not key.startswith(name)}

    def close(self) -> None:
        if self._before is not None:
            self._before.close()

    def works(self, name: str, batch: int, prompt: tuple[int, int], tokens: tuple[int, int], seed: int) -> list[Work]:
        """Random prompts, with lengths spread evenly over the ranges."""
        generator = np.random.default_rng(seed)
        if self.options.quick:
            prompt, tokens = _short(prompt), _short(tokens)
        vocab_size = json.loads((self.model(name) / "model.json").read_text())["vocab_size"]
        prompts, answers = (
            generator.permutation(np.linspace(*lengths, batch).astype(int)).tolist() for lengths in (prompt, tokens)
        )
        return [
            Work(generator.integers(97, vocab_size - 9, length).tolist(), answer)
            for length, answer in zip(prompts, answers, strict=True)
        ]


def _short(lengths: tuple[int, int]) -> tuple[int, int]:
    return max(1, lengths[0] // 16), max(2, lengths[1] // 16)


def seconds_of(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def in_turns(calls: dict[str, Callable[[], object]], turns: int) -> dict[str, list[float]]:
    """Seconds of each call; each is first, second, … in turn."""
    names = list(calls)
    found: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(turns):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            found[name].append(seconds_of(calls[name]))
    return found


# --- lines ------------------------------------------------------------------------------------------------------------


def beside_transformers(
    bench: Bench, name: str, model: str, batch: int, prompt: tuple[int, int], tokens: tuple[int, int], goals: str,
    **settings: Any,
) -> Line:  # fmt: skip
    mine = ours(bench.engine(model, prefix_cache_tokens=0, **settings))
    theirs = bench.transformers(model)
    works = bench.works(model, batch, prompt, tokens, seed=batch)
    trial = [Work(work.prompt, max(2, work.tokens // 8)) for work in works]
    for answers in (mine, *theirs.values()):
        answers([Work(work.prompt[:8], 2) for work in works])
    tried = {call: seconds_of(lambda answers=answers: answers(trial)) for call, answers in theirs.items()}
    best = min(tried, key=lambda call: tried[call])
    seconds = in_turns({"ours": lambda: mine(works), best: lambda: theirs[best](works)}, bench.options.turns)
    same = sum(a == b for a, b in zip(mine(trial), theirs["fp32, dynamic cache"](trial), strict=True))
    note = f"transformers with {best}; {same} of {batch} answers equal its fp32 ones"
    return _compared(name, works, seconds, best, goals, note)


def _compared(
    name: str, works: Sequence[Work], seconds: dict[str, list[float]], peer: str, goals: str, note: str
) -> Line:
    tokens = sum(work.tokens for work in works)
    mine, theirs = median(seconds["ours"]), median(seconds[peer])
    ratio = theirs / mine
    return Line(
        name, f"{tokens / mine:,.0f} tokens/s", f"{tokens / theirs:,.0f} tokens/s", ratio, goals,
        ratio >= float(goals.split()[0].rstrip("x")), note, seconds,
    )  # fmt: skip


def beside_before(bench: Bench, name: str, prompt: tuple[int, int], tokens: tuple[int, int], goals: str) -> Line:
    works = bench.works("d4", 32, prompt, tokens, seed=3)
    mine, before = ours(bench.engine("d4", prefix_cache_tokens=0)), bench.before("d4")
    for answers in (mine, before):
        answers(works[:2])
    seconds = in_turns({"ours": lambda: mine(works), "before": lambda: before(works)}, bench.options.turns)
    trial = [Work(work.prompt, max(2, work.tokens // 8)) for work in works]
    same = sum(a == b for a, b in zip(mine(trial), before(trial), strict=True))
    return _compared(name, works, seconds, "before", goals, f"{same} of 32 answers equal the earlier engine's")


def samples(bench: Bench, name: str) -> Line:
    """64 prompts with 8 answers each: in one batch, and one answer after the other."""
    engine = bench.engine("d4", slots=64)
    works = bench.works("d4", 64, (96, 96), (32, 32), seed=5)
    requests = [our_request(work, temperature=1.0) for work in works]
    engine.complete(requests[:2])
    part = requests[: 2 if bench.options.quick else 8]
    alone = [
        replace(request, sampling=replace(request.sampling, seed=seed), cache_salt=str(seed))
        for request in part
        for seed in range(8)
    ]
    computed: list[int] = []

    def together() -> None:
        salt = str(len(computed))  # nothing of an earlier turn is in the prefix cache
        before = engine.statistics.prompt_tokens_computed
        engine.complete([replace(request, answers=8, cache_salt=salt) for request in requests])
        computed.append(engine.statistics.prompt_tokens_computed - before)

    def one_by_one() -> None:
        for request in alone:
            engine.complete([replace(request, cache_salt=f"{request.cache_salt} {time.perf_counter()}")])

    seconds = in_turns({"ours": together, "one by one": one_by_one}, bench.options.turns)
    mine = median(seconds["ours"]) / (len(requests) * 8)
    theirs = median(seconds["one by one"]) / len(alone)
    prompts = sum(len(request.prompt) for request in requests)
    return Line(
        name, f"{1 / mine:,.1f} answers/s", f"{1 / theirs:,.1f} answers/s", theirs / mine, "8x",
        theirs / mine >= 8 and set(computed) == {prompts},
        f"{computed[0]:,} prompt tokens computed of {prompts:,}; the peer is measured on {len(part)} of 64 prompts",
        seconds,
    )  # fmt: skip


def cache_memory(bench: Bench, name: str) -> Line:
    """Bytes that a further slot takes, beside keys and values of all T positions: SSSL, T = 2,048."""
    options = ModelConfig(depth=4, window_pattern="SSSL")
    model = GPT(Architecture(model=options, vocab_size=512, sequence_len=2048))
    model.init_weights(1)

    def cache_bytes(slots: int) -> int:
        return make_decoder(model, slots, 2048).cache_bytes

    few, more = 1, 9
    each = (cache_bytes(more) - cache_bytes(few)) / (more - few)
    shape = model.architecture
    full = 2 * shape.depth * shape.sequence_len * shape.kv_width * model.activation_dtype.itemsize
    return Line(
        name, f"{each / 1e6:.2f} MB a slot", f"{full / 1e6:.2f} MB", each / full, "at most 0.5x (0.44)",
        each / full <= 0.5, "d4, T = 2,048, windows SSSL; reported by the decoder",
    )  # fmt: skip


def arrival(bench: Bench, name: str) -> Line:
    """The 95th percentile of the time between tokens of seven answers, with and without a long prompt that arrives."""
    engine = bench.engine("d4", prefix_cache_tokens=0)
    works = bench.works("d4", 7, (64, 64), (192, 192), seed=7)
    (longest,) = bench.works("d4", 1, (engine.context_tokens - 16,) * 2, (8, 8), seed=8)
    gaps: dict[str, list[list[float]]] = {"without": [], "with": []}
    for turn in range(bench.options.turns + 1):
        for kind in gaps:
            found = _gaps(engine, works, longest if kind == "with" else None)
            if turn:  # the first is a warm-up
                gaps[kind].append(found)
    p95 = {kind: median(float(np.percentile(each, 95)) for each in some) for kind, some in gaps.items()}
    worst = median(max(each) for each in gaps["with"])
    ratio = p95["with"] / p95["without"]
    return Line(
        name, f"{p95['with'] * 1e3:.2f} ms", f"{p95['without'] * 1e3:.2f} ms", ratio, "at most 1.5x", ratio <= 1.5,
        f"a prompt of {len(longest.prompt)} tokens; the longest gap is {worst * 1e3:.1f} ms",
    )  # fmt: skip


def _gaps(engine: Any, works: Sequence[Work], arriving: Work | None) -> list[float]:
    """Seconds between the tokens of answers; after a quarter of them, another prompt arrives."""
    times: dict[int, list[float]] = {engine.submit(our_request(work)): [] for work in works}
    arrives_at = works[0].tokens // 4
    while engine.has_work:
        if arriving and min(map(len, times.values())) >= arrives_at:
            engine.submit(our_request(arriving))
            arriving = None
        for delta in engine.step():
            if delta.request in times:
                times[delta.request] += [time.perf_counter()] * len(delta.ids)
    return [gap for some in times.values() for gap in np.diff(some).tolist()]


def warm_turn(bench: Bench, name: str) -> Line:
    """Time to the first token of a second turn, with the first turn in the prefix cache and without it."""
    engine = bench.engine("d4", slots=1)
    cold: list[float] = []
    warm: list[float] = []
    for turn in range(bench.options.turns + 1):
        (first,) = bench.works("d4", 1, (384, 384), (32, 32), seed=10 + turn)
        question = bench.works("d4", 1, (16, 16), (1, 1), seed=100 + turn)[0].prompt
        answer = engine.complete([our_request(first)])[0][0]
        second = Work([*first.prompt, *answer.ids, *question], 1)
        found = {"warm": seconds_of(lambda second=second: engine.complete([our_request(second)]))}
        unknown = replace(our_request(second), cache_salt=str(turn))
        found["cold"] = seconds_of(lambda unknown=unknown: engine.complete([unknown]))
        if turn:
            warm.append(found["warm"])
            cold.append(found["cold"])
    ratio = median(warm) / median(cold)
    return Line(
        name, f"{median(warm) * 1e3:.1f} ms", f"{median(cold) * 1e3:.1f} ms", ratio, "at most 0.2x", ratio <= 0.2,
        f"{len(second.prompt)} tokens, of which {len(question)} are new", {"ours": warm, "cold": cold},
    )  # fmt: skip


def start(bench: Bench, name: str) -> Line:
    """Seconds from the start of `nanochat chat -p` to the first byte of the answer."""
    arguments = ["chat", "--prompt", "Hello! Who are you?", "--max-tokens", "8"]
    if bench.options.store:
        arguments += ["--store", bench.options.store]
        note = f"`chat/latest` of {bench.options.store}"
    else:
        arguments += ["--store", str(publish(bench.model("demo"), bench.scratch / "store"))]
        note = "the demo's shapes, random weights"
    seconds = [first_output_s(arguments) for _ in range(1 if bench.options.quick else 6)]
    middle = median(seconds[1:] or seconds)  # the first fills the system's cache of files
    torch_s = median(first_import_s("torch") for _ in range(len(seconds)))
    return Line(
        name, f"{middle:.2f} s", "", middle, "at most 3 s (1.5)", middle <= 3,
        f"{note}; `import torch` alone takes {torch_s:.2f} s", {"ours": seconds},
    )  # fmt: skip


def first_import_s(module: str) -> float:
    return seconds_of(lambda: subprocess.run([sys.executable, "-c", f"import {module}"], check=True))


def publish(model: Path, root: Path) -> Path:
    """A store with the model as `chat/latest`."""
    from nanochat.store.producer import describe_producer
    from nanochat.store.store import Store

    store = Store(str(root), root.with_name("cache"))
    manifest = store.publish(
        model, stage="sft", stage_version=1, kind="Model", key="0" * 64, config={}, inputs={}, metrics={},
        producer=describe_producer(datetime.now(UTC), run="benchmark"),
    )  # fmt: skip
    store.set_alias("chat/latest", manifest)
    return root


U, R_IN, R_OUT = (128, 128), (32, 256), (16, 256)
LINES: dict[str, Callable[[Bench, str], Line]] = {
    "d4-u1": lambda bench, name: beside_transformers(bench, name, "d4", 1, U, U, "4x (8)"),
    "d4-u8": lambda bench, name: beside_transformers(bench, name, "d4", 8, U, U, "5x (10)"),
    "d4-u32": lambda bench, name: beside_transformers(bench, name, "d4", 32, U, U, "6x (12)"),
    "d4-r32": lambda bench, name: beside_transformers(bench, name, "d4", 32, R_IN, R_OUT, "10x (20)"),
    "before-u32": lambda bench, name: beside_before(bench, name, U, U, "3x"),
    "before-r32": lambda bench, name: beside_before(bench, name, R_IN, R_OUT, "6x"),
    "samples": samples,
    "arrival": arrival,
    "warm-turn": warm_turn,
    "start": start,
    "cache": cache_memory,
    "d12-u1": lambda bench, name: beside_transformers(bench, name, "d12", 1, U, (32, 32), "1.8x"),
    "d12-u8": lambda bench, name: beside_transformers(bench, name, "d12", 8, (64, 64), (24, 24), "3x"),
    "d12-u32": lambda bench, name: beside_transformers(bench, name, "d12", 32, (24, 24), (24, 24), "4x"),
    "d12-u1-int8": lambda bench, name: beside_transformers(
        bench, name, "d12", 1, U, (32, 32), "1.8x (3)", weights="int8"
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=LINES, help="these lines, in the order of the table")
    parser.add_argument("--quick", action="store_true", help="a sixteenth of the tokens, one turn, no d12")
    parser.add_argument("--turns", type=int, default=3, help="measurements of each side; the median counts")
    parser.add_argument("--store", default="", help="store whose `chat/latest` the line `start` uses")
    parser.add_argument("--json", type=Path, help="file for all measurements")
    options = parser.parse_args()
    if options.quick:
        options.turns = 1
    names = [
        name for name in LINES if (name in options.only if options.only else not (options.quick and "d12" in name))
    ]
    console = Console(width=None if sys.stdout.isatty() else 180)
    table = Table("line", "ours", "peer", "ratio", "goal", "reached", "note")
    found: list[Line] = []
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(Path(scratch), options)
        for name in names:
            began = time.perf_counter()
            line = LINES[name](bench, name)
            found.append(line)
            console.print(
                f"{name}: {line.ours}, peer {line.peer or 'none'}, {line.ratio:.2f} of {line.goal} "
                f"({time.perf_counter() - began:.0f} s)", style="dim", highlight=False,
            )  # fmt: skip
            reached = "yes" if line.reached else "no"
            table.add_row(name, line.ours, line.peer, f"{line.ratio:.2f}", line.goal, reached, line.note)
            if options.json:
                content = {"machine": machine(), "lines": [asdict(each) for each in found]}
                options.json.write_text(json.dumps(content, indent=1) + "\n")
        bench.close()
    console.print(table)
    console.print(machine())


def machine() -> str:
    info = Path("/proc/cpuinfo")
    models = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in ("torch", "transformers"))
    return f"{models[0] if models else platform.processor()}, {torch.get_num_threads()} threads, {versions}"


if __name__ == "__main__":
    main()
