"""Loads the engine of an artifact."""

from __future__ import annotations

import torch

from nanochat import settings
from nanochat.inference.engine import Engine, EngineSettings
from nanochat.model.files import load_model
from nanochat.serve.options import ServeOptions
from nanochat.store.artifacts import Artifact
from nanochat.system_errors import from_system
from nanochat.tokenizer.bpe import Tokenizer


def load_engine(artifact: Artifact, tokenizer: Tokenizer, options: ServeOptions, number: int) -> Engine:
    """The engine of the replica with this number, counted over all models. Runs in the engine's thread.

    Replicas take turns on the GPUs; without one, they share the cores.
    """
    count = torch.cuda.device_count()
    device = torch.device("cuda", number % count) if count else torch.device("cpu")
    threads = max(1, settings.cores() // options.replicas)
    try:
        model = load_model(artifact.path, device)
    except OSError as error:
        raise from_system(error, "the model") from error
    return Engine(model, tokenizer, EngineSettings(slots=options.slots, weights=options.weights, threads=threads))
