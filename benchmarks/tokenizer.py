"""The tokenizer's speed beside its peers. Prints a table of ratios, all measured in this run.

    python benchmarks/tokenizer.py                                     # on generated text, anywhere
    python benchmarks/tokenizer.py --text a.parquet b.parquet --mixed c.parquet --json out.json
    python benchmarks/tokenizer.py --quick --rows train,encode-1

Each call of each peer has a process of its own, pinned to as many cores as it has threads. A process loads its text and
makes its encoder before the measurement; then the processes take turns, so that other work on the machine affects all
of them alike. A peer has several documented calls, and the fastest counts. A ratio compares two processes in the same
turn; the table shows medians. No encoder has seen a text before, and no text is part of the training text.

*Cold* is the first text of a process, *warm* are the later ones: encoders that cache pieces are faster then. Processes
are started again several times (`--starts`). Training has no such difference.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # for `benchmarks`, when this file is started as a script

from benchmarks.tokenizer_peers import missing, peers
from benchmarks.tokenizer_texts import Texts, prepare
from benchmarks.tokenizer_work import Work, column
from nanochat._rustbpe import PATTERNS
from nanochat.tokenizer.bpe import Tokenizer
from nanochat.tokenizer.huggingface_format import write_hf
from nanochat.tokenizer.tiktoken_format import write_tiktoken

Turn = dict[str, dict[str, Any]]
"""Label of a process → what it measured."""


@dataclass(frozen=True)
class Row:
    """One comparison: the peers `names` at one task on the same files; ratios are to the first peer."""

    task: str
    files: str
    """Field of `Texts`."""
    threads: int
    pattern: str
    names: Sequence[str]
    goals: str = ""
    """Goals for the ratio: must, target, moonshot."""


OUR_ENCODERS = ("nanochat", "nanochat, from str", "nanochat, out=")
FROM_PARQUET = ("nanochat, Parquet → ids", "nanochat, Parquet → Parquet")
ROWS: dict[str, list[Row]] = {
    "train": [
        Row("train", "train", 2, "nanochat", ("rustbpe", "nanochat", "tokenizers"), "8 15 20"),
        Row("train", "train", 2, "gpt2", ("rustbpe", "nanochat", "gigabpe", "gigatoken")),
    ],
    "train-all": [Row("train", "everything", 2, "nanochat", ("rustbpe", "nanochat"), "15 25 40")],
    "encode-1": [
        Row("encode", "unseen", 1, "nanochat", ("tiktoken", *OUR_ENCODERS, "fastokens"), "20 30 42"),
        Row("encode", "unseen", 1, "cl100k", ("tiktoken", "nanochat", "gigatoken")),
    ],
    "encode-2": [
        Row("encode", "unseen", 2, "nanochat", ("tiktoken", *OUR_ENCODERS, "fastokens", "tokenizers"), "18 28 38"),
        Row("encode", "unseen", 2, "cl100k", ("tiktoken", "nanochat", "gigatoken")),
    ],
    "encode-rustbpe": [Row("encode", "unseen", 2, "nanochat", ("rustbpe", "nanochat"))],
    "parquet": [
        Row("encode", "unseen", 2, "nanochat", ("tiktoken", *FROM_PARQUET), "13 20 25"),
        Row("encode", "unseen", 2, "cl100k", ("tiktoken", *FROM_PARQUET, "gigatoken, Parquet → ids")),
    ],
    "mixed": [
        Row("encode", "mixed", 2, "nanochat", ("tiktoken", *OUR_ENCODERS, "fastokens"), "15 30 45"),
        Row("encode", "mixed", 2, "cl100k", ("tiktoken", "nanochat", "gigatoken")),
    ],
    "memory": [Row("memory", "train", 2, "nanochat", ("rustbpe", "nanochat", "tokenizers"))],
}
TITLES = {
    "train": "train",
    "train-all": "train on everything",
    "encode-1": "encode, 1 thread",
    "encode-2": "encode, 2 threads",
    "encode-rustbpe": "encode, 2 threads",
    "parquet": "Parquet file to ids, 2 threads\n(tiktoken: text in memory)",
    "mixed": "encode languages and code,\n2 threads",
    "memory": "memory above the text, train\n(goal: 150, 80, 50 MB)",
}


class Process:
    """A process in which one call of a peer works."""

    def __init__(self, name: str, call: str, row: Row, folder: Path, texts: Texts, options: argparse.Namespace) -> None:
        self.label = label(name, call)
        work = Work(
            row.task, name, call, row.pattern, row.threads, options.vocab_size, str(folder), str(texts.train),
            str(texts.warm_up),
        )  # fmt: skip
        limits = {
            "RAYON_NUM_THREADS": str(row.threads),
            "TOKENIZERS_PARALLELISM": "true" if row.threads > 1 else "false",
        }
        cores = sorted(os.sched_getaffinity(0))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.tokenizer_peers", work.to_json()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=os.environ | limits,
            preexec_fn=lambda: os.sched_setaffinity(0, cores[: row.threads]),
        )
        self._read()

    def _read(self) -> dict[str, Any]:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise SystemExit(f"{self.label} failed; its output is above.")
        return json.loads(line)

    def measure(self, path: Path) -> dict[str, Any]:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(str(path)) + "\n")
        self._process.stdin.flush()
        return self._read()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.stdin:
            self._process.stdin.close()
        self._process.wait()


def label(name: str, call: str) -> str:
    return f"{name}: {call}"


def measure(
    row: Row, names: Sequence[str], folder: Path, texts: Texts, options: argparse.Namespace
) -> tuple[list[Turn], list[Turn]]:
    """The turns in which the processes were cold, and the later ones; of training, all turns are in the first list."""
    found = getattr(texts, row.files)
    encoding = row.task == "encode"
    files = found if isinstance(found, list) else [found] * options.repetitions
    cold: list[Turn] = []
    warm: list[Turn] = []
    for start in range(options.starts if encoding else 1):
        with ExitStack() as stack:
            processes = [
                stack.enter_context(Process(name, call, row, folder, texts, options))
                for name in names
                for call in peers(row.task)[name].calls
            ]
            rotated = files[start % len(files) :] + files[: start % len(files)]
            for turn, path in enumerate(rotated):
                order = processes[turn % len(processes) :] + processes[: turn % len(processes)]
                measured = {each.label: each.measure(path) | {"bytes": texts.sizes[path]} for each in order}
                (warm if encoding and turn else cold).append(measured)
    return cold, warm


def spread(values: Sequence[float], digits: int) -> str:
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f}–{max(values):,.{digits}f})"


def figure(turn: dict[str, Any], task: str) -> float:
    """Seconds, or bytes of memory: what a ratio compares."""
    return max(turn["above"], 1) if task == "memory" else turn["seconds"]


def fastest_call(row: Row, name: str, turns: Sequence[Turn]) -> str:
    """Label of the call of a peer with the lowest median (of memory, too)."""
    labels = [label(name, call) for call in peers(row.task)[name].calls]
    return min(labels, key=lambda each: statistics.median(figure(turn[each], row.task) for turn in turns))


def columns(row: Row, names: Sequence[str], turns: Sequence[Turn]) -> dict[str, tuple[str, str]]:
    """For each process the speed (or memory), and for the fastest call of each peer the ratio to the first peer's."""
    if not turns:
        return {}
    fastest = {name: fastest_call(row, name, turns) for name in names}
    baseline = [turn[fastest[names[0]]] for turn in turns]
    found = {}
    for each in turns[0]:
        mine = [turn[each] for turn in turns]
        if row.task == "memory":
            measured = spread([one["above"] / 1e6 for one in mine], 0) + " MB"
        else:
            measured = spread([one["bytes"] / one["seconds"] / 1e6 for one in mine], 0) + " MB/s"
        ratios = [figure(other, row.task) / figure(one, row.task) for one, other in zip(mine, baseline, strict=True)]
        if row.task == "memory":
            ratios = [1 / ratio for ratio in ratios]
        won = each in fastest.values()
        found[each] = measured, ("1" if each == fastest[names[0]] else spread(ratios, 1)) if won else "slower call"
    return found


