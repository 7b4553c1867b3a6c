"""Measures an engine: latency, throughput, and the memory bandwidth and arithmetic that it uses.

    for workload in workloads([1, 8, 32], prompt_tokens=128, answer_tokens=128):
        measured = measure(engine, costs, workload, seed=1)
        measured.tokens_per_s, measured.first_token_s

Prompts are random ids, and answers do not end early.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch

from nanochat.errors import BadConfig
from nanochat.inference.costs import WEIGHT_BYTES, Costs
from nanochat.inference.decoder import WeightFormat
from nanochat.inference.engine import Engine, EngineSettings
from nanochat.inference.request import Request, SamplingParameters
from nanochat.model.files import load_model
from nanochat.tokenizer.bpe import Tokenizer

USUAL_TOKENS = 128
REPEATS = 5
"""Of the measurements of the machine; the best counts."""
SHORTEST_PROMPT, SHORTEST_ANSWER = 8, 16
"""A ragged workload's longest prompt is 8 times its shortest, its longest answer 16 times its shortest."""


@dataclass(frozen=True)
class Workload:
    """Requests that arrive together."""

    batch: int
    prompt_tokens: int
    """Of the longest prompt."""
    answer_tokens: int
    """Of the longest answer."""
    ragged: bool
    """Whether lengths are spread evenly; otherwise all are the longest."""

    def requests(self, vocab_size: int, seed: int) -> list[Request]:
        """Random prompts, with answers of fixed lengths. The same seed gives the same ones."""
        generator = np.random.default_rng(seed)

        def lengths(most: int, divisor: int) -> list[int]:
            if not self.ragged:
                return [most] * self.batch
            spread = np.linspace(max(1, most // divisor), most, self.batch).astype(int)
            return generator.permutation(spread).tolist()

        prompts = lengths(self.prompt_tokens, SHORTEST_PROMPT)
        answers = lengths(self.answer_tokens, SHORTEST_ANSWER)
        return [
            Request(
                prompt=generator.integers(0, vocab_size, prompt).tolist(),
                sampling=SamplingParameters(max_tokens=answer, ignore_end=True, calculator=False),
            )
            for prompt, answer in zip(prompts, answers, strict=True)
        ]


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """The result of one workload."""

    batch: int
    ragged: bool
    warm: bool
    """Whether the prompts were computed before, and are in the prefix cache."""
    prompt_tokens: int
    cached_prompt_tokens: int
    answer_tokens: int
    seconds: float
    tokens_per_s: float
    """Generated tokens, over the whole time."""
    first_token_s: float
    """Median over the requests, from their submission."""
    between_tokens_s: float
    """Median, after the first token of a request."""
    between_tokens_p95_s: float
    decode_tokens_per_s: float
    """After the last first token, when no prompt is left."""
    decode_bytes_per_s: float
    """Read in that time: weights once a step, and each answer's keys and values."""
    flops_per_s: float
    """Over the whole time: 2 per weight of a matrix product, 4 per channel and attended position; 0 if `warm`."""
    peak_memory_bytes: int
    """Of this process on a CPU, of all tensors on a GPU."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """All measurements of a model, and the machine that they were made on."""

    device: str
    threads: int
    weights: str
    parameters: int
    step_bytes: int
    """Bytes of weights that a step reads."""
    peak_bytes_per_s: float
    peak_flops_per_s: float
    measured: list[Measurement]


def bench(
    model_folder: Path,
    batches: Sequence[int],
    *,
    prompt_tokens: int = 0,
    answer_tokens: int = 0,
    weights: WeightFormat = "fp32",
    progress: Callable[[str], object] = str,
) -> Report:
    """Measures every batch, uniform and ragged, cold and warm. Lengths of 0: 128, or half of a shorter context.

    Raises `BadConfig` if prompt and answer together are longer than the context.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = load_model(model_folder, device)
    tokenizer = Tokenizer.load(model_folder / "vocabulary.json")
    context = model.architecture.sequence_len
    prompt_tokens = prompt_tokens or min(USUAL_TOKENS, context // 2)
    answer_tokens = answer_tokens or min(USUAL_TOKENS, context // 2)
    if prompt_tokens + answer_tokens > context:
        raise BadConfig(
            f"{prompt_tokens} + {answer_tokens} tokens are more than the model's context of {context}.",
            hint="Lower `--prompt-tokens` or `--answer-tokens`.",
        )
    settings = EngineSettings(
        slots=max(batches), prefix_cache_tokens=max(batches) * (prompt_tokens + answer_tokens), weights=weights
    )
    costs = Costs(model.architecture, WEIGHT_BYTES[weights], model.activation_dtype.itemsize)
    engine = Engine(model, tokenizer, settings)
    del model  # the engine has its own copy of the weights
    bandwidth, flops = peak_rates(device, torch.float32 if weights == "fp32" else torch.bfloat16)
    measured: list[Measurement] = []
    for number, workload in enumerate(workloads(batches, prompt_tokens, answer_tokens)):
        progress(f"{workload.batch} requests, {'ragged' if workload.ragged else 'uniform'} lengths")
        measure(engine, costs, workload, seed=2 * number)  # the first pass allocates
        for warm in (False, True):
            measured.append(measure(engine, costs, workload, seed=2 * number + 1, warm=warm))
    return Report(
        device=str(device),
        threads=torch.get_num_threads(),
        weights=weights,
        parameters=costs.architecture.parameters,
        step_bytes=costs.weights_read,
        peak_bytes_per_s=bandwidth,
        peak_flops_per_s=flops,
        measured=measured,
    )


def workloads(batches: Sequence[int], prompt_tokens: int, answer_tokens: int) -> Iterator[Workload]:
    """Each batch with uniform lengths, and if it has several requests with ragged ones."""
    for batch in batches:
        yield Workload(batch, prompt_tokens, answer_tokens, ragged=False)
        if batch > 1:
            yield Workload(batch, prompt_tokens, answer_tokens, ragged=True)


def measure(engine: Engine, costs: Costs, workload: Workload, *, seed: int, warm: bool = False) -> Measurement:
    """Runs a workload to its end. For `warm`, it must have run before with the same seed."""
    requests = workload.requests(engine.tokenizer.vocab_size, seed)
    before = engine.statistics.prompt_tokens_cached
    steps, times = _run(engine, requests)
    cached = engine.statistics.prompt_tokens_cached - before
    prompt_tokens = sum(len(request.prompt) for request in requests)
    generated = [len(some) for some in times]
    all_decode = max(some[0] for some in times)  # no prompt is left
    decode_s = max(steps[-1] - all_decode, 1e-9)
    late = [  # positions of the tokens that these steps read
        len(request.prompt) + number - 1
        for request, some in zip(requests, times, strict=True)
        for number, time_s in enumerate(some)
        if time_s > all_decode
    ]
    read = costs.weights_read * sum(step > all_decode for step in steps) + sum(map(costs.cache_read, late))
    flops = sum(
        costs.flops(position, head=position >= len(request.prompt) - 1)
        for request, tokens in zip(requests, generated, strict=True)
        for position in range(len(request.prompt) + tokens - 1)
    )
    gaps = np.concatenate([np.diff(some) for some in times])
    return Measurement(
        batch=workload.batch,
        ragged=workload.ragged,
        warm=warm,
        prompt_tokens=prompt_tokens,
        cached_prompt_tokens=cached,
        answer_tokens=sum(generated),
        seconds=steps[-1],
        tokens_per_s=sum(generated) / steps[-1],
        first_token_s=median(some[0] for some in times),
        between_tokens_s=float(np.median(gaps)),
        between_tokens_p95_s=float(np.percentile(gaps, 95)),
        decode_tokens_per_s=len(late) / decode_s,
        decode_bytes_per_s=read / decode_s,
        flops_per_s=0.0 if warm else flops / steps[-1],
        peak_memory_bytes=_peak_memory_bytes(),
    )


def _run(engine: Engine, requests: Sequence[Request]) -> tuple[list[float], list[list[float]]]:
    """Answers requests that arrive together; returns the end of each step, and the time of each request's tokens.

    Times are in seconds since the arrival.
    """
    began = time.perf_counter()
    numbers = [engine.submit(request) for request in requests]
    times: dict[int, list[float]] = {number: [] for number in numbers}
    steps: list[float] = []
    while engine.has_work:
        deltas = engine.step()
        steps.append(time.perf_counter() - began)
        for delta in deltas:
            times[delta.request] += [steps[-1]] * len(delta.ids)
    return steps, [times[number] for number in numbers]


def peak_rates(device: torch.device, dtype: torch.dtype) -> tuple[float, float]:
    """What this machine reaches at most: bytes read per second, operations per second of a matrix product."""
    numbers = torch.ones(1 << 26, device=device)  # 256 MB, more than any cache
    square = torch.ones(1 << 11, 1 << 11, device=device, dtype=dtype)
    read_s = min(_seconds(numbers.sum, device) for _ in range(REPEATS))
    product_s = min(_seconds(lambda: square @ square, device) for _ in range(REPEATS))
    return numbers.nbytes / read_s, 2 * len(square) ** 3 / product_s


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def _peak_memory_bytes() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
