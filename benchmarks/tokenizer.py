"""How fast is our tokenizer, next to its peers? Prints a table of ratios, all measured in this run.

    python benchmarks/tokenizer.py                                     # on invented text, anywhere
    python benchmarks/tokenizer.py --text a.parquet b.parquet --mixed c.parquet --json out.json
    python benchmarks/tokenizer.py --quick --rows train,encode-1

Each peer works in a process of its own, which is kept on as many cores as it may have threads. It reads its text first
and makes its encoder; then the peers take turns, one at a time, so that whatever else the machine does strikes all of
them alike. A ratio is that of two peers in the same turn; the table has their medians. In every turn the text is one
that no encoder has seen, and that is not in the text that the vocabulary was learnt from.
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
sys.path.insert(0, str(ROOT))  # its neighbours, for who starts it as a file

from benchmarks.tokenizer_peers import Work, column, missing, peers
from benchmarks.tokenizer_texts import Texts, prepare
from nanochat._rustbpe import PATTERNS
from nanochat.tokenizer.bpe import Tokenizer
from nanochat.tokenizer.huggingface_format import write_hf
from nanochat.tokenizer.tiktoken_format import write_tiktoken


@dataclass(frozen=True)
class Row:
    """One comparison: who is compared with the first of `names`, at what, on which files."""

    task: str
    files: str
    """Field of `Texts`."""
    threads: int
    pattern: str
    names: Sequence[str]
    goals: str = ""
    """What we want to be, as a ratio to the first: must, target, moonshot."""


OUR_ENCODERS = ("nanochat", "nanochat, from str", "nanochat, out=")
FROM_PARQUET = ("nanochat, Parquet → ids", "nanochat, Parquet → Parquet")
ROWS: dict[str, list[Row]] = {
    "train": [
        Row("train", "learn", 2, "nanochat", ("rustbpe", "nanochat", "tokenizers"), "8 15 20"),
        Row("train", "learn", 2, "gpt2", ("rustbpe", "nanochat", "gigabpe", "gigatoken")),
    ],
    "train-all": [Row("train", "everything", 2, "nanochat", ("rustbpe", "nanochat"), "15 25 40")],
    "encode-1": [
        Row("encode", "unseen", 1, "nanochat", ("tiktoken", *OUR_ENCODERS, "fastokens", "rustbpe"), "20 30 42"),
        Row("encode", "unseen", 1, "cl100k", ("tiktoken", "nanochat", "gigatoken")),
    ],
    "encode-2": [
        Row(
            "encode",
            "unseen",
            2,
            "nanochat",
            ("tiktoken", *OUR_ENCODERS, "fastokens", "tokenizers", "rustbpe"),
            "18 28 38",
        ),
        Row("encode", "unseen", 2, "cl100k", ("tiktoken", "nanochat", "gigatoken")),
    ],
    "parquet": [
        Row("encode", "unseen", 2, "nanochat", ("tiktoken", *FROM_PARQUET), "13 20 25"),
        Row("encode", "unseen", 2, "cl100k", ("tiktoken", *FROM_PARQUET, "gigatoken, Parquet → ids")),
    ],
    "mixed": [
        Row("encode", "mixed", 2, "nanochat", ("tiktoken", *OUR_ENCODERS, "fastokens"), "15 30 45"),
        Row("encode", "mixed", 2, "cl100k", ("tiktoken", "nanochat", "gigatoken")),
    ],
    "memory": [Row("memory", "learn", 2, "nanochat", ("rustbpe", "nanochat", "tokenizers"))],
}
TITLES = {
    "train": "learn",
    "train-all": "learn from everything",
    "encode-1": "encode, 1 thread",
    "encode-2": "encode, 2 threads",
    "parquet": "Parquet file to ids, 2 threads\n(tiktoken: text in memory)",
    "mixed": "encode languages and code,\n2 threads",
    "memory": "memory above the text, learn\n(goal: 150, 80, 50 MB)",
}


class Peer:
    """The process in which one peer works, from its first line to its last."""

    def __init__(self, name: str, row: Row, folder: Path, texts: Texts, vocab_size: int, cores: list[int]) -> None:
        self.name = name
        work = Work(
            row.task, name, row.pattern, row.threads, vocab_size, str(folder), str(texts.learn), str(texts.warm_up)
        )
        limits = {
            "RAYON_NUM_THREADS": str(row.threads),
            "TOKENIZERS_PARALLELISM": "true" if row.threads > 1 else "false",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.tokenizer_peers", work.to_json()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=os.environ | limits,
            preexec_fn=lambda: os.sched_setaffinity(0, cores[: row.threads]),
        )
        self._answer()

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise SystemExit(f"{self.name} failed; what it said is above.")
        return json.loads(line)

    def work_on(self, path: Path) -> dict[str, Any]:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(str(path)) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.stdin:
            self._process.stdin.close()
        self._process.wait()


def measure(row: Row, names: Sequence[str], folder: Path, texts: Texts, options: argparse.Namespace) -> list[dict]:
    """For each turn, what each peer took: `{name: {seconds, above, tokens, digest, bytes}}`."""
    files = getattr(texts, row.files)
    turns = files if isinstance(files, list) else [files] * options.repetitions
    cores = sorted(os.sched_getaffinity(0))
    found = []
    with ExitStack() as stack:
        workers = [stack.enter_context(Peer(name, row, folder, texts, options.vocab_size, cores)) for name in names]
        for turn, path in enumerate(turns):
            order = workers[turn % len(workers) :] + workers[: turn % len(workers)]
            found.append({peer.name: peer.work_on(path) | {"bytes": texts.sizes[path]} for peer in order})
    return found


def spread(values: Sequence[float], digits: int) -> str:
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f}–{max(values):,.{digits}f})"


def lines_of(title: str, row: Row, names: Sequence[str], turns: list[dict]) -> list[list[str]]:
    """A line of the table for each peer."""
    first = names[0]
    lines = []
    for name in names:
        mine, theirs = [turn[name] for turn in turns], [turn[first] for turn in turns]
        if row.task == "memory":
            measured = spread([one["above"] / 1e6 for one in mine], 0) + " MB"
            ratios = [one["above"] / max(other["above"], 1) for one, other in zip(mine, theirs, strict=True)]
        else:
            measured = spread([one["bytes"] / one["seconds"] / 1e6 for one in mine], 0) + " MB/s"
            ratios = [other["seconds"] / one["seconds"] for one, other in zip(mine, theirs, strict=True)]
        equal = same_ids(mine, theirs)
        ratio = "1" if name == first else spread(ratios, 1)
        goals = row.goals.replace(" ", ", ") if name.startswith("nanochat") else ""
        lines.append([title if name == first else "", row.pattern, name, measured, ratio, goals, equal])
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
        made = Tokenizer.train_from_iterator(column(texts.learn), vocab_size, pattern=PATTERNS[pattern])
        made.save(folder / f"{pattern}.json")
        write_tiktoken(made, folder / f"{pattern}.tiktoken")
        write_hf(made, folder / f"{pattern}.hf.json")


def installed(row: Row, absent: set[str]) -> list[str]:
    """Who can take part; who cannot is added to `absent`."""
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
    parser.add_argument("--vocab-size", type=int, help="default: 32,768; of invented text 1,536, all that it holds")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a tenth of the text, an eighth of the ids, three turns")
    parser.add_argument("--json", type=Path, help="where to write everything that was measured")
    options = parser.parse_args()
    if unknown := set(options.rows.split(",")) - set(ROWS):
        parser.error(f"there are no rows called {', '.join(sorted(unknown))}")
    if options.quick:
        options.repetitions = 3
    usual = 32_768 // (8 if options.quick else 1)
    options.vocab_size = options.vocab_size or (usual if options.text else 1536)
    return options


def main() -> None:
    options, console = arguments(), Console(width=None if sys.stdout.isatty() else 150)
    rows = [(name, row) for name in options.rows.split(",") for row in ROWS[name]]
    table = Table("task", "pattern", "who", "median (min–max)", "× the first", "goal ×", "same ids")
    absent: set[str] = set()
    measured = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        console.print("Cutting the text, and learning vocabularies …", style="dim")
        texts = prepare(folder, options.text, options.mixed, options.repetitions, options.quick)
        make_vocabularies(folder, texts, [row for _, row in rows], options.vocab_size)
        for title, row in rows:
            names = installed(row, absent)
            if len(names) < 2 or not getattr(texts, row.files):
                console.print(f"{title}, {row.pattern}: left out, no peer or no text for it", style="dim")
                continue
            console.print(f"{title}, {row.pattern} …", style="dim")
            turns = measure(row, names, folder, texts, options)
            measured.append({"row": title, **asdict(row), "turns": turns})
            for line in lines_of(TITLES[title], row, names, turns):
                table.add_row(*line)
            table.add_section()
        learnt = texts.sizes[texts.learn] / 1e6
    console.print(table)
    console.print(
        f"Text: {texts.description}. Vocabularies of {options.vocab_size:,} learnt from {learnt:,.0f} MB of it; "
        f"{options.repetitions} turns, each on text that nobody had seen; ratios are of the same turn. "
        f"{machine()}; {versions([row for _, row in rows])}."
    )
    if absent:
        console.print(f"Not installed, so left out: pip install {' '.join(sorted(absent))}")
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "measured": measured}, indent=1) + "\n")


if __name__ == "__main__":
    main()
