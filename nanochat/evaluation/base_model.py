"""The worker that evaluates a base model: `python -m nanochat.evaluation.base_model job.json`."""

import json
from pathlib import Path
from typing import Any

import torch

from nanochat.config.training import BaseEvaluationConfig
from nanochat.data.loader import sequential
from nanochat.data.row_index import open_rows
from nanochat.evaluation.bits_per_byte import bits_per_byte
from nanochat.inference.engine import Engine
from nanochat.model.files import load_model
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
    engine = Engine(model, tokenizer)
    prompts = [[tokenizer.bos, *tokenizer.encode(prompt)] for prompt in config.prompts]
    greedy = engine.generate(prompts, config.sample_tokens) if prompts else []
    empty = [[tokenizer.bos]] * config.free_samples
    free = engine.generate(empty, 4 * config.sample_tokens, temperature=1.0, seed=config.seed) if empty else []
    samples = [
        *({"prompt": p, "text": tokenizer.decode(ids)} for p, ids in zip(config.prompts, greedy, strict=True)),
        *({"prompt": "", "text": tokenizer.decode(ids)} for ids in free),
    ]
    evaluation = {"bits_per_byte": measured, "validation_rows": min(limit, len(rows)), "samples": samples}
    (Path(job.out) / "evaluation.json").write_text(
        json.dumps(evaluation, indent=1, ensure_ascii=False), encoding="utf-8"
    )
    return {"bits_per_byte": measured, "validation_tokens": min(limit, len(rows)) * rows.sequence_len}


if __name__ == "__main__":
    main(evaluate_base)
