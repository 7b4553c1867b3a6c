"""Checkpoints of training in the store, complete or not at all.

    <checkpoints>/step-00000100-5f3a09c1/shard-00002-model-00001-of-00001.safetensors    one per rank, written first
    <checkpoints>/step-00000100-5f3a09c1/manifest.json                                   written last

Each rank saves what it alone has, and its part of the tensors that all ranks have, with
`torch.distributed.checkpoint` (DCP), which can load them on any number of ranks. The files are safetensors, so nothing
is unpickled (the default format of DCP has a pickle). Training waits for the copy to host memory; a thread of each rank
writes it to a local spool, uploads it, and writes the manifest. The name of a folder ends in the attempt that wrote it,
so that a run that has lost its lease never writes into a folder of its successor.
"""

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
from nanochat.optim.adamw import FlatShard
from nanochat.sources.retry import with_retries
from nanochat.store.manifest import FileEntry, describe_file
from nanochat.store.objects import Objects
from nanochat.store.record_format import check_format
from nanochat.system_errors import from_system

Tensors = Mapping[str, Tensor | FlatShard]
"""Name → a whole tensor, the same on all ranks that have it, or this rank's shard of one."""

MANIFEST, FORMAT = "manifest.json", 2
FOLDER = re.compile(r"step-\d+-\w+")
MAX_FAILURES = 3
"""Consecutive failed saves after which training ends, for permanent errors such as a full disk or a revoked key. An
unreachable store is a transient error and does not end training."""
TRIES = 6
"""Attempts of an upload or download, with pauses of 1, 2, 4, 8 and 16 s: a store may take half a minute to restart."""
MAX_READS = 4
"""Downloads of a file: if all of them differ, the connection to the store is broken, not the file."""
STAGE_BYTES = 256 << 20
"""Pinned memory of a rank, through which tensors of a GPU reach pageable memory: pinned memory cannot be swapped, and
that of all ranks of a node adds up."""
SLOW_SAVE_S = 300.0
"""A save that takes longer is logged, because there is no newer checkpoint until it ends."""


@dataclass(frozen=True)
class Saved:
    """The state in a checkpoint that was loaded, besides its tensors."""

    step: int
    rows_consumed: int
    numbers: dict[str, float]
    metrics: list[str]


