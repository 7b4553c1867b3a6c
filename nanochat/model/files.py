"""Model files: `model.safetensors` (fp32 weights by name) and `model.json` (the architecture)."""

from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from nanochat.errors import DamagedArtifact, NewerFormat, NotFound
from nanochat.model.architecture import Architecture
from nanochat.model.gpt import GPT
from nanochat.system_errors import from_system

WEIGHTS, ARCHITECTURE = "model.safetensors", "model.json"


def save_model(folder: Path, model: GPT) -> None:
    """Writes both files into the folder, and creates it."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, folder / WEIGHTS)
    (folder / ARCHITECTURE).write_text(model.architecture.model_dump_json(indent=2))


def load_architecture(folder: Path) -> Architecture:
    """Loads the architecture. Raises `NotFound`, `DamagedArtifact` or `NewerFormat`."""
    path = folder / ARCHITECTURE
    try:
        return Architecture.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NotFound(f"There is no `{ARCHITECTURE}` in {folder}.", hint="Is it the folder of a model?") from None
    except OSError as error:
        raise from_system(error, "the model") from error
    except ValidationError as error:
        unknown = [each["loc"] for each in error.errors() if each["type"] == "extra_forbidden"]
        if unknown:
            field = ".".join(map(str, unknown[0]))
            raise NewerFormat(
                f"{path} was written by a newer version: this one has no `{field}`.",
                hint="Use that version, or a later one.",
            ) from error
        raise DamagedArtifact(f"{path} does not describe a model: {error.errors()[0]['msg']}.") from error


def load_model(folder: Path, device: torch.device | str = "cpu", compute_dtype: torch.dtype = torch.float32) -> GPT:
    """Loads a model onto the device. Raises `NotFound` or `DamagedArtifact`, naming the file."""
    with torch.device("meta"):
        model = GPT(load_architecture(folder), compute_dtype)
    path = folder / WEIGHTS
    try:
        weights = load_file(path, device=str(device))
    except FileNotFoundError:
        raise NotFound(f"There is no `{WEIGHTS}` in {folder}.", hint="Is it the folder of a model?") from None
    except OSError as error:
        raise from_system(error, "the model") from error
    except SafetensorError as error:
        raise DamagedArtifact(f"{path} is not a readable safetensors file: {error}.") from error
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    found = {name: tensor.shape for name, tensor in weights.items()}
    if expected != found:
        wrong = sorted(set(expected.items()) ^ set(found.items()))[0][0]
        raise DamagedArtifact(f"`{wrong}` in {path} does not fit `{ARCHITECTURE}` beside it.")
    model.load_state_dict(weights, assign=True)
    return model.to(device) if not any(b.is_meta for b in model.buffers()) else _with_buffers(model, device)


def _with_buffers(model: GPT, device: torch.device | str) -> GPT:
    model.cos = model.sin = torch.empty(0, device=device)
    return model
