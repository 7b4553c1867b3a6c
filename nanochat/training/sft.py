"""The supervised fine-tuning worker: `python -m nanochat.training.sft job.json`, under torchrun.

It trains on rows of conversations; the loss mask counts only the assistant's tokens. Learning rates and batch size are
those of the base model, scaled.
"""

import json
from pathlib import Path
from typing import Any

import torch

from nanochat.config.chat import SFTConfig
from nanochat.config.training import PretrainConfig
from nanochat.data.loader import IGNORED, sequential
from nanochat.data.row_index import open_rows
from nanochat.evaluation.bits_per_byte import of_equal_shape
from nanochat.model.files import load_model
from nanochat.optim.optimizer import build_optimizer
from nanochat.optim.schedule import sft_rates
from nanochat.scaling import hyperparameters_from_steps
from nanochat.training.device_setup import compute_dtype, prepare_for_device
from nanochat.training.loop import Schedule, rows_source, train
from nanochat.training.micro_batch import micro_batch_rows, rows_that_run
from nanochat.workers.job import Job
from nanochat.workers.ranks import World, main, sum_over_ranks

BASE_FILE = "pretrain.json"


def sft(job: Job, world: World) -> dict[str, Any]:
    """Fine-tunes a base model on conversations; returns the stage's metrics."""
    config = SFTConfig.model_validate(job.config)
    base = job.input("base")
    rows, held_out = (open_rows(job.input("conversations"), split) for split in ("train", "validation"))
    model = load_model(base, world.device, compute_dtype(config.precision, world.device))
    before = json.loads((base / BASE_FILE).read_text(encoding="utf-8"))
    pretrained = PretrainConfig.model_validate(before["config"])
    batch_tokens = config.batch_tokens or before["batch_tokens"]
    batch_rows = max(1, batch_tokens // rows.sequence_len)
    steps = max(1, round(config.epochs * len(rows) / batch_rows))
    hyperparameters = hyperparameters_from_steps(
        model.architecture.model_copy(update={"sequence_len": rows.sequence_len}),
        batch_tokens=batch_rows * rows.sequence_len,
        steps=steps,
        muon_weight_decay=0.0,
    )
    optimizer = build_optimizer(model, pretrained.optimizer, hyperparameters, exact=job.compute.parallelism.exact)
    micro = micro_batch_rows(job.compute, model, rows.sequence_len, batch_rows, world)
    setup = prepare_for_device(model, config.precision, job.compute.kernels, world.device, rows.sequence_len)
    micro, tried = rows_that_run(job.compute, model, micro, rows.sequence_len, batch_rows, world)

    @torch.no_grad()
    def evaluate(step: int) -> float:
        nats, counted = 0.0, 0.0
        batches = sequential(held_out, micro, world.rank, world.world_size, world.device)
        for inputs_BT, targets_BT in of_equal_shape(batches, micro):
            nats += model(inputs_BT, targets_BT, reduction="sum").item()
            counted += int((targets_BT != IGNORED).sum())
        nats, counted = sum_over_ranks(nats, counted)
        return nats / max(counted, 1.0)

    schedule = Schedule(
        open_source=rows_source(rows, config.seed, batch_rows, micro, world),
        steps=steps,
        batch_tokens=batch_rows * rows.sequence_len,
        sequence_len=rows.sequence_len,
        micro_batch_rows=micro,
        rates=lambda step: sft_rates(step, steps, config),
        evaluate=evaluate,
        evaluation_name="validation_loss",
        evaluate_every_steps=config.evaluate_every_steps,
        guard=config.guard,
    )
    trained = train(job, world, model, optimizer, schedule, setup + tried)
    if world.is_first:
        trained.write(Path(job.out), model, base / "vocabulary.json")
    return trained.metrics(schedule, hyperparameters.parameters, world.world_size)


if __name__ == "__main__":
    main(sft)