def lines_of(title: str, row: Row, names: Sequence[str], cold: list[Turn], warm: list[Turn]) -> list[list[str]]:
    """A line of the table for each call of each peer."""
    in_cold, in_warm = columns(row, names, cold), columns(row, names, warm)
    turns = [*cold, *warm]
    baseline = [turn[fastest_call(row, names[0], turns)] for turn in turns]
    lines = []
    for name in names:
        for call in peers(row.task)[name].calls:
            each = label(name, call)
            goals = row.goals.replace(" ", ", ") if name.startswith("nanochat") else ""
            equal = same_ids([turn[each] for turn in turns], baseline)
            first = not lines
            lines.append(
                [title if first else "", row.pattern, name, call, *in_cold[each], *in_warm.get(each, ("–", "–")), goals,
                 equal]
            )  # fmt: skip
    return lines


def same_ids(mine: Sequence[dict], theirs: Sequence[dict]) -> str:
    """Whether all ids (of training: all tokens) are those of the first peer."""
    if any(one["digest"] is None for one in mine):
        return "not compared"
    equal = all(one["digest"] == other["digest"] for one, other in zip(mine, theirs, strict=True))
    return f"yes, all {sum(one['tokens'] for one in mine):,}" if equal else "no"


def make_vocabularies(folder: Path, texts: Texts, rows: Sequence[Row], vocab_size: int) -> None:
    """The same vocabularies for all encoders, in all formats."""
    for pattern in {row.pattern for row in rows if row.task == "encode"}:
        made = Tokenizer.train_from_iterator(column(texts.train), vocab_size, pattern=PATTERNS[pattern])
        made.save(folder / f"{pattern}.json")
        write_tiktoken(made, folder / f"{pattern}.tiktoken")
        write_hf(made, folder / f"{pattern}.hf.json")


