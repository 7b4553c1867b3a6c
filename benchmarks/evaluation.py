"""CORE on a d4 with random weights, in fp32 on a CPU, beside nanochat's way, question by question in one run.

    python benchmarks/evaluation.py --bundle FOLDER                          500 questions a task, 50 of them both ways
    python benchmarks/evaluation.py --bundle FOLDER --questions 12 --both 3  in minutes

nanochat's way is one question a pass: its choices are a padded batch, and the logits of every position are computed. It
is timed on the first questions of each task, ours on all of them, with rendering and encoding. Answers must be equal.
The vocabulary of 32,768 ids is trained on the text of the bundle.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import torch
import yaml

from nanochat.config.evaluation import CoreConfig
from nanochat.config.training import ModelConfig
from nanochat.evaluation.core.evaluate import evaluate
from nanochat.evaluation.examples import Example, by_task, read_examples
from nanochat.evaluation.finished import FinishedTasks
from nanochat.evaluation.own_model import OwnModel
from nanochat.model.architecture import Architecture
from nanochat.model.gpt import GPT
from nanochat.tokenizer.bpe import Tokenizer
from nanochat.workers.ranks import World
from tests.evaluation.core_reference import Verdict, one

VOCABULARY, ROW_TOKENS, NOISE = 32_768, 2048, 0.02
TIE = 1e-6
"""Options whose means differ by less than this share are equal: rounding decides between them."""


@dataclass
class Line:
    """One task: seconds per question, and equal answers."""

    task: str
    kind: str
    options: int
    ours_s: float
    theirs_s: float
    equal: int
    ties: int
    compared: int
    questions: int

    @property
    def ratio(self) -> float:
        return self.theirs_s / self.ours_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--questions", type=int, default=500, help="per task")
    parser.add_argument("--both", type=int, default=50, help="of them, questions that are answered both ways")
    parser.add_argument("--tasks", nargs="*", default=[])
    parser.add_argument("--threads", type=int, default=0, help="of both ways; 0: one for each core")
    parser.add_argument("--cpu-time", action="store_true", help="of the processor, for a machine that is not idle")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    clock = time.process_time if given.cpu_time else time.perf_counter
    tokenizer = trained(given.bundle)
    model = random_model()
    own = OwnModel(model, tokenizer, threads=torch.get_num_threads())
    entries = yaml.safe_load((given.bundle / "core.yaml").read_text())["icl_tasks"]
    lines: list[Line] = []
    print(f"{'task':34}{'kind':20}{'ours':>9}{'nanochat':>10}{'ratio':>8}   equal answers")
    for entry in entries:
        if given.tasks and entry["label"] not in given.tasks:
            continue
        began = clock()
        examples = ours(own, given.bundle, entry["label"], given.questions)
        ours_s = (clock() - began) / len(examples)
        text = (given.bundle / "eval_data" / entry["dataset_uri"]).read_text().strip().split("\n")
        rows = [json.loads(row) for row in text]
        random.Random(1337).shuffle(rows)
        rows = rows[: given.questions]
        both = min(given.both, len(rows))
        began = clock()
        verdicts = [one(model, tokenizer, entry, rows, index, 0) for index in range(both)]
        theirs_s = (clock() - began) / both
        found = [same(example, verdict) for example, verdict in zip(examples, verdicts, strict=False)]
        options = max(len(example.choices) for example in examples)
        lines.append(
            Line(entry["label"], examples[0].kind, options, ours_s, theirs_s,
                 sum(each != "different" for each in found), found.count("tie"), both, len(examples))
        )  # fmt: skip
        show(lines[-1])
    print()
    summary(lines)
    if any(line.equal < line.compared for line in lines):
        sys.exit("Some answers differ.")


def ours(model: OwnModel, bundle: Path, task: str, questions: int) -> list[Example]:
    """The examples of one task, in the order of their indexes."""
    with tempfile.TemporaryDirectory() as folder:
        config = CoreConfig(limit=questions, tasks=(task,))
        world = World(0, 1, torch.device("cpu"))
        evaluate(model, bundle, config, Path(folder), world, finished=FinishedTasks(""), progress=lambda *_: None)
        return by_task(read_examples(Path(folder)))[task]


def same(example: Example, verdict: Verdict) -> str:
    """`same`, `different`, or `tie`: the two best options are equal, and rounding decides between them."""
    assert example.span_tokens == tuple(verdict.spans), example.question
    if example.kind == "continuation":
        return "same" if example.right == verdict.right else "different"
    best, second, *_ = sorted(verdict.means)
    if second - best < TIE * best:
        return "tie"
    return "same" if example.answer == example.choices[verdict.chosen] else "different"


def show(line: Line) -> None:
    ties = f", {line.ties} of them ties" if line.ties else ""
    print(
        f"{line.task:34}{line.kind:20}{1000 * line.ours_s:6.1f} ms{1000 * line.theirs_s:7.0f} ms{line.ratio:7.1f}x"
        f"   {line.equal} of {line.compared}{ties}",
        flush=True,
    )


def summary(lines: list[Line]) -> None:
    chosen = {
        "overall": (lines, 8),
        "four choices": ([line for line in lines if line.kind == "choice" and line.options >= 4], 12),
        "language modelling": ([line for line in lines if line.kind == "continuation"], 3),
    }
    for name, (some, goal) in chosen.items():
        if some:
            theirs = sum(line.theirs_s * line.questions for line in some)
            mine = sum(line.ours_s * line.questions for line in some)
            print(f"{name:34}{mine:17.0f} s{theirs:8.0f} s{theirs / mine:7.1f}x   (goal {goal}x)")


def random_model() -> GPT:
    """A d4 in which no weight is 0."""
    model = GPT(Architecture(model=ModelConfig(depth=4), vocab_size=VOCABULARY, sequence_len=ROW_TOKENS))
    model.init_weights(1)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight += NOISE * torch.randn(weight.shape, generator=generator)
    return model.eval()


def trained(bundle: Path) -> Tokenizer:
    texts = [path.read_text() for path in sorted((bundle / "eval_data").rglob("*.jsonl"))]
    parts = (text[start : start + 5000] for text in texts for start in range(0, len(text), 5000))
    tokenizer = Tokenizer.train_from_iterator(parts, VOCABULARY)
    if tokenizer.vocab_size != VOCABULARY:
        sys.exit(f"The bundle has text for {tokenizer.vocab_size:,} ids only.")
    return tokenizer


if __name__ == "__main__":
    main()
