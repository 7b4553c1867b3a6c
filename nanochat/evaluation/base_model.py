"""The worker that evaluates a base model: `python -m nanochat.evaluation.base_model job.json`."""

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nanochat.config.compute import Kernels
from nanochat.config.training import BaseEvaluationConfig
from nanochat.data.loader import IGNORED, Batch, sequential
from nanochat.data.row_index import open_rows
from nanochat.errors import BadSource
from nanochat.evaluation.bits_per_byte import of_equal_shape
from nanochat.evaluation.row_bits import RowBits
from nanochat.inference.engine import Engine, EngineSettings
from nanochat.inference.request import Request, SamplingParameters
from nanochat.model.attention import best_backend
from nanochat.model.compilation import compile_loss, compile_network
from nanochat.model.files import load_model
from nanochat.model.gpt import GPT
from nanochat.tokenizer.bpe import Tokenizer
from nanochat.workers.job import Job
from nanochat.workers.ranks import World, from_all_ranks, main

BATCH_TOKENS = 16_384


def evaluate_base(job: Job, world: World) -> dict[str, Any]:
    """Measures bits per byte over all ranks, and generates samples; returns the stage's metrics."""
    config = BaseEvaluationConfig.model_validate(job.config)
    rows = open_rows(job.input("rows"), "validation")
    model = _load(job.input("model"), rows.sequence_len, job.compute.kernels, world.device)
    tokenizer = Tokenizer.load(job.input("model") / "vocabulary.json")
    limit = max(1, config.evaluation_tokens // rows.sequence_len)
    batch_rows = max(1, BATCH_TOKENS // rows.sequence_len)
    if world.is_first:
        job.event(0, 2, "parts", "bits per byte")
    batches = sequential(rows, batch_rows, world.rank, world.world_size, world.device, limit)
    token_bytes = torch.from_numpy(tokenizer.token_byte_lengths()).to(world.device)
    on_gpu = world.device.type == "cuda"
    mine = row_bits(model, of_equal_shape(batches, batch_rows) if on_gpu else batches, token_bytes)
    found = in_order(from_all_ranks(mine))
    if not found.text_bytes.sum():
        raise BadSource("The validation rows contain no text.", hint="Hold out more (`data.validation_documents`).")
    measured, interval = found.per_byte()
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
    found.write(Path(job.out))
    ends = {"bits_per_byte_interval": [interval.low, interval.high]} if interval else {}
    evaluation = {"bits_per_byte": measured, **ends, "validation_rows": min(limit, len(rows)), "samples": samples}
    (Path(job.out) / "evaluation.json").write_text(
        json.dumps(evaluation, indent=1, ensure_ascii=False), encoding="utf-8"
    )
    return {"bits_per_byte": measured, "validation_tokens": min(limit, len(rows)) * rows.sequence_len}


def _load(folder: Path, sequence_len: int, kernels: Kernels, device: torch.device) -> GPT:
    """The model in fp32 on a CPU; on a GPU in bf16, with the attention kernel and the programs of training."""
    if device.type != "cuda":
        return load_model(folder, device)
    dtype, compiled = torch.bfloat16, kernels.compile != "off"
    model = load_model(folder, device, dtype).eval()
    model.attend_with(best_backend(kernels.attention, device, dtype, compiled), sequence_len)
    if compiled:
        compile_loss(model)
        compile_network(model, sequence_len)
    return model


@torch.no_grad()
def row_bits(model: nn.Module, batches: Iterable[Batch], token_bytes_V: Tensor) -> RowBits:
    """The bits of each row of this rank; targets count as in `bits_per_byte`. Rows without a target are left out."""
    nats, text_bytes = [np.zeros(0)], [np.zeros(0, np.int64)]
    for inputs_BT, targets_BT in batches:
        bytes_BT = torch.where(targets_BT == IGNORED, 0, token_bytes_V[targets_BT.clamp_min(0)])
        nats_BT = model(inputs_BT, targets_BT, reduction="none").double() * (bytes_BT > 0)
        rows_B = (targets_BT != IGNORED).any(1)
        nats.append(nats_BT.sum(1)[rows_B].cpu().numpy())
        text_bytes.append(bytes_BT.sum(1)[rows_B].cpu().numpy())
    return RowBits(np.concatenate(nats) / math.log(2), np.concatenate(text_bytes))


def in_order(parts: Sequence[RowBits]) -> RowBits:
    """The rows of all ranks: rank r has every W-th."""
    count = sum(len(part.bits) for part in parts)
    found = RowBits(np.zeros(count), np.zeros(count, np.int64))
    for rank, part in enumerate(parts):
        found.bits[rank :: len(parts)], found.text_bytes[rank :: len(parts)] = part.bits, part.text_bytes
    return found


def _texts(model: GPT, tokenizer: Tokenizer, requests: Sequence[Request]) -> list[str]:
    """The text of each answer of each request; an answer may be longer than the model's context."""
    if not requests:
        return []
    longest = max(len(request.prompt) + request.sampling.max_tokens for request in requests)
    engine = Engine(model, tokenizer, EngineSettings(context_tokens=longest))
    return [tokenizer.decode(answer.ids) for answers in engine.complete(requests) for answer in answers]


if __name__ == "__main__":
    main(evaluate_base)