def installed(row: Row, absent: set[str]) -> list[str]:
    """The peers whose packages are installed; other packages are added to `absent`."""
    lacking = {name: missing(row.task, name) for name in row.names}
    absent.update(package for package in lacking.values() if package)
    return [name for name in row.names if not lacking[name]]


def machine() -> str:
    info = Path("/proc/cpuinfo")
    models = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return f"{models[0] if models else platform.processor()}, {len(os.sched_getaffinity(0))} cores"


def versions(rows: Sequence[Row]) -> str:
    packages = {peers(row.task)[name].package for row in rows for name in installed(row, set())}
    return ", ".join(f"{package} {importlib.metadata.version(package)}" for package in sorted(packages))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", nargs="+", type=Path, default=[], help="Parquet (column `text`) or plain text")
    parser.add_argument("--mixed", nargs="+", type=Path, default=[], help="the same, in many languages and with code")
    parser.add_argument("--rows", default=",".join(ROWS), help=f"some of {','.join(ROWS)}")
    parser.add_argument("--vocab-size", type=int, help="default: 32,768; 1,536 with generated text, which has no more")
    parser.add_argument("--repetitions", type=int, help="texts that each process encodes, or trainings (default 4)")
    parser.add_argument("--starts", type=int, help="times that the encoding processes are started (default 3)")
    parser.add_argument("--quick", action="store_true", help="a tenth of the text, an eighth of the ids, fewer turns")
    parser.add_argument("--json", type=Path, help="file for all measurements")
    options = parser.parse_args()
    if unknown := set(options.rows.split(",")) - set(ROWS):
        parser.error(f"there are no rows called {', '.join(sorted(unknown))}")
    options.repetitions = options.repetitions or (3 if options.quick else 4)
    options.starts = options.starts or (2 if options.quick else 3)
    usual = 32_768 // (8 if options.quick else 1)
    options.vocab_size = options.vocab_size or (usual if options.text else 1536)
    return options


def main() -> None:
    options, console = arguments(), Console(width=None if sys.stdout.isatty() else 200)
    rows = [(name, row) for name in options.rows.split(",") for row in ROWS[name]]
    table = Table("task", "pattern", "peer", "call", "cold", "× first", "warm", "× first", "goal ×", "same ids")
    absent: set[str] = set()
    measured = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        console.print("Splitting the text, and training vocabularies …", style="dim")
        texts = prepare(folder, options.text, options.mixed, options.repetitions, options.quick)
        make_vocabularies(folder, texts, [row for _, row in rows], options.vocab_size)
        for title, row in rows:
            names = installed(row, absent)
            if len(names) < 2 or not getattr(texts, row.files):
                console.print(f"{title}, {row.pattern}: left out, no peer or no text for it", style="dim")
                continue
            console.print(f"{title}, {row.pattern} …", style="dim")
            cold, warm = measure(row, names, folder, texts, options)
            measured.append({"row": title, **asdict(row), "cold": cold, "warm": warm})
            for line in lines_of(TITLES[title], row, names, cold, warm):
                table.add_row(*line)
            table.add_section()
        train_mb = texts.sizes[texts.train] / 1e6
        unseen_mb = texts.sizes[texts.unseen[0]] / 1e6 if texts.unseen else 0
    console.print(table)
    console.print(
        f"Text: {texts.description}. Vocabularies of {options.vocab_size:,} trained on {train_mb:,.0f} MB of it. "
        f"Cold: the first {unseen_mb:,.0f} MB of a process, {options.starts} starts; warm: the same amount up to "
        f"{options.repetitions - 1} times after it. Each peer's fastest call counts; ratios are of the same turn. "
        f"{machine()}; {versions([row for _, row in rows])}."
    )
    if absent:
        console.print(f"Not installed, so left out: pip install {' '.join(sorted(absent))}")
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "measured": measured}, indent=1) + "\n")


if __name__ == "__main__":
    main()
