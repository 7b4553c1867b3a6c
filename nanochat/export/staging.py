"""Writes several files into a folder so that an interruption leaves no folder that looks whole.

    with staged(Path("my-model"), overwrite=False, last="config.json") as folder:
        (folder / "config.json").write_text(…)

The files are written to a folder inside the target, and then renamed: a program that reads the old files keeps them.
"""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nanochat.errors import BadConfig

STAGED = ".nanochat-export-"
"""Prefix of a folder in which files are written before they are renamed."""


@contextmanager
def staged(folder: Path, *, overwrite: bool, store: Path | None = None, last: str = "") -> Iterator[Path]:
    """Yields an empty folder; its files are moved to `folder` at the end, or are deleted if there is an error.

    The file `last`, without which the others are not used, is moved last, and its earlier version is deleted first.
    Raises `BadConfig` if `folder` is not a folder, is inside the folder `store`, or is not empty without `overwrite`.
    """
    _check(folder, store, overwrite=overwrite)
    is_new = not folder.is_dir()
    stage = folder / f"{STAGED}{uuid.uuid4().hex[:8]}"
    try:
        stage.mkdir(parents=True)
        yield stage
        names = sorted(path.relative_to(stage).as_posix() for path in stage.rglob("*") if path.is_file())
        if last in names:
            names.remove(last)
            names.append(last)
            with suppress(FileNotFoundError):
                (folder / last).unlink()
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (stage / name).replace(folder / name)
    except BaseException:
        if is_new:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _check(folder: Path, store: Path | None, *, overwrite: bool) -> None:
    """Refuses a folder that contains other files or is in the store; removes what killed exports left there."""
    if os.path.lexists(folder) and not folder.is_dir():
        raise BadConfig(f"`{folder}` is not a folder.", hint="Name a folder that does not exist.")
    if store and folder.resolve().is_relative_to(store.resolve()):
        raise BadConfig(f"`{folder}` is inside the store.", hint="Name a folder outside.")
    there = list(folder.iterdir()) if folder.is_dir() else []
    if not overwrite and any(not path.name.startswith(STAGED) for path in there):
        hint = "Name a folder that does not exist; `--overwrite` replaces files of the same names, and leaves others."
        raise BadConfig(f"`{folder}` is not empty.", hint=hint)
    for path in there:
        if path.name.startswith(STAGED):
            shutil.rmtree(path, ignore_errors=True)
