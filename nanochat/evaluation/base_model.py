"""The worker that evaluates a base model: `python -m nanochat.evaluation.base_model job.json`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from nanochat.config.training import BaseEvaluationConfig
from nanochat.data.loader import sequential
from nanochat.data.row_index import open_rows
from nanochat.evaluation.bits_per_byte import bits_per_byte
from nanochat.inference.engine import Engine, EngineSettings
from nanochat.inference.request import Request, SamplingParameters
from nanochat.model.files import load_model
from nanochat.model.gpt import GPT
from nanochat.tokenizer.bpe import Tokenizer
from nanochat.workers.job import Job
from nanochat.workers.ranks import World, main

BATCH_TOKENS = 16_384


def evaluate_base(job: Job, world: World) -> dict[str, Any]:
    """Measures bits per byte over all ranks, and generates samples; returns the stage's metrics."""
    config = BaseEvaluationConfig.model_validate(job.config)
    model = load_model(job.input("model"), world.device)
    tokenizer = Tokenizer.load(job.input("model") / "vocabulary.json")
    rows = open_rows(job.input("rows"), "validation")
    limit = max(1, config.evaluation_tokens // rows.sequence_len)
    batch_rows = max(1, BATCH_TOKENS // rows.sequence_len)
    if world.is_first:
        job.event(0, 2, "parts", "bits per byte")
    batches = sequential(rows, batch_rows, world.rank, world.world_size, world.device, limit)
    token_bytes = torch.from_numpy(tokenizer.token_byte_lengths()).to(world.device)
    measured = bits_per_byte(model, batches, token_bytes)
    if not world.is_first:
        return {}
    job.event(1, 2, "parts", "samples")
    greedy = SamplingParameters(max_tokens=config.sample_tokens)
    requests = [
        Request(prompt=[tokenizer.bos, *tokenizer.encode(prompt)], sampling=greedy) for prompt in config.prompts
    ]
    free = SamplingParameters(max_tokens=4 * config.sample_tokens, temperature=1.0, seed=config.seed)
    if config.free_samples:
        requests.append(Request(prompt=[tokenizer.bos], sampling=free, answers=config.free_samples))
    texts = _texts(model, tokenizer, requests)
    samples = [
        *({"prompt": prompt, "text": text} for prompt, text in zip(config.prompts, texts, strict=False)),
        *({"prompt": "", "text": text} for text in texts[len(config.prompts) :]),
    ]
    evaluation = {"bits_per_byte": measured, "validation_rows": min(limit, len(rows)), "samples": samples}
    (Path(job.out) / "evaluation.json").write_text(
        json.dumps(evaluation, indent=1, ensure_ascii=False), encoding="utf-8"
    )
    return {"bits_per_byte": measured, "validation_tokens": min(limit, len(rows)) * rows.sequence_len}


def _texts(model: GPT, tokenizer: Tokenizer, requests: Sequence[Request]) -> list[str]:
    """The text of each answer of each request; an answer may be longer than the model's context."""
    if not requests:
        return []
    longest = max(len(request.prompt) + request.sampling.max_tokens for request in requests)
    engine = Engine(model, tokenizer, EngineSettings(context_tokens=longest))
    return [tokenizer.decode(answer.ids) for answers in engine.complete(requests) for answer in answers]


if __name__ == "__main__":
    main(evaluate_base)
