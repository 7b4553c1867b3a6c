"""The weights of a model under the names of transformers, without the padding rows of the vocabulary.

Reads and writes tensor by tensor, without torch: memory holds one tensor.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from safetensors import SafetensorError, safe_open

from nanochat.errors import DamagedArtifact
from nanochat.model.architecture import Architecture
from nanochat.system_errors import from_system

Dtype = Literal["fp32", "bf16"]
SAFETENSORS_DTYPE = {"fp32": "F32", "bf16": "BF16"}
BYTES = {"fp32": 4, "bf16": 2}
BLOCK = {
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.out": "self_attn.o_proj",
    "mlp.up": "mlp.up_proj",
    "mlp.down": "mlp.down_proj",
}


def renamed(architecture: Architecture) -> dict[str, str]:
    """Name of each weight in `model.safetensors` → its name in the export."""
    settings, layers = architecture.model, range(architecture.depth)
    gated = [layer for layer in layers if architecture.has_value_embedding(layer)]
    names = {"embedding.weight": "model.embed_tokens.weight", "head.weight": "lm_head.weight"}
    names |= {
        f"blocks.{layer}.{ours}.weight": f"model.layers.{layer}.{theirs}.weight"
        for layer in layers
        for ours, theirs in BLOCK.items()
    }
    for layer in gated:
        names[f"blocks.{layer}.attention.value_gate.weight"] = f"model.layers.{layer}.self_attn.value_gate.weight"
        names[f"value_embeddings.{layer}.weight"] = f"model.value_embeddings.{layer}.weight"
    if settings.residual_scalars:
        names |= {"residual_L": "model.residual_scales", "first_L": "model.embedding_scales"}
    if settings.smear:
        names |= {"smear_gate.weight": "model.smear_gate.weight", "smear": "model.smear"}
    if settings.backout:
        names["backout"] = "model.backout"
    return names


def write_weights(source: Path, target: Path, architecture: Architecture, dtype: Dtype) -> int:
    """Writes the weights of `model.safetensors` to another safetensors file; returns the number of parameters.

    Raises `DamagedArtifact` if the file cannot be read or does not fit the architecture.
    """
    names = renamed(architecture)
    try:
        with safe_open(source, framework="numpy") as weights, target.open("wb") as file:
            if set(weights.keys()) != names.keys():
                wrong = sorted(set(weights.keys()) ^ names.keys())[0]
                raise DamagedArtifact(f"`{wrong}` in {source} does not fit `model.json` beside it.")
            shapes = {name: _shape(name, weights.get_slice(name).get_shape(), architecture) for name in names}
            _write_header(file, {names[name]: shape for name, shape in shapes.items()}, dtype)
            for name, shape in shapes.items():
                tensor = weights.get_slice(name)[: shape[0]]
                file.write(np.ascontiguousarray(tensor if dtype == "fp32" else as_bf16(tensor)).data)
    except SafetensorError as error:
        raise DamagedArtifact(f"{source} is not a readable safetensors file: {error}.") from error
    except FileNotFoundError as error:
        raise from_system(error, "the model") from error
    return sum(int(np.prod(shape)) for shape in shapes.values())


def as_bf16(tensor: np.ndarray) -> np.ndarray:
    """The bits of an fp32 array in bf16, uint16: the upper half, rounded to nearest, ties to even."""
    bits = np.ascontiguousarray(tensor, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def _shape(name: str, shape: list[int], architecture: Architecture) -> list[int]:
    """The exported shape: embeddings and head lose the rows after the last id."""
    is_table = name in ("embedding.weight", "head.weight") or name.startswith("value_embeddings.")
    return [architecture.vocab_size, *shape[1:]] if is_table else shape


def _write_header(file: BinaryIO, shapes: dict[str, list[int]], dtype: Dtype) -> None:
    """The length of the header, 8 bytes; then its JSON, padded with spaces to a multiple of 8 bytes."""
    entries = dict(_entries(shapes, dtype))
    header = json.dumps({"__metadata__": {"format": "pt"}, **entries}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    file.write(len(header).to_bytes(8, "little") + header)


def _entries(shapes: dict[str, list[int]], dtype: Dtype) -> Iterator[tuple[str, dict[str, object]]]:
    start = 0
    for name, shape in shapes.items():
        end = start + BYTES[dtype] * int(np.prod(shape))
        yield name, {"dtype": SAFETENSORS_DTYPE[dtype], "shape": shape, "data_offsets": [start, end]}
        start = end
