"""The engines that `inference.py` compares: ours, transformers' `generate` on our export, and our engine before.

Each answers a list of requests, greedily and with fixed lengths, and returns the ids of each answer.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import torch

ROOT = Path(__file__).parent.parent
BEFORE = "84c0f9b"
"""The last commit with the engine that has neither continuous batching nor a prefix cache."""


class Work(NamedTuple):
    """A prompt, and the number of tokens to generate."""

    prompt: list[int]
    tokens: int


Answers = Callable[[Sequence[Work]], list[list[int]]]


def our_engine(folder: Path, **settings: Any):
    from nanochat.inference.engine import Engine, EngineSettings
    from nanochat.model.files import load_model
    from nanochat.tokenizer.bpe import Tokenizer

    return Engine(load_model(folder), Tokenizer.load(folder / "vocabulary.json"), EngineSettings(**settings))


def our_request(work: Work, **sampling: Any):
    from nanochat.inference.request import Request, SamplingParameters

    parameters = SamplingParameters(max_tokens=work.tokens, ignore_end=True, calculator=False, **sampling)
    return Request(prompt=work.prompt, sampling=parameters)


def ours(engine) -> Answers:
    def answer(works: Sequence[Work]) -> list[list[int]]:
        return [list(answers[0].ids) for answers in engine.complete([our_request(work) for work in works])]

    return answer


def transformers_calls(folder: Path, exported: Path) -> dict[str, Answers]:
    """`generate` with each dtype and cache; prompts are padded on the left, and all run as long as the longest."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    from nanochat.export.model_folder import write_network

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    calls: dict[str, Answers] = {}
    for dtype, kind in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        target = exported / dtype
        target.mkdir(parents=True)
        write_network(folder, target, dtype)
        model = AutoModelForCausalLM.from_pretrained(target, trust_remote_code=True, dtype=kind).eval()
        for cache in ("dynamic", "static"):
            calls[f"{dtype}, {cache} cache"] = _generate(model, cache)
    return calls


def _generate(model: Any, cache: str) -> Answers:
    def answer(works: Sequence[Work]) -> list[list[int]]:
        longest, tokens = max(len(work.prompt) for work in works), max(work.tokens for work in works)
        ids = torch.tensor([[0] * (longest - len(work.prompt)) + work.prompt for work in works])
        mask = torch.tensor([[0] * (longest - len(work.prompt)) + [1] * len(work.prompt) for work in works])
        with torch.inference_mode():
            found = model.generate(
                ids, attention_mask=mask, do_sample=False, max_new_tokens=tokens, min_new_tokens=tokens,
                cache_implementation=cache, eos_token_id=None, pad_token_id=0,
            )  # fmt: skip
        return [row[longest : longest + work.tokens] for row, work in zip(found.tolist(), works, strict=True)]

    return answer


class Before:
    """Our engine as it was, from git, in a process of its own."""

    def __init__(self, folder: Path, scratch: Path) -> None:
        archive = subprocess.run(["git", "archive", BEFORE, "nanochat"], cwd=ROOT, check=True, capture_output=True)
        with tarfile.open(fileobj=BytesIO(archive.stdout)) as files:
            files.extractall(scratch, filter="data")
        for library in (ROOT / "nanochat").glob("_rustbpe*.so"):
            (scratch / "nanochat" / library.name).write_bytes(library.read_bytes())
        self._process = subprocess.Popen(
            [sys.executable, "-c", _BEFORE, str(folder)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=scratch,
            env={**os.environ, "PYTHONPATH": str(scratch)},
        )  # fmt: skip

    def __call__(self, works: Sequence[Work]) -> list[list[int]]:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps([work._asdict() for work in works]) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("the earlier engine ended; its output is above")
        return json.loads(line)

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


_BEFORE = """
import json, sys
from pathlib import Path
from nanochat.inference.engine import Engine
from nanochat.model.files import load_model
from nanochat.tokenizer.bpe import Tokenizer
folder = Path(sys.argv[1])
engine = Engine(load_model(folder), Tokenizer.load(folder / "vocabulary.json"))
for line in sys.stdin:
    works = json.loads(line)
    answers = engine.generate([each["prompt"] for each in works], max(each["tokens"] for each in works), stop=False)
    print(json.dumps([ids[: each["tokens"]] for ids, each in zip(answers, works)]), flush=True)
"""


def first_output_s(arguments: Sequence[str]) -> float:
    """Seconds from the start of a `nanochat` command to the first byte that it prints."""
    began = time.perf_counter()
    with subprocess.Popen([sys.executable, "-m", "nanochat.cli", *arguments], stdout=subprocess.PIPE) as process:
        assert process.stdout
        if not process.stdout.read(1):
            raise SystemExit("the command printed nothing")
        seconds = time.perf_counter() - began
        process.stdout.read()
    return seconds
