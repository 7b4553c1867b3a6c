"""Loads a foreign model with transformers; and the worker that describes one: `… -m nanochat.evaluation.foreign_model`.

Only the recorded files are read, after their hashes were checked: they are linked into an empty folder, so that
transformers finds neither pickled weights nor code beside them.
"""

import hashlib
import importlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from pydantic import ValidationError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from nanochat.config.foreign import ForeignModelConfig
from nanochat.errors import BadSource, DamagedArtifact, NanochatError
from nanochat.evaluation.language_model import Say
from nanochat.evaluation.transformers_model import TransformersModel, bos_token
from nanochat.sources.hub_address import parse_hub_address
from nanochat.sources.hub_errors import first_line
from nanochat.sources.local_files import is_local
from nanochat.sources.model_files import locate
from nanochat.workers.job import Job
from nanochat.workers.ranks import World, main

RECORD = "foreign.json"


def read_record(folder: Path) -> ForeignModelConfig:
    """The record in an artifact of a foreign model. Raises `DamagedArtifact`."""
    try:
        return ForeignModelConfig.model_validate(json.loads((folder / RECORD).read_text(encoding="utf-8"))["model"])
    except (OSError, ValueError, KeyError, ValidationError) as error:
        raise DamagedArtifact(f"{folder / RECORD} does not describe a foreign model.") from error


def model_name(model: ForeignModelConfig) -> str:
    """`org/name`, or the name of the folder or GGUF file."""
    if not is_local(model.source):
        repo = parse_hub_address(model.source)[0]
        return f"{repo}/{Path(model.gguf).stem}" if model.gguf else repo
    return Path(model.gguf).stem if model.gguf else Path(model.source).name


def load_foreign(
    model: ForeignModelConfig, device: torch.device | str = "cpu", say: Say = lambda message: None
) -> TransformersModel:
    """The model on a device. `say` receives what is being loaded.

    Raises `BadSource` if a file has changed, or if transformers cannot load it.
    """
    name = model_name(model)
    say(f"checking the files of {name}")
    with _linked(model) as folder:
        say(f"loading the weights of {name}")
        network: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            folder, dtype={"fp32": torch.float32, "bf16": torch.bfloat16}[model.dtype], use_safetensors=True,
            **_options(model),
        )  # fmt: skip
        say(f"loading the tokenizer of {name}")
        tokenizer = AutoTokenizer.from_pretrained(folder, **_options(model))
        moved: Any = network.to(device)  # pyright: ignore[reportArgumentType, reportCallIssue]
        return TransformersModel(moved, tokenizer, name=name, bos=model.bos)


def describe(job: Job, world: World) -> dict[str, Any]:
    """Writes the record of a foreign model, without loading its weights; returns the stage's metrics."""
    if not world.is_first:
        return {}
    model = ForeignModelConfig.model_validate(job.config)
    job.event(0, 0, "", f"reading {model_name(model)}")
    with _linked(model) as folder:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, **_options(model))
        config: Any = AutoConfig.from_pretrained(folder, **_options(model))
        with torch.device("meta"):
            network = AutoModelForCausalLM.from_config(config, trust_remote_code=model.trust_remote_code)
        text = config.get_text_config()
        bos = bos_token(tokenizer, model.bos, model_name(model))
        template = tokenizer.chat_template
        found = {
            "name": model_name(model),
            "architecture": type(network).__name__,
            "parameters": network.num_parameters(),
            "context_tokens": getattr(text, "max_position_embeddings", None),
            "vocabulary_size": text.vocab_size,
            "bos": None if bos is None else tokenizer.convert_ids_to_tokens(bos),
            "end": tokenizer.eos_token,
            "chat_template_sha256": hashlib.sha256(json.dumps(template).encode()).hexdigest() if template else None,
        }
    record = {"model": model.model_dump(mode="json"), **found}
    (Path(job.out) / RECORD).write_text(json.dumps(record, indent=1, ensure_ascii=False), encoding="utf-8")
    return found


def _options(model: ForeignModelConfig) -> dict[str, Any]:
    disable_progress_bar()
    if model.gguf:
        for package in ("gguf", "accelerate"):  # transformers imports them only then
            importlib.import_module(package)
    gguf = {"gguf_file": model.gguf} if model.gguf else {}
    return {**gguf, "trust_remote_code": model.trust_remote_code, "local_files_only": True}


@contextmanager
def _linked(model: ForeignModelConfig) -> Iterator[str]:
    """A folder with links to the files of a model, and to nothing else; errors of transformers become a `BadSource`."""
    place = locate(model)
    with TemporaryDirectory(prefix="nanochat-") as scratch:
        # transformers keeps the code of models in a cache by the name of their folder
        folder = Path(scratch, hashlib.sha256(repr(model.files).encode()).hexdigest()[:16])
        for name, _ in model.files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).symlink_to((place / name).resolve())
        try:
            yield str(folder)
        except (NanochatError, ModuleNotFoundError, MemoryError):
            raise
        except Exception as error:
            hint = "Does it load with `AutoModelForCausalLM.from_pretrained`?"
            if "trust_remote_code" in str(error):
                hint = "It comes with Python code of its own; `--set foreign.trust_remote_code=true` runs it."
            raise BadSource(f"transformers cannot load `{model.source}`: {first_line(error)}.", hint=hint) from error


if __name__ == "__main__":
    main(describe)
