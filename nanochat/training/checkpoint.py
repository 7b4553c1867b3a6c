"""Checkpoints: what training needs to go on, in the store, whole or not at all.

    <checkpoints>/step-00000100-5f3a09c1/shard-00002-model-00001-of-00001.safetensors    each rank its part, first
    <checkpoints>/step-00000100-5f3a09c1/manifest.json                                   last

Each rank hands in the tensors it has; `torch.distributed.checkpoint` shares among the ranks what all of them have, and
reads them back on any number of ranks, each what it asks for. The files are safetensors, so that nothing is unpickled
(its own format keeps a pickle among its files). Training waits for the copy to host memory; writing to a local spool,
uploading, and the manifest happen on a thread of each rank. A folder's name ends in the attempt that wrote it: what a
run that was overtaken still writes never mixes with what its successor writes.
"""

from __future__ import annotations

import json
import re
import shutil
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from nanochat import settings
from nanochat.errors import DamagedArtifact, DamagedResponse, NanochatError, StageFailed, StoreUnreachable
from nanochat.optim.adamw import Run
from nanochat.sources.retry import with_retries
from nanochat.store.manifest import FileEntry, describe_file
from nanochat.store.objects import Objects
from nanochat.store.record_format import check_format
from nanochat.system_errors import from_system

State = Mapping[str, Tensor | Run]
"""Name → what this rank has of it: all of it, or a run of it. What several ranks have whole is the same on all."""

MANIFEST, FORMAT = "manifest.json", 2
FOLDER = re.compile(r"step-\d+-\w+")
MOST_FAILURES = 3
"""So many saves in a row may fail before training ends, when nothing but a person can mend it: a full disk, a key that
was withdrawn. A store that is away comes back, and what ended would be lost."""
TRIES = 6
"""Of an upload or download, with pauses of 1, 2, 4, 8 and 16 seconds: a store that restarts is waited for."""

DIFFERENT_READS = 4
"""Of one file, after which the way to the store is taken for broken, and not the file."""

LATE_S = 300.0
"""A save that takes so long is said: meanwhile there is no newer checkpoint."""


@dataclass(frozen=True)
class Saved:
    """A checkpoint that was found whole, and has been read."""

    step: int
    rows_consumed: int
    numbers: dict[str, float]
    metrics: list[str]


