"""Loads the engine of an artifact."""

from __future__ import annotations

import torch

from nanochat import settings
from nanochat.errors import NotEnoughMemory
from nanochat.inference.engine import Engine, EngineSettings
from nanochat.inference.native_decoder import needed_bytes
from nanochat.model.files import load_architecture, load_model
from nanochat.serve.memory import available_memory_bytes
from nanochat.serve.options import ServeOptions
from nanochat.store.artifacts import Artifact
from nanochat.system_errors import from_system
from nanochat.tokenizer.bpe import Tokenizer

HINT = "Use `--weights int8` or `bf16`, or fewer `--slots`."


def load_engine(artifact: Artifact, tokenizer: Tokenizer, options: ServeOptions, number: int) -> Engine:
    """The engine of the replica with this number, counted over all models. Runs in the engine's thread.

    Replicas take turns on the GPUs; without one, they share the cores. Raises `NotEnoughMemory` before the system would
    end the server.
    """
    count = torch.cuda.device_count()
    device = torch.device("cuda", number % count) if count else torch.device("cpu")
    threads = max(1, settings.cores() // options.replicas)
    if device.type == "cpu":
        _require_memory(artifact, options)
    try:
        model = load_model(artifact.path, device)
        return Engine(model, tokenizer, EngineSettings(slots=options.slots, weights=options.weights, threads=threads))
    except OSError as error:
        raise from_system(error, "the model") from error
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise NotEnoughMemory(f"The model does not fit the memory of `{device}`.", hint=HINT) from error


def _require_memory(artifact: Artifact, options: ServeOptions) -> None:
    architecture = load_architecture(artifact.path)
    needed = needed_bytes(architecture, options.slots, architecture.sequence_len, options.weights)
    available = available_memory_bytes()
    if needed > available:
        raise NotEnoughMemory(
            f"The model needs {needed / 1e9:.1f} GB of memory, and {available / 1e9:.1f} GB are free.", hint=HINT
        )
