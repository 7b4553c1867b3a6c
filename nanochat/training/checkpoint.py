"""Checkpoints: what training needs to go on, in the store, whole or not at all.

    <checkpoints>/step-00000100/{model.safetensors, optimizer.safetensors, metrics.jsonl}      first
    <checkpoints>/step-00000100/manifest.json                                                  last

Tensors are stored by name and unsharded, as safetensors, so that any number of ranks can load them and nothing is
unpickled (torch's own distributed format keeps a pickle among its files). Training waits for the copy to host memory;
writing and uploading happen on a thread, and the next save waits for the one before.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from nanochat.errors import DamagedArtifact, NanochatError, NoSpace
from nanochat.store.manifest import describe_file
from nanochat.store.objects import Objects

MODEL, OPTIMIZER, METRICS, MANIFEST = "model.safetensors", "optimizer.safetensors", "metrics.jsonl", "manifest.json"


@dataclass(frozen=True)
class Saved:
    """A checkpoint that was found whole."""

    step: int
    rows_consumed: int
    numbers: dict[str, float]
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    metrics: list[str]


class Checkpoints:
    """The checkpoints of one stage run, under a URL; without one, nothing is saved or found."""

    def __init__(self, url: str, spool: Path, keep: int) -> None:
        root, _, key = url.rpartition("/")
        self._objects = Objects(root) if url else None
        self._prefix = key
        self._spool = spool
        self._keep = keep
        self._thread: threading.Thread | None = None
        self._error: NanochatError | OSError | None = None
        self.warnings: list[str] = []

    def save(
        self,
        step: int,
        rows_consumed: int,
        model: Mapping[str, Tensor],
        optimizer: Mapping[str, Tensor],
        numbers: Mapping[str, float],
        metrics: list[str],
    ) -> None:
        """Copies the tensors and returns; the rest happens on a thread. Raises what the save before met."""
        self.wait()
        if self._objects is None:
            return
        tensors = {
            name: {key: tensor.detach().to("cpu", copy=True).contiguous() for key, tensor in given.items()}
            for name, given in ((MODEL, model), (OPTIMIZER, optimizer))
        }
        record = {"step": step, "rows_consumed": rows_consumed, "numbers": dict(numbers)}
        self._thread = threading.Thread(target=self._write, args=(step, tensors, record, "\n".join(metrics)))
        self._thread.start()

    def wait(self) -> None:
        """Until the last save is in the store; raises what it met."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def newest(self) -> Saved | None:
        """The newest whole checkpoint; damaged and unfinished ones are skipped, and `warnings` says so."""
        if self._objects is None:
            return None
        for step in sorted(self._steps(), reverse=True):
            if (saved := self._load(step)) is not None:
                return saved
        return None

    def at(self, step: int) -> Saved:
        """The checkpoint of that step. Raises `DamagedArtifact` when it is not whole."""
        if (saved := self._load(step)) is None:
            raise DamagedArtifact(f"The checkpoint at step {step} cannot be read by every rank: {self.warnings[-1]}.")
        return saved

    # --- inside -------------------------------------------------------------------------------------------------------

    def _folder(self, step: int) -> str:
        return f"{self._prefix}/step-{step:08d}"

    def _steps(self) -> set[int]:
        assert self._objects
        paths = [entry.path.split("/") for entry in self._objects.list(self._prefix)]
        return {int(path[1].removeprefix("step-")) for path in paths if len(path) == 3 and path[2] == MANIFEST}

    def _write(self, step: int, tensors: dict[str, dict[str, Tensor]], record: dict[str, Any], metrics: str) -> None:
        assert self._objects
        spool = self._spool / f"step-{step:08d}"
        try:
            spool.mkdir(parents=True, exist_ok=True)
            for name, given in tensors.items():
                save_file(given, spool / name)
            (spool / METRICS).write_text(metrics)
            files = [describe_file(spool / name, name) for name in (MODEL, OPTIMIZER, METRICS)]
            self._remove(step)
            for file in files:
                self._objects.upload(spool / file.path, f"{self._folder(step)}/{file.path}")
            record["files"] = [file.model_dump() for file in files]
            self._objects.write(f"{self._folder(step)}/{MANIFEST}", json.dumps(record).encode())
            for old in sorted(self._steps())[: -self._keep]:
                self._remove(old)
        except (NanochatError, OSError) as error:
            self._error = error
        except SafetensorError as error:  # it wraps what the system says
            self._error = NoSpace(
                f"A checkpoint cannot be written to `{spool}`: {error}.",
                hint="Free some space, or point `NANOCHAT_HOME` at a larger disk.",
            )
        finally:
            shutil.rmtree(spool, ignore_errors=True)

    def _remove(self, step: int) -> None:
        """The record first: a checkpoint that is being removed is not one."""
        assert self._objects
        self._objects.delete([f"{self._folder(step)}/{MANIFEST}"])
        self._objects.delete([entry.path for entry in self._objects.list(self._folder(step))])

    def _load(self, step: int) -> Saved | None:
        assert self._objects
        spool = self._spool / f"load-{step:08d}"
        try:
            record = json.loads(self._objects.read(f"{self._folder(step)}/{MANIFEST}"))
            for file in record["files"]:
                self._objects.download(f"{self._folder(step)}/{file['path']}", spool / file["path"])
                if describe_file(spool / file["path"], file["path"]).model_dump() != file:
                    self.warnings.append(f"checkpoint at step {step} skipped: `{file['path']}` is damaged")
                    return None
            return Saved(
                step=record["step"],
                rows_consumed=record["rows_consumed"],
                numbers=record["numbers"],
                model=load_file(spool / MODEL),
                optimizer=load_file(spool / OPTIMIZER),
                metrics=(spool / METRICS).read_text().splitlines(),
            )
        except (FileNotFoundError, KeyError, ValueError, SafetensorError) as error:
            self.warnings.append(f"checkpoint at step {step} skipped: {error}")
            return None
        finally:
            shutil.rmtree(spool, ignore_errors=True)
