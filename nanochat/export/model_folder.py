"""A model as a folder that transformers loads with `trust_remote_code=True`."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from nanochat.errors import DamagedArtifact
from nanochat.export.card import model_card
from nanochat.export.config_files import CONFIGURATION, MODELING, generation_config, model_config
from nanochat.export.tokenizer_files import write_tokenizer
from nanochat.export.weights import Dtype, write_weights
from nanochat.model.architecture import Architecture
from nanochat.store.artifacts import Evaluation, Model
from nanochat.tokenizer.bpe import Tokenizer


def write_model(model: Model, evaluations: Sequence[Evaluation], folder: Path, dtype: Dtype) -> int:
    """Writes weights, configs, modelling code, tokenizer and model card; returns the number of parameters.

    Raises `DamagedArtifact` if the files of the model do not fit each other.
    """
    parameters = write_network(model.path, folder, dtype)
    architecture = _architecture(model.path / "model.json")
    card = model_card(model, evaluations, architecture, dtype, parameters)
    (folder / "README.md").write_text(card, encoding="utf-8")
    return parameters


def write_network(model: Path, folder: Path, dtype: Dtype) -> int:
    """Writes all but the card; `model` is the folder of a model artifact."""
    architecture = _architecture(model / "model.json")
    tokenizer = Tokenizer.load(model / "vocabulary.json")
    parameters = write_weights(model / "model.safetensors", folder / "model.safetensors", architecture, dtype)
    for name, content in (
        ("config.json", model_config(architecture, tokenizer, dtype)),
        ("generation_config.json", generation_config(tokenizer)),
    ):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    for name in (CONFIGURATION, MODELING):
        source = Path(__file__).with_name(f"{name}.py")
        shutil.copyfile(source, folder / source.name)
    write_tokenizer(tokenizer, folder, architecture.sequence_len)
    return parameters


def _architecture(path: Path) -> Architecture:
    try:
        return Architecture.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        raise DamagedArtifact(f"{path} does not describe a model: {error.errors()[0]['msg']}.") from error
