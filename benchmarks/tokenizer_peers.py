"""The process in which one tokenizer works for the benchmark, by one of its calls.

    python -m benchmarks.tokenizer_peers '{"task": "encode", "peer": "tiktoken", "call": "encode_ordinary_batch", …}'

The process prints a line of JSON when it is ready. Then it reads paths of Parquet files from its input, one JSON string
a line, works on each file, and prints its measurements.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import importlib.metadata
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.tokenizer_encoders import ENCODERS
from benchmarks.tokenizer_trainers import TRAINERS
from benchmarks.tokenizer_work import Peer, Work


def peers(task: str) -> dict[str, type[Peer]]:
    return ENCODERS if task == "encode" else TRAINERS


def missing(task: str, peer: str) -> str | None:
    """The package that a peer needs, if it is not installed."""
    package = peers(task)[peer].package
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return package
    return None


def reset_peak_memory() -> None:
    """Returns free memory to the system, and resets the kernel's record of this process' peak."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def memory(field: str) -> int:
    """`VmRSS` (now) or `VmHWM` (peak), in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(field))


def measure(peer: Peer, path: Path, with_memory: bool) -> dict[str, Any]:
    """Seconds, memory above the loaded text, and number and digest of the ids. Loading and conversion are not timed."""
    texts = peer.load(path)
    before = 0
    if with_memory:
        reset_peak_memory()
        before = memory("VmRSS")
    started = time.perf_counter()
    result = peer.run(texts)
    seconds = time.perf_counter() - started
    above = memory("VmHWM") - before if with_memory else 0
    ids = peer.ids(result)
    digest = None if ids is None else hashlib.sha256(ids.astype(np.uint32).tobytes()).hexdigest()
    return {"seconds": seconds, "above": above, "tokens": 0 if ids is None else len(ids), "digest": digest}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # some peers print progress
    work = Work(**json.loads(sys.argv[1]))
    peer = peers(work.task)[work.peer](work)
    importlib.import_module(peer.package)
    if work.task == "encode":
        measure(peer, Path(work.warm_up), False)  # loads what is loaded late: a hundred documents
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(measure(peer, Path(json.loads(line)), work.task == "memory")), file=answers, flush=True)


if __name__ == "__main__":
    main()