class Checkpoints:
    """The checkpoints of one stage under a URL; with an empty URL, it saves and finds nothing.

    Collective: all ranks construct it and call `save`, `wait` and `resume` together. It keeps the `keep` newest
    checkpoints, and those whose step is a multiple of `keep_every_steps`. `about` goes into each manifest.
    """

    def __init__(
        self, url: str, spool: Path, keep: int, keep_every_steps: int = 0, about: Mapping[str, Any] | None = None
    ) -> None:
        root, _, self._prefix = url.rpartition("/")
        self._objects = Objects(root) if url else None
        self._spool, self._keep, self._keep_every = spool, keep, keep_every_steps
        self._about = dict(about or {})
        # a separate group: the collectives of the thread must not mix with those of training
        self._group: Any = dist.new_group(backend="gloo") if dist.is_initialized() else None
        self._rank = dist.get_rank() if dist.is_initialized() else 0
        self._attempt = self._all(uuid.uuid4().hex[:8])[0]
        self._mesh = DeviceMesh.from_group(self._group, "cpu") if self._group is not None else None
        self._host: dict[str, Tensor] = {}
        """Host memory of the tensors that this rank saves."""
        self._sharded: set[str] = set()
        self._stage = torch.empty(0, dtype=torch.uint8)
        self._thread: threading.Thread | None = None
        self._began, self._warned = 0.0, False
        self._error: NanochatError | None = None
        self._damaged: set[str] = set()
        """Folders found damaged while resuming; deleted when the next checkpoint is complete."""
        self._failed = 0
        self.warnings: list[str] = []
        """Checkpoints skipped and saves failed; the caller logs and clears them."""

    def busy(self) -> bool:
        """Whether the last save is still running on this rank; adds a warning once it takes `SLOW_SAVE_S`."""
        busy = self._thread is not None and self._thread.is_alive()
        if busy and not self._warned and time.monotonic() - self._began > SLOW_SAVE_S:
            self._warned = True
            self.warnings.append(f"saving a checkpoint takes more than {SLOW_SAVE_S / 60:.0f} min; training continues")
        return busy

    def save(
        self, step: int, rows_consumed: int, tensors: Tensors, numbers: Mapping[str, float], metrics: list[str]
    ) -> None:
        """Copies this rank's tensors to host memory; a thread writes and uploads them.

        Waits for the previous save. A save that fails adds a warning; the third in a row whose error is not transient
        raises its error, on all ranks.
        """
        self.wait()
        if self._objects is None:
            return
        self._copy(tensors)
        _dcp()  # not on the thread: two threads that import at the same time may get a partial module
        record = {
            "format": FORMAT, "step": step, "rows_consumed": rows_consumed, "numbers": dict(numbers),
            "metrics": metrics, **self._about,
        }  # fmt: skip
        self._began, self._warned = time.monotonic(), False
        self._thread = threading.Thread(target=self._write, args=(step, record), name="checkpoint")
        self._thread.start()

    def wait(self, *, must: bool = False) -> None:
        """Waits until the last save is in the store, or has failed; `must` raises its error at once."""
        if self._thread is None:
            return
        self._thread.join()
        self._thread = None
        if self._error is None:
            self._failed = 0
            return
        error, self._error = self._error, None
        self._failed += not error.transient
        if must or self._failed >= MAX_FAILURES:
            raise error
        self.warnings.append(f"a checkpoint could not be saved, training continues: {error}")

    def resume(self, tensors: Tensors) -> Saved | None:
        """Loads the newest complete checkpoint into this rank's tensors; None if there is none.

        Skips damaged and incomplete ones, with a warning. Raises `DamagedArtifact` when a complete one lacks a tensor,
        `NewerFormat`, and a `StoreError` when the store cannot be read.
        """
        for folder in self._all(with_retries(self._folders, tries=TRIES) if self._rank == 0 else [])[0]:
            with self._fetched(folder) as record:
                if record is None:
                    continue
                try:
                    self._read(self._load_folder(folder), tensors)
                except _dcp().CheckpointException as error:
                    if cause := _os_error(error):
                        raise from_system(cause, "a checkpoint") from error
                    raise DamagedArtifact(
                        f"The checkpoint at step {record['step']} does not fit the model: {_reasons(error)}.",
                        hint="Was it saved by other code? Delete it to start training anew.",
                    ) from error
                return Saved(record["step"], record["rows_consumed"], record["numbers"], record["metrics"])
        return None

    # --- writing ------------------------------------------------------------------------------------------------------

    def _copy(self, tensors: Tensors) -> None:
        """Copies what this rank saves to host memory, which is allocated once: fresh pages cost more than the copy."""
        mine = {name: _local(given) for name, given in self._part_of_rank(tensors).items()}
        if _shapes(self._host) != _shapes(mine):
            self._host = _on_host(mine)
        if not len(self._stage) and any(tensor.is_cuda for tensor in mine.values()):
            self._stage = torch.empty(STAGE_BYTES, dtype=torch.uint8, pin_memory=True)
        for name, tensor in mine.items():
            if tensor.is_cuda:
                copy_through(self._stage, tensor.detach(), self._host[name])
            else:
                self._host[name].copy_(tensor.detach())
        self._sharded = _sharded(tensors)

    def _part_of_rank(self, tensors: Tensors) -> Tensors:
        """What this rank saves: its shards, what not all ranks have, and its part of what they all have."""
        if self._group is None:
            return tensors
        names = self._all(list(tensors))
        everywhere = set(names[0]).intersection(*names[1:]) - _sharded(tensors)
        sizes = {name: _local(tensors[name]).nbytes for name in everywhere}
        owners, taken = dict[str, int](), [0] * len(names)
        for name in sorted(sizes, key=lambda each: (-sizes[each], each)):  # the largest first: the parts become equal
            owners[name] = taken.index(min(taken))
            taken[owners[name]] += sizes[name]
        return {name: given for name, given in tensors.items() if owners.get(name, self._rank) == self._rank}

    def _for_dcp(self, host: Mapping[str, Tensor], sharded: set[str]) -> dict[str, Any]:
        """Tensors in the form that DCP expects: a shard is a part of a `DTensor`."""
        from torch.distributed.tensor import DTensor, Shard  # noqa: PLC0415 - see `_dcp`

        return {
            name: DTensor.from_local(local, self._mesh, [Shard(0)], run_check=False) if name in sharded else local
            for name, local in host.items()
        }

    def _write(self, step: int, record: dict[str, Any]) -> None:
        assert self._objects
        folder, spool = f"{self._prefix}/step-{step:08d}-{self._attempt}", self._spool / f"save-{step:08d}"
        mine: tuple[list[dict[str, Any]], NanochatError | None]
        try:
            mine = self._upload(folder, spool), None
        except Exception as error:  # noqa: BLE001 - any error: the other ranks wait for this one
            mine = [], _nanochat_error(error)
        finally:
            shutil.rmtree(spool, ignore_errors=True)
        parts = self._all(mine)
        error = next((error for _, error in parts if error is not None), None)
        if error is None and self._rank == 0:
            record["files"] = [file for files, _ in parts for file in files]
            try:
                with_retries(lambda: self._put(folder, record), tries=TRIES)
            except Exception as failed:  # noqa: BLE001 - as above
                error = _nanochat_error(failed)
            else:
                self._prune()
        self._error = self._all(error)[0]

    def _upload(self, folder: str, spool: Path) -> list[dict[str, Any]]:
        """Writes and uploads this rank's files; returns their entries for the manifest. Collective."""
        assert self._objects
        from nanochat.training.shard_writer import ShardWriter  # noqa: PLC0415 - see `_dcp`

        objects, dcp = self._objects, _dcp()
        writer = ShardWriter(spool)
        try:
            state = self._for_dcp(self._host, self._sharded)
            dcp.save(state, storage_writer=writer, process_group=self._group, no_dist=self._group is None)
        except dcp.CheckpointException as error:
            if cause := _os_error(error):
                raise from_system(cause, f"a checkpoint in `{spool}`") from error
            raise StageFailed(f"A checkpoint cannot be written to `{spool}`: {_reasons(error)}.") from error
        for file in writer.files:
            with_retries(lambda f=file: objects.upload(spool / f.path, f"{folder}/{f.path}", share=True), tries=TRIES)
        return [file.model_dump() for file in writer.files]

    def _put(self, folder: str, record: dict[str, Any]) -> None:
        assert self._objects
        self._objects.write(f"{folder}/{MANIFEST}", json.dumps(record).encode())

    def _prune(self) -> None:
        """Deletes checkpoints that are old or damaged, and incomplete ones of this attempt.

        The manifest goes first, so that a half-deleted checkpoint is not taken for a complete one.
        """
        assert self._objects
        try:
            paths = self._listed()
            complete = [folder for folder in _complete(paths) if folder not in self._damaged]
            old = {folder for folder in complete[self._keep :] if not self._is_permanent(folder)}
            for folder in (self._damaged & paths.keys()) | old | self._incomplete(paths):
                self._objects.delete([f"{folder}/{MANIFEST}"])
                self._objects.delete(paths[folder])
        except NanochatError as error:
            self.warnings.append(f"old checkpoints could not be removed: {error}")

    def _incomplete(self, paths: Mapping[str, list[str]]) -> set[str]:
        """Folders of this attempt without a manifest, in the listing and in the store."""
        assert self._objects
        without = {folder for folder in paths if folder.endswith(f"-{self._attempt}")} - set(_complete(paths))
        return {folder for folder in without if self._objects.size(f"{folder}/{MANIFEST}") is None}

    def _is_permanent(self, folder: str) -> bool:
        return bool(self._keep_every) and _step(folder) % self._keep_every == 0

    # --- reading ------------------------------------------------------------------------------------------------------

    def _folders(self) -> list[str]:
        """The folders of complete checkpoints, newest first."""
        return _complete(self._listed())

    def _listed(self) -> dict[str, list[str]]:
        """Folder of a checkpoint → the paths of its objects in the store."""
        paths: dict[str, list[str]] = {}
        for entry in self._objects.list(self._prefix) if self._objects else []:
            folder = entry.path.rpartition("/")[0]
            if FOLDER.fullmatch(folder.rpartition("/")[2]):  # not `rendezvous.json`
                paths.setdefault(folder, []).append(entry.path)
        return paths

    def _load_folder(self, folder: str) -> Path:
        return self._spool.parent / f"load-{folder.rpartition('/')[2]}"

    @contextmanager
    def _fetched(self, folder: str) -> Iterator[dict[str, Any] | None]:
        """Downloads a checkpoint into `_load_folder`, once per node; yields its manifest, or None if it is damaged.

        If a node cannot read the store, all ranks raise its error: the checkpoint may be intact.
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
            self._all(None)  # all ranks have read it
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
            self._check_size(f"{folder}/{MANIFEST}", len(data))
            raise
        check_format(record, FORMAT, f"{folder}/{MANIFEST}")
        for file in [FileEntry.model_validate(each) for each in record["files"]]:
            reads: list[FileEntry] = []
            while file not in reads:  # a truncated download may be complete the next time
                with_retries(lambda f=file: objects.download(f"{folder}/{f.path}", local / f.path), tries=TRIES)
                reads.append(describe_file(local / file.path, file.path))
                if len(reads) > 1 and reads[-1] == reads[-2] != file:
                    self._check_size(f"{folder}/{file.path}", reads[-1].size)
                    raise ValueError(f"`{file.path}` is damaged")
                if len(reads) == MAX_READS:
                    raise DamagedResponse(f"`{folder}/{file.path}` differs in each download from the store.")
        return {name: record[name] for name in ("step", "rows_consumed", "numbers", "metrics")}

    def _check_size(self, path: str, size: int) -> None:
        """Raises `StoreUnreachable` when an object in the store has another size than the bytes it sent."""
        assert self._objects
        if self._objects.size(path) != size:
            raise StoreUnreachable(f"The store does not send all of the checkpoint's `{path}`.")

    def _read(self, folder: Path, tensors: Tensors) -> None:
        dcp, host = _dcp(), _on_host({name: _local(given) for name, given in tensors.items()})
        reader, state = dcp.HuggingFaceStorageReader(str(folder)), self._for_dcp(host, _sharded(tensors))
        dcp.load(state, storage_reader=reader, process_group=self._group, no_dist=self._group is None)
        with torch.no_grad():
            for name, given in tensors.items():
                _local(given).copy_(host[name])

    def _all(self, mine: Any) -> list[Any]:
        """All-gather: the value of each rank, by rank. Collective."""
        if self._group is None:
            return [mine]
        gathered: list[Any] = [None] * dist.get_world_size(self._group)
        dist.all_gather_object(gathered, mine, group=self._group)
        return gathered


def _dcp() -> Any:
    """`torch.distributed.checkpoint`, imported on first use: the import takes most of a second."""
    import torch.distributed.checkpoint as dcp  # noqa: PLC0415

    import nanochat.training.shard_writer  # noqa: F401, PLC0415 - it imports parts of DCP

    return dcp


def copy_through(stage: Tensor, source: Tensor, target: Tensor) -> None:
    """Copies a tensor piece by piece through `stage`, bytes that may be fewer than those of the tensor."""
    given, copy = (tensor.reshape(-1).view(torch.uint8) for tensor in (source, target))
    for start in range(0, len(copy), len(stage)):
        piece = stage[: len(copy) - start]
        piece.copy_(given[start : start + len(piece)])
        copy[start : start + len(piece)].copy_(piece)


def _on_host(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Host memory for tensors, not initialized."""
    return {
        name: torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", requires_grad=False)
        for name, tensor in tensors.items()
    }


