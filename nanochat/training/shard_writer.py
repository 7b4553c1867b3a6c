"""Writes a rank's part of a checkpoint as a safetensors file, without copying the tensors.

`torch.distributed.checkpoint` (DCP) calls `safetensors.save`, which builds two copies of the whole file in memory and
holds the GIL meanwhile: it blocks other threads for half a second with d6. This module writes and hashes each piece
while it is in the processor's cache, without the GIL.
"""

import hashlib
import json
import os
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.checkpoint._hf_utils import CUSTOM_METADATA_KEY, DTYPE_MAP, SAVED_OFFSETS_KEY, _gen_file_name
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, WriteItem
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from nanochat.store.manifest import FileEntry

PIECE_BYTES = 1 << 20
ALIGNED_BYTES = 8
DTYPES = {dtype: name for name, dtype in DTYPE_MAP.items()}


class ShardWriter(HuggingFaceStorageWriter):
    """Writes into a folder; `files` has the entries for the manifest."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder), save_distributed=True)
        self._folder = folder
        self.files: list[FileEntry] = []

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Raises `OSError`. DCP would use the result for an index of all files, which is not needed."""
        if plan.items:
            name = _gen_file_name(1, 1, plan.storage_data["shard_index"])
            tensors = [(item, data) for item in plan.items if isinstance(data := planner.resolve_data(item), Tensor)]
            tensors.sort(key=lambda given: -given[1].itemsize)  # aligns each tensor to its elements
            self.files.append(write(self._folder / name, tensors))
        done: Future[list[WriteResult]] = Future()
        done.set_result([])
        return done


def write(path: Path, tensors: list[tuple[WriteItem, Tensor]]) -> FileEntry:
    """Writes tensors on the CPU into a safetensors file; returns its size and SHA-256."""
    digest = hashlib.sha256()
    with path.open("wb") as file:

        def put(data: memoryview | bytes) -> None:
            file.write(data)
            digest.update(data)

        put(_header(tensors))
        for _, tensor in tensors:
            data = tensor.detach().reshape(-1).view(torch.uint8).numpy().data
            for begin in range(0, len(data), PIECE_BYTES):
                put(data[begin : begin + PIECE_BYTES])
        file.flush()
        os.fsync(file.fileno())
        return FileEntry(path=path.name, size=file.tell(), sha256=digest.hexdigest())


def _header(tensors: list[tuple[WriteItem, Tensor]]) -> bytes:
    """8 bytes with the length of the rest, then JSON: dtype, shape and position of each tensor, and its offsets."""
    described: dict[str, object] = {}
    offsets: dict[str, object] = {}
    end = 0
    for item, tensor in tensors:
        begin, end = end, end + tensor.nbytes
        name = item.index.fqn
        described[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
        offsets[name] = {SAVED_OFFSETS_KEY: list(item.tensor_data.chunk.offsets) if item.tensor_data else []}
    described["__metadata__"] = {CUSTOM_METADATA_KEY: json.dumps(offsets), "format": "pt"}
    text = json.dumps(described).encode()
    text += b" " * (-len(text) % ALIGNED_BYTES)
    return len(text).to_bytes(8, "little") + text