class Checkpoints:
    """The checkpoints of one stage run, under a URL; without one, nothing is saved or found.

    All ranks make one at the same time, and call `save`, `wait` and `resume` together. `keep` newest are kept, and
    those whose step divides by `keep_every_steps`. `about` is written into each manifest.
    """

    def __init__(
        self, url: str, spool: Path, keep: int, keep_every_steps: int = 0, about: Mapping[str, Any] | None = None
    ) -> None:
        root, _, self._prefix = url.rpartition("/")
        self._objects = Objects(root) if url else None
        self._spool, self._keep, self._keep_every = spool, keep, keep_every_steps
        self._about = dict(about or {})
        # of its own: the thread's messages must not mix with those of the steps that go on meanwhile
        self._group: Any = dist.new_group(backend="gloo") if dist.is_initialized() else None
        self._rank = dist.get_rank() if dist.is_initialized() else 0
        self._attempt = self._all(uuid.uuid4().hex[:8])[0]
        self._mesh = DeviceMesh.from_group(self._group, "cpu") if self._group is not None else None
        self._host: dict[str, Tensor] = {}
        self._runs: set[str] = set()
        self._thread: threading.Thread | None = None
        self._began, self._told = 0.0, False
        self._error: NanochatError | None = None
        self._damaged: set[str] = set()
        """Folders that were read and found damaged: they are no checkpoints, and go when the next one is whole."""
        self._failed = 0
        self.warnings: list[str] = []
        """What was skipped, and what failed; who reads them takes them out."""

    def busy(self) -> bool:
        """Whether the save before is still on its way on this rank; once that takes `LATE_S`, a warning says so."""
        busy = self._thread is not None and self._thread.is_alive()
        if busy and not self._told and time.monotonic() - self._began > LATE_S:
            self._told = True
            self.warnings.append(f"a checkpoint is on its way for {LATE_S / 60:.0f} min, training goes on")
        return busy

    def save(
        self,
        step: int,
        rows_consumed: int,
        state: State,
        numbers: Mapping[str, float],
        metrics: list[str],
    ) -> None:
        """Copies this rank's tensors to host memory and returns; the rest happens on a thread.

        Waits for the save before. A save that fails is a warning; the third in a row that the store is not to blame
        for raises its error, on all ranks.
        """
        self.wait()
        if self._objects is None:
            return
        self._copy(state)
        _dcp()  # here: two threads that import at once may meet half a module
        record = {
            "format": FORMAT, "step": step, "rows_consumed": rows_consumed, "numbers": dict(numbers),
            "metrics": metrics, **self._about,
        }  # fmt: skip
        self._began, self._told = time.monotonic(), False
        self._thread = threading.Thread(target=self._write, args=(step, record), name="checkpoint")
        self._thread.start()

    def wait(self, *, must: bool = False) -> None:
        """Until the last save is in the store, or has failed; `must` raises its error at once."""
        if self._thread is None:
            return
        self._thread.join()
        self._thread = None
        if self._error is None:
            self._failed = 0
            return
        error, self._error = self._error, None
        self._failed += not error.transient
        if must or self._failed >= MOST_FAILURES:
            raise error
        self.warnings.append(f"a checkpoint could not be saved, training goes on: {error}")

    def resume(self, state: State) -> Saved | None:
        """Fills this rank's tensors from the newest whole checkpoint; None where there is none.

        Damaged and unfinished ones are skipped, and `warnings` says so. Raises `DamagedArtifact` when a whole one has
        not what is asked for, `NewerFormat`, and a `StoreError` when one cannot be read.
        """
        for folder in self._all(with_retries(self._folders, tries=TRIES) if self._rank == 0 else [])[0]:
            with self._fetched(folder) as record:
                if record is None:
                    continue
                try:
                    self._read(self._load_folder(folder), state)
                except _dcp().CheckpointException as error:
                    if met := _of_a_disk(error):
                        raise from_system(met, "a checkpoint") from error
                    raise DamagedArtifact(
                        f"The checkpoint at step {record['step']} does not fit the model: {_reasons(error)}.",
                        hint="Was it saved by other code? Delete it, and training begins anew.",
                    ) from error
                return Saved(record["step"], record["rows_consumed"], record["numbers"], record["metrics"])
        return None

    # --- writing ------------------------------------------------------------------------------------------------------

    def _copy(self, state: State) -> None:
        self._make_room(state)
        for name, given in state.items():
            tensor = _local(given)
            self._host[name].copy_(tensor.detach(), non_blocking=tensor.is_cuda)
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()

    def _make_room(self, state: State) -> None:
        """Host memory for this rank's tensors, which is kept: fresh pages cost more than the copy."""
        tensors = {name: _local(given) for name, given in state.items()}
        if _shapes(self._host) != _shapes(tensors):
            self._host = {
                name: torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda, requires_grad=False)
                for name, tensor in tensors.items()
            }
            self._runs = {name for name, given in state.items() if isinstance(given, Run)}

    def _as_saved(self) -> dict[str, Any]:
        """What lies in host memory, as `torch.distributed.checkpoint` is to see it."""
        from torch.distributed.tensor import DTensor, Shard  # noqa: PLC0415 - see `_dcp`

        return {
            name: DTensor.from_local(held, self._mesh, [Shard(0)], run_check=False) if name in self._runs else held
            for name, held in self._host.items()
        }

    def _write(self, step: int, record: dict[str, Any]) -> None:
        assert self._objects
        folder, spool = f"{self._prefix}/step-{step:08d}-{self._attempt}", self._spool / f"save-{step:08d}"
        mine: tuple[list[dict[str, Any]], NanochatError | None]
        try:
            mine = self._upload(folder, spool), None
        except Exception as error:  # noqa: BLE001 - of any kind: the other ranks wait for this one's answer
            mine = [], _as_ours(error)
        finally:
            shutil.rmtree(spool, ignore_errors=True)
        parts = self._all(mine)
        error = next((error for _, error in parts if error is not None), None)
        if error is None and self._rank == 0:
            record["files"] = [file for files, _ in parts for file in files]
            try:
                with_retries(lambda: self._put(folder, record), tries=TRIES)
            except Exception as failed:  # noqa: BLE001 - as above
                error = _as_ours(failed)
            else:
                self._prune()
        self._error = self._all(error)[0]

    def _upload(self, folder: str, spool: Path) -> list[dict[str, Any]]:
        """This rank's files, written and sent; what `manifest.json` says of them. All ranks must call."""
        assert self._objects
        from nanochat.training.shard_writer import Writer  # noqa: PLC0415 - see `_dcp`

        objects, dcp = self._objects, _dcp()
        writer = Writer(spool)
        try:
            dcp.save(self._as_saved(), storage_writer=writer, process_group=self._group, no_dist=self._group is None)
        except dcp.CheckpointException as error:
            if met := _of_a_disk(error):
                raise from_system(met, f"a checkpoint in `{spool}`") from error
            raise StageFailed(f"A checkpoint cannot be written to `{spool}`: {_reasons(error)}.") from error
        for file in writer.files:
            with_retries(lambda f=file: objects.upload(spool / f.path, f"{folder}/{f.path}", share=True), tries=TRIES)
        return [file.model_dump() for file in writer.files]

    def _put(self, folder: str, record: dict[str, Any]) -> None:
        assert self._objects
        self._objects.write(f"{folder}/{MANIFEST}", json.dumps(record).encode())

    def _prune(self) -> None:
        """Removes what is not to be kept: old ones, damaged ones, and what this attempt did not get to its end.

        The record first: a checkpoint that is being removed is not one.
        """
        assert self._objects
        try:
            paths = self._listed()
            whole = [folder for folder in _whole(paths) if folder not in self._damaged]
            old = {folder for folder in whole[self._keep :] if not self._is_kept_for_good(folder)}
            for folder in (self._damaged & paths.keys()) | old | self._failed_here(paths):
                self._objects.delete([f"{folder}/{MANIFEST}"])
                self._objects.delete(paths[folder])
        except NanochatError as error:
            self.warnings.append(f"old checkpoints could not be removed: {error}")

    def _failed_here(self, paths: Mapping[str, list[str]]) -> set[str]:
        """Folders of this attempt without a manifest: the listing shows none, and the store has none."""
        assert self._objects
        without = {folder for folder in paths if folder.endswith(f"-{self._attempt}")} - set(_whole(paths))
        return {folder for folder in without if self._objects.size(f"{folder}/{MANIFEST}") is None}

    def _is_kept_for_good(self, folder: str) -> bool:
        return bool(self._keep_every) and _step(folder) % self._keep_every == 0

    # --- reading ------------------------------------------------------------------------------------------------------

    def _folders(self) -> list[str]:
        """Those with a manifest, newest first."""
        return _whole(self._listed())

    def _listed(self) -> dict[str, list[str]]:
        """Paths in the store by their folder."""
        paths: dict[str, list[str]] = {}
        for entry in self._objects.list(self._prefix) if self._objects else []:
            folder = entry.path.rpartition("/")[0]
            if FOLDER.fullmatch(folder.rpartition("/")[2]):  # beside them is where the nodes meet
                paths.setdefault(folder, []).append(entry.path)
        return paths

    def _load_folder(self, folder: str) -> Path:
        return self._spool.parent / f"load-{folder.rpartition('/')[2]}"

    @contextmanager
    def _fetched(self, folder: str) -> Iterator[dict[str, Any] | None]:
        """Its record, while its files lie in `_load_folder`, one copy a node; None for all when it is damaged.

        When a node cannot read it, all raise the error: that says nothing about the checkpoint.
        """
        local, record, problem = self._load_folder(folder), None, None
        try:
            if settings.local_rank() == 0:
                try:
                    record = self._fetch(folder, local)
                except NanochatError as error:
                    problem = error
                except (FileNotFoundError, KeyError, ValueError, TypeError) as error:
                    problem = f"checkpoint {folder.rpartition('/')[2]} skipped: {_sentence(error)}"
                except OSError as error:  # of the local copy
                    problem = from_system(error, "a checkpoint")
            problem = next((each for each in self._all(problem) if each is not None), None)
            if isinstance(problem, NanochatError):
                raise problem
            if problem:
                self.warnings.append(problem)
                self._damaged.add(folder)
            yield None if problem else next(each for each in self._all(record) if each is not None)
            self._all(None)  # nobody reads any more
        finally:
            if settings.local_rank() == 0:
                shutil.rmtree(local, ignore_errors=True)

    def _fetch(self, folder: str, local: Path) -> dict[str, Any]:
        """Raises `ValueError` for a file that differs from the manifest and `FileNotFoundError` for a missing one.

        Raises a `StoreError` when the store does not send what it has.
        """
        assert self._objects
        objects = self._objects
        data = with_retries(lambda: objects.read(f"{folder}/{MANIFEST}"), tries=TRIES)
        try:
            record = json.loads(data)
        except ValueError:
            self._must_be_all(f"{folder}/{MANIFEST}", len(data))
            raise
        check_format(record, FORMAT, f"{folder}/{MANIFEST}")
        for file in [FileEntry.model_validate(each) for each in record["files"]]:
            came: list[FileEntry] = []
            while file not in came:  # what is torn on its way is whole the next time
                with_retries(lambda f=file: objects.download(f"{folder}/{f.path}", local / f.path), tries=TRIES)
                came.append(describe_file(local / file.path, file.path))
                if len(came) > 1 and came[-1] == came[-2] != file:
                    self._must_be_all(f"{folder}/{file.path}", came[-1].size)
                    raise ValueError(f"`{file.path}` is damaged")
                if len(came) == DIFFERENT_READS:
                    raise DamagedResponse(f"`{folder}/{file.path}` comes with other bytes each time from the store.")
        return {name: record[name] for name in ("step", "rows_consumed", "numbers", "metrics")}

    def _must_be_all(self, path: str, size: int) -> None:
        """Raises `StoreUnreachable` when the store has more, or less, of an object than it sent: that is no damage."""
        assert self._objects
        if self._objects.size(path) != size:
            raise StoreUnreachable(f"The store does not send all of the checkpoint's `{path}`.")

    def _read(self, folder: Path, state: State) -> None:
        self._make_room(state)
        dcp = _dcp()
        reader = dcp.HuggingFaceStorageReader(str(folder))
        dcp.load(self._as_saved(), storage_reader=reader, process_group=self._group, no_dist=self._group is None)
        with torch.no_grad():
            for name, given in state.items():
                _local(given).copy_(self._host[name])

    def _all(self, mine: Any) -> list[Any]:
        """What each rank says, by rank; all must call."""
        if self._group is None:
            return [mine]
        said: list[Any] = [None] * dist.get_world_size(self._group)
        dist.all_gather_object(said, mine, group=self._group)
        return said


