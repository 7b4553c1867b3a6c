"""Loads a model for an evaluation: one that was trained here, or a foreign one."""

from pathlib import Path

import torch

from nanochat.evaluation.language_model import LanguageModel, Say
from nanochat.evaluation.own_model import OwnModel

FOREIGN_RECORD = "foreign.json"


def load_any(
    folder: Path, device: torch.device | str = "cpu", *, crop: bool = False, threads: int = 0,
    say: Say = lambda message: None,
) -> LanguageModel:  # fmt: skip
    """The model in the folder of an artifact (`Model` or `ForeignModel`).

    With `crop`, a model of ours reads no more than the rows it was trained on; a foreign one has a limit of its own.
    `say` receives what is being loaded: a large foreign model takes minutes.
    """
    if not (folder / FOREIGN_RECORD).exists():
        say("loading the model")
        return OwnModel.load(folder, device, crop=crop, threads=threads)
    from nanochat.evaluation.foreign_model import load_foreign, read_record  # noqa: PLC0415 - transformers is optional

    return load_foreign(read_record(folder), device, say)
