"""A rank that saves or reads a checkpoint: `saver.py FOLDER save|resume [URL]`, alone or under torchrun."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from nanochat.optim.adamw import FlatShard
from nanochat.training.checkpoint import Checkpoints

STATES = 7


def state(rank: int, world_size: int, *, empty: bool = False) -> dict[str, torch.Tensor | FlatShard]:
    """What all ranks have, what only this one has, and what each has a run of."""
    shared = {f"model.{i}": torch.arange(6.0).view(2, 3) + i for i in range(5)} | {"model.scale": torch.tensor(3.0)}
    own = {f"optimizer.{i}": torch.full((4, 4), float(i)) for i in range(STATES) if i % world_size == rank}
    run = torch.arange(12.0).chunk(world_size)[rank].clone()
    given = {**shared, **own, "optimizer.table": run}
    if empty:
        given = {name: torch.zeros_like(tensor) for name, tensor in given.items()}
    return {
        **given,
        "optimizer.table": FlatShard(given["optimizer.table"]) if world_size > 1 else given["optimizer.table"],
    }


def equal(some: dict[str, torch.Tensor | FlatShard], others: dict[str, torch.Tensor | FlatShard]) -> bool:
    mine, theirs = ({name: _local(given) for name, given in each.items()} for each in (some, others))
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def _local(given: torch.Tensor | FlatShard) -> torch.Tensor:
    return given.tensor if isinstance(given, FlatShard) else given


def checkpoints(folder: Path, rank: int = 0, url: str = "", **kept: int) -> Checkpoints:
    """By default, those in the folder."""
    url = url or (folder / "checkpoints" / "key").as_uri()
    return Checkpoints(url, folder / f"spool-{rank}", **{"keep": 2, **kept})


def main(folder: Path, what: str, url: str = "") -> None:
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if world_size > 1:
        dist.init_process_group("gloo")
    found = checkpoints(folder, rank, url)
    if what == "save":
        for step in (1, 2):
            found.save(step, 8 * step, state(rank, world_size), {"loss": 0.5}, [f"line {step}"])
        found.wait(must=True)
    else:
        filled = state(rank, world_size, empty=True)
        saved = found.resume(filled)
        right = equal(filled, state(rank, world_size))
        (folder / f"answer-{world_size}-{rank}.json").write_text(
            json.dumps([saved and saved.step, right, found.warnings])
        )
    if world_size > 1:
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