def _dcp() -> Any:
    """`torch.distributed.checkpoint`, which takes most of a second: who neither saves nor resumes need not wait."""
    import torch.distributed.checkpoint as dcp  # noqa: PLC0415

    import nanochat.training.shard_writer  # noqa: F401, PLC0415 - which is made of it

    return dcp


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}


def _local(given: Tensor | Run) -> Tensor:
    return given.tensor if isinstance(given, Run) else given


def _whole(paths: Mapping[str, list[str]]) -> list[str]:
    """The folders with a manifest, newest first."""
    whole = (folder for folder, there in paths.items() if f"{folder}/{MANIFEST}" in there)
    return sorted(whole, key=_step, reverse=True)


def _step(folder: str) -> int:
    return int(folder.rpartition("/")[2].split("-")[1])


def _as_ours(error: Exception) -> NanochatError:
    """The error of a save, as training counts and says it."""
    if isinstance(error, NanochatError):
        return error
    if isinstance(error, OSError):
        return from_system(error, "a checkpoint")
    return StageFailed(f"A checkpoint could not be written: {type(error).__name__}: {_sentence(error)}.")


def _of_a_disk(error: Any) -> OSError | None:
    """What the file system said to a rank, behind a `CheckpointException`."""
    for met, _stack in error.failures.values():
        while met is not None:
            if isinstance(met, OSError):
                return met
            met = met.__cause__ or met.__context__
    return None


def _reasons(error: Any) -> str:
    """What the ranks met, each thing once, of a `CheckpointException`."""
    return "; ".join(sorted({_sentence(met) for met, _stack in error.failures.values()}))


def _sentence(error: BaseException) -> str:
    """The first line of what it says."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