def _sharded(tensors: Tensors) -> set[str]:
    return {name for name, given in tensors.items() if isinstance(given, FlatShard)}


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}


def _local(given: Tensor | FlatShard) -> Tensor:
    return given.tensor if isinstance(given, FlatShard) else given


def _complete(paths: Mapping[str, list[str]]) -> list[str]:
    """The folders with a manifest, newest first."""
    complete = (folder for folder, files in paths.items() if f"{folder}/{MANIFEST}" in files)
    return sorted(complete, key=_step, reverse=True)


def _step(folder: str) -> int:
    return int(folder.rpartition("/")[2].split("-")[1])


def _nanochat_error(error: Exception) -> NanochatError:
    if isinstance(error, NanochatError):
        return error
    if isinstance(error, OSError):
        return from_system(error, "a checkpoint")
    return StageFailed(f"A checkpoint could not be written: {type(error).__name__}: {_sentence(error)}.")


def _os_error(error: Any) -> OSError | None:
    """The first `OSError` of a rank, in a `CheckpointException`."""
    for cause, _stack in error.failures.values():
        while cause is not None:
            if isinstance(cause, OSError):
                return cause
            cause = cause.__cause__ or cause.__context__
    return None


def _reasons(error: Any) -> str:
    """The distinct errors of the ranks, in a `CheckpointException`."""
    return "; ".join(sorted({_sentence(cause) for cause, _stack in error.failures.values()}))


def _sentence(error: BaseException) -> str:
    """The first line of the message of an error."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
