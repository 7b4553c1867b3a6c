"""The pretraining worker: `python -m nanochat.training.pretrain job.json`, under torchrun.

Its payload: the weights, the architecture, the vocabulary, the config and the metrics.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from nanochat.config.training import PretrainConfig
from nanochat.data.loader import sequential
from nanochat.data.row_index import open_rows
from nanochat.evaluation.bits_per_byte import bits_per_byte, of_equal_shape
from nanochat.model.architecture import Architecture
from nanochat.model.files import load_model
from nanochat.model.gpt import GPT
from nanochat.optim.optimizer import build_optimizer
from nanochat.optim.schedule import rates
from nanochat.scaling import derive_hyperparameters
from nanochat.tokenizer.bpe import Tokenizer
from nanochat.training.core_while_training import core_metrics
from nanochat.training.device_setup import compute_dtype, prepare_for_device
from nanochat.training.loop import Schedule, rows_source, train
from nanochat.training.micro_batch import micro_batch_rows, rows_that_run
from nanochat.workers.job import Job
from nanochat.workers.ranks import World, main


def pretrain(job: Job, world: World) -> dict[str, Any]:
    """Trains a base model; returns the stage's metrics."""
    config = PretrainConfig.model_validate(job.config)
    vocabulary = job.input("vocabulary") / "vocabulary.json"
    tokenizer = Tokenizer.load(vocabulary)
    rows, held_out = (open_rows(job.input("rows"), split) for split in ("train", "validation"))
    hyperparameters = derive_hyperparameters(config, tokenizer.vocab_size, rows.sequence_len)

    model = _model(job, config, hyperparameters.architecture, world)
    optimizer = build_optimizer(model, config.optimizer, hyperparameters, exact=job.compute.parallelism.exact)
    token_bytes = torch.from_numpy(tokenizer.token_byte_lengths()).to(world.device)
    evaluation_rows = max(1, config.evaluation_tokens // rows.sequence_len)
    micro = micro_batch_rows(job.compute, model, rows.sequence_len, hyperparameters.batch_rows, world)
    setup = prepare_for_device(model, config.precision, job.compute.kernels, world.device, rows.sequence_len)
    micro, tried = rows_that_run(job.compute, model, micro, rows.sequence_len, hyperparameters.batch_rows, world)

    def evaluate(step: int) -> float:
        batches = sequential(held_out, micro, world.rank, world.world_size, world.device, evaluation_rows)
        return bits_per_byte(model, of_equal_shape(batches, micro), token_bytes)

    def core(say: Callable[[str], None]) -> dict[str, float] | None:
        return core_metrics(model, tokenizer, job.input("bundle"), config.core_limit, world, say)

    schedule = Schedule(
        open_source=rows_source(rows, config.seed, hyperparameters.batch_rows, micro, world),
        steps=hyperparameters.steps,
        batch_tokens=hyperparameters.batch_tokens,
        sequence_len=rows.sequence_len,
        micro_batch_rows=micro,
        rates=lambda step: rates(step, hyperparameters.steps, config.optimizer, hyperparameters.muon_weight_decay),
        evaluate=evaluate,
        evaluation_name="validation_bits_per_byte",
        evaluate_every_steps=config.evaluate_every_steps,
        core=core,
        core_every_steps=config.core_every_steps,
        guard=config.guard,
    )
    trained = train(job, world, model, optimizer, schedule, setup + tried)
    if world.is_first:
        out = Path(job.out)
        trained.write(out, model, vocabulary)
        (out / "pretrain.json").write_text(
            json.dumps({"config": job.config, "batch_tokens": hyperparameters.batch_tokens})
        )
    epochs = hyperparameters.steps * hyperparameters.batch_rows / len(rows)
    shared = trained.metrics(schedule, hyperparameters.parameters, world.world_size)
    return {**shared, "epochs": epochs, "flops": hyperparameters.flops}


def _model(job: Job, config: PretrainConfig, architecture: Architecture, world: World) -> GPT:
    """The model of the input `base`, to continue pretraining; without one, a new model."""
    if "base" in job.inputs:
        return load_model(job.input("base"), world.device, compute_dtype(config.precision, world.device))
    with torch.device("meta"):
        model = GPT(architecture, compute_dtype(config.precision, world.device))
    model.to_empty(device=world.device)
    model.init_weights(config.seed)
    return model


if __name__ == "__main__":
    main(pretrain)
